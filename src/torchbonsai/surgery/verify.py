"""Numeric verification: does the small network equal the large one with the removed channels masked?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from torchbonsai.core.errors import PlanError, VerificationError, message
from torchbonsai.graph.call import flat_tensors, map_tensors, tensors_within
from torchbonsai.graph.channel_graph import Bools, ChannelGraph
from torchbonsai.graph.forward import Example, alias_copy, as_examples, draw_alike, undisturbed
from torchbonsai.graph.outputs import kept_positions, narrowed
from torchbonsai.graph.rules.per_channel import BATCH_NORMS
from torchbonsai.graph.trace import named_tensors
from torchbonsai.surgery.apply import apply
from torchbonsai.surgery.fold import Fold
from torchbonsai.surgery.gates import GateSites, run_gated, sites_of_pass
from torchbonsai.surgery.held import Held
from torchbonsai.surgery.plan import PruningPlan

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
LOOSEST = {torch.float64: 1e-6, torch.float32: 1e-3}
"""The tolerance on statistics made for the comparison, where a network magnifies rounding; see `_rounding`."""


@dataclass(frozen=True)
class Verification:
    """On the example inputs, in eval mode, with the given weights and with constant ones randomised.

    max_rel_error: the larger of max|small - masked| / max|masked|, None if not compared. reason: why not exact.
    exact means no inexact op, and an error below 1e-9 (1e-4 in float32); on the randomised constants alone, where the
    network magnifies rounding, below ten times what the last bit of inputs and weights changes there, and never above
    1e-6 (1e-3). rounding: that change, where it was needed to call an error exact; else None.
    outputs: what of the outputs was compared. removed: what the removed channels are in the large network: zero
    wherever a contraction reads them, or held at the constants that were folded.
    """

    exact: bool
    max_rel_error: float | None
    reason: str
    dtype: str = ""
    outputs: Literal["whole", "kept channels"] = "whole"
    removed: Literal["masked", "held"] = "masked"
    rounding: float | None = None

    def __str__(self) -> str:
        if self.max_rel_error is None:
            return f"not verified: {self.reason}"
        large = "the masked network"
        if self.removed == "held":
            large = "the large network with removed channels held at the folded constants"
        said = f"equals {large}" if self.exact else f"differs from {large} ({self.reason})"
        where = f"on the example inputs, eval mode, {self.dtype}"
        where += ", of the outputs the kept channels" if self.outputs != "whole" else ""
        if self.rounding is not None:
            where += f"; on randomised constants the last bit changes the outputs by {self.rounding:.1e}"
        return f"{said}, relative error {self.max_rel_error:.1e} ({where})"


@dataclass(frozen=True)
class _Found:
    """The largest error, and the error below which the networks count as equal; by what rounding, if that decided."""

    error: float
    allowed: float
    rounding: float | None = None


@dataclass(frozen=True, eq=False)
class _Case:
    """What is compared: `small`, made of `model` by `plan`, with `model` without the atoms that `kept` drops."""

    graph: ChannelGraph
    plan: PruningPlan
    kept: Bools
    model: nn.Module
    small: nn.Module
    examples: list[Example]


NOT_COMPARED = Verification(False, None, "not compared")


def verify(
    graph: ChannelGraph, plan: PruningPlan, kept: Bools, model: nn.Module, small: nn.Module, example_inputs: Any
) -> Verification:
    """Compare `small` with `model` under gates of zero for the atoms that `kept` (n_atoms,) drops.

    Where the plan folds, the removed inputs of the contractions concerned are its constants instead of zero. With the
    constants in the zero padding too, both must be equal; without, the difference is told, with the weights as given.
    Raises VerificationError where they differ and no inexact op explains it.
    """
    case = _Case(graph, plan, kept, model, small, as_examples(example_inputs))
    found: _Found | None = None
    dtype, why = torch.float64, ""
    for dtype in (torch.float64, torch.float32):
        try:
            found = _error_by_hollow_sites(case, dtype)
            if found is None or (not found.error < found.allowed and not plan.inexact):
                found = _largest_error(case, dtype, hollow=False)
            break
        except (RuntimeError, TypeError, NotImplementedError) as problem:
            why = f"{type(problem).__name__}: {str(problem).splitlines()[0]}"
    else:
        return Verification(False, None, f"the forward runs in neither float64 nor float32 ({why})")
    assert found is not None
    error, name = found.error, str(dtype).removeprefix("torch.")
    compared: Literal["whole", "kept channels"] = "kept channels" if plan.outputs else "whole"
    removed: Literal["masked", "held"] = "held" if plan.folds else "masked"
    if plan.inexact:
        reasons = "; ".join(dict.fromkeys(i.reason for i in plan.inexact))
        return Verification(False, error, f"undefined by nature: {reasons}", name, compared, removed)
    if not error < found.allowed:
        raise VerificationError(
            message(
                "The small network must equal the masked large one.",
                f"relative error {error:.2e} in {name}, above {found.allowed:.0e}",
                "an op's rule is wrong for this model, or the forward is not deterministic",
                "pass ignore= for the part concerned and report the model; the given model is untouched",
            )
        )
    padded = [f.weight for f in plan.folds if f.padded and bool(f.values.any())]
    if padded:
        error = max(error, _border_error(case, dtype))
        reason = f"a bias holds for the inside, and {_some(padded)} pad with zeros: less reaches the border"
        return Verification(False, error, reason, name, compared, removed, found.rounding)
    return Verification(True, error, "", name, compared, removed, found.rounding)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _error_by_hollow_sites(case: _Case, dtype: torch.dtype) -> _Found | None:
    """The error with gates where a pass without values has them; None where a pass on values takes other kernels."""
    try:
        return _largest_error(case, dtype, hollow=True)
    except PlanError:
        return None


def _largest_error(case: _Case, dtype: torch.dtype, hollow: bool) -> _Found:
    worst, allowed = 0.0, TOLERANCE[dtype]
    with undisturbed(case.model):
        large = alias_copy(case.model).to(dtype).eval()
        tiny = unrounded(case.plan, large, alias_copy(case.small).to(dtype).eval(), case.small)
        cast: list[Example] = [_cast(example, dtype) for example in case.examples]
        sites = [
            _Removed(sites_of_pass(case.graph, large, example, hollow), case.kept, case.plan.folds) for example in cast
        ]
        for example, places in zip(cast, sites, strict=True):
            worst = max(worst, _difference(_masked(places, large, example), _plain(tiny, example)))
        if not worst < allowed and not case.plan.inexact:
            return _Found(worst, allowed)
        randomise_constants(case.graph, large)
        masked = _calibrated(sites[0], large, cast[0])
        tiny = apply(case.plan, large)
        for number, (example, places) in enumerate(zip(cast, sites, strict=True)):
            if masked is None or number > 0:
                masked = _masked(places, large, example)
            worst = max(worst, _difference(masked, _plain(tiny, example)))
        if worst < allowed or case.plan.inexact:
            return _Found(worst, allowed)
        rounding = _rounding(tiny, cast, dtype)
    return _Found(worst, max(allowed, min(LOOSEST[dtype], 10 * rounding)), rounding)


def _rounding(model: nn.Module, examples: list[Example], dtype: torch.dtype) -> float:
    """How much the outputs change with the last bit of inputs and weights.

    Deep norms with the statistics of one small image divide by what is hardly there, layer after layer: on these, a
    network may tell no more digits, whatever is right or wrong with it.
    """
    generator = torch.Generator().manual_seed(0)

    def shaken(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor
        signs = torch.randint(0, 2, tensor.shape, generator=generator).to(tensor) * 2 - 1
        return tensor.detach() * (1 + signs * torch.finfo(dtype).eps)

    copy = alias_copy(model)
    for _, tensor in named_tensors(copy):
        tensor.data = shaken(tensor)
    return max(_difference(_plain(model, e), _plain(copy, map_tensors(shaken, e))) for e in examples)


def _border_error(case: _Case, dtype: torch.dtype) -> float:
    """What the zero padding of contractions that folded makes of the outputs, with the weights as given."""
    worst = 0.0
    with undisturbed(case.model):
        large = alias_copy(case.model).to(dtype).eval()
        tiny = unrounded(case.plan, large, alias_copy(case.small).to(dtype).eval(), case.small)
        for example in (_cast(e, dtype) for e in case.examples):
            places = _Removed(sites_of_pass(case.graph, large, example), case.kept, case.plan.folds, border=False)
            worst = max(worst, _difference(_masked(places, large, example), _plain(tiny, example)))
    return worst


@dataclass(frozen=True, eq=False)
class _Removed:
    """What becomes, in the large network, of the atoms that `kept` (n_atoms,) drops. border: see `Held`."""

    sites: GateSites
    kept: Bools
    folds: tuple[Fold, ...]
    border: bool = True

    def run(self, large: nn.Module, example: Example) -> Any:
        """The outputs. A weight of a fold is not gated: its removed inputs are constants."""
        g = torch.from_numpy(self.kept).to(next(iter(flat_tensors([*example[0], example[1]]))).device, torch.float64)
        if not self.folds:
            return run_gated(self.sites, large, example, g)
        held = {f.weight for f in self.folds}
        sites = replace(self.sites, weights={n: w for n, w in self.sites.weights.items() if n not in held})
        with Held(large, self.folds, self.border):
            return run_gated(sites, large, example, g)


def unrounded(plan: PruningPlan, large: nn.Module, tiny: nn.Module, small: nn.Module) -> nn.Module:
    """Rescaled rows and folded biases of `small` are rounded; where that is all, `tiny` gets them whole.

    Numbers too small for their dtype's full precision are rounded to its least step.
    """
    names = {*(s.name for s in plan.scales), *(f.name for f in plan.folds)}
    if not names:
        return tiny
    wanted, own = (dict(named_tensors(m)) for m in (apply(plan, large), small))
    for name, tensor in named_tensors(tiny):
        if name not in names:
            continue
        form = torch.finfo(own[name].dtype)
        if torch.allclose(tensor, wanted[name], 4 * form.eps, form.smallest_normal * form.eps):
            tensor.data = wanted[name].detach()
    return tiny


def _masked(removed: _Removed, large: nn.Module, example: Example) -> Any:
    """What stays of the large network's outputs, masked; of a copy: a forward may keep what it computed."""
    return _gated(removed, alias_copy(large), example)


def _gated(removed: _Removed, large: nn.Module, example: Example) -> Any:
    draw_alike()
    masked = removed.run(large, _own(example))
    positions = [kept_positions(output, removed.kept) for output in removed.sites.outputs]
    return narrowed(tensors_within(masked), positions)


def _plain(model: nn.Module, example: Example) -> Any:
    args, kwargs = _own(example)
    draw_alike()
    return alias_copy(model)(*args, **kwargs)


def _difference(masked: Any, out: Any) -> float:
    worst = 0.0
    for a, b in zip(tensors_within(masked), tensors_within(out), strict=True):
        if a.shape != b.shape:
            return float("inf")
        if a.is_complex() and b.is_complex():
            a, b = torch.view_as_real(a), torch.view_as_real(b)
        if not a.is_floating_point():
            if not torch.equal(a, b):
                return float("inf")
            continue
        if not a.numel():
            continue
        if not torch.equal(torch.isfinite(a), torch.isfinite(b)):
            return float("inf")
        a, b = (torch.nan_to_num(t, 0.0, 0.0, 0.0) for t in (a, b))
        scale = a.abs().max().item() or 1.0
        worst = max(worst, (a - b).abs().max().item() / scale)
    return worst


def same_outputs(model: nn.Module, small: nn.Module, example_inputs: Any) -> bool:
    """Do both give the same outputs on the examples, in eval mode and float64, with the weights as given?"""
    with undisturbed(model):
        large, tiny = (alias_copy(m).to(torch.float64).eval() for m in (model, small))
        for args, kwargs in (_cast(e, torch.float64) for e in as_examples(example_inputs)):
            if not _difference(large(*_own(args), **_own(kwargs)), tiny(*_own(args), **_own(kwargs))) < 1e-9:
                return False
    return True


class _Calibrate(TorchDispatchMode):
    """Every batch norm of the pass takes the statistics of what it sees, where that varies.

    Statistics that are no buffer of the model, but made in the forward, stay. again: some were taken twice, so that
    the pass has not seen the last of them everywhere.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.buffers = {b.data_ptr() for b in model.buffers()}
        self.seen: set[int] = set()
        self.again = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().split(".")[0] in BATCH_NORMS and args[3] is not None and args[0].dim() > 1:
            places = {args[3].data_ptr(), args[4].data_ptr()}
            if places <= self.buffers:
                self.again = self.again or not self.seen.isdisjoint(places)
                self.seen |= places
                _take(args[0], args[3], args[4])
        return func(*args, **(kwargs or {}))


def _take(x: torch.Tensor, running_mean: torch.Tensor, running_var: torch.Tensor) -> None:
    variance, mean = torch.var_mean(x, [d for d in range(x.dim()) if d != 1], correction=0)
    varies = variance > 1e-12 * (1 + variance + mean.square())
    running_mean.copy_(torch.where(varies, mean, running_mean))
    running_var.copy_(torch.where(varies, variance, running_var))


def _calibrated(removed: _Removed, large: nn.Module, example: Example) -> Any:
    """Keep signals alive: with statistics that do not fit, a deep network's outputs forget its first layers.

    Returns the masked outputs; None where another pass would give others.
    """
    copy = alias_copy(large)
    with _Calibrate(copy) as mode:
        out = _gated(removed, copy, example)
    for mine, theirs in zip(large.buffers(), copy.buffers(), strict=True):
        if theirs.data_ptr() in mode.seen:
            mine.copy_(theirs)
    return None if mode.again else out


def _own(value: Any) -> Any:
    return map_tensors(torch.Tensor.clone, value)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Floating tensors as `dtype`, detached; everything else as it is."""
    return map_tensors(lambda t: t.detach().to(dtype) if t.is_floating_point() else t.detach(), value)


def randomise_constants(graph: ChannelGraph, model: nn.Module) -> None:
    """New values for parameters and statistics that are constant, so that no branch hides behind gamma = 0.

    Statistics are the buffers that a per-channel norm reads; other buffers may be tables and stay. Values stay of the
    same kind: positive around one where the constant was positive, small and of both signs around zero.
    """
    statistics = {
        s.leaf
        for log in graph.evidence.logs
        for record in log.records
        if record.kind == "per_channel"
        for s in record.inputs
        if s.leaf is not None
    }
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in named_tensors(model):
            if not tensor.is_floating_point() or tensor.numel() < 2:
                continue
            if name not in graph.parameters and name not in statistics:
                continue
            value = tensor.flatten()[0].item()
            if not bool((tensor == value).all()):
                continue
            noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
            tensor.data = noise * 0.5 + 0.75 if value > 0 or (value and name not in graph.parameters) else noise - 0.5
