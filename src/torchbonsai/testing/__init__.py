"""Public conformance suites, and toy networks whose numbers can be worked out by hand."""

from torchbonsai.testing.criteria import check_criterion
from torchbonsai.testing.rules import check_rule
from torchbonsai.testing.surgery import check_surgery

__all__ = ["check_criterion", "check_rule", "check_surgery"]
