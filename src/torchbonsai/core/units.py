"""Units in names: `macs`, `params`, `latency_ms`, `peak_bytes`. One multiply-add is one MAC."""

from __future__ import annotations

MACS_CONVENTION = "one multiply-add is one MAC; flops = 2 * macs; convolutions and matrix products are counted"


def human(count: float) -> str:
    """A count with a metric prefix and three significant digits.

    >>> human(125_485_696)
    '125 M'
    >>> human(853_018)
    '853 k'
    >>> human(12)
    '12'
    """
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= limit:
            return f"{count / limit:.3g} {suffix}" if abs(count) < 999.5 * limit else f"{count / limit:.0f} {suffix}"
    return f"{count:.3g}" if isinstance(count, float) else str(count)
