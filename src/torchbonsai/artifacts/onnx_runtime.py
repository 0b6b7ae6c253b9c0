"""ONNX Runtime as a runtime to measure: the file that `bonsai export --onnx` writes, on the CPU."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from torchbonsai.artifacts.forms import capture, need, open_session, to_onnx, with_plain_outputs
from torchbonsai.artifacts.inputs import describe, random_example
from torchbonsai.core.errors import ConfigError, message
from torchbonsai.cost.layer import Layer
from torchbonsai.cost.runtime import Run, Target, check_one
from torchbonsai.graph.forward import as_examples, copy_module, unwrap

_CAPTURED = 2  # torch.export takes a batch of one for a constant
_RUNS = 5


class OnnxRuntime:
    """Any batch size from one export; threads are the session's own."""

    name = "onnxruntime"

    def __init__(self) -> None:
        """Raises ArtifactError, with the install line, where a package is missing."""
        need("onnx")

    def load(self, model: nn.Module, example_inputs: Any, target: Target) -> _File:
        """Export a copy. Raises ArtifactError where the forward cannot be exported for any batch size."""
        _check(target)
        check_one(example_inputs)
        copy = with_plain_outputs(copy_module(unwrap(model), {}).eval().cpu())
        program = capture(copy, random_example(describe(example_inputs), batch=_CAPTURED), _CAPTURED)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            to_onnx(program, path)
            return _File(path.read_bytes())

    def layer(self, layer: Layer, inputs: int, outputs: int, target: Target, threads: int) -> Callable[[], float]:
        """One node. The seconds are those of the node alone, by ONNX Runtime's profiler: inside a network nobody pays
        for the change to its blocked layout and back, which a network of one layer does."""
        _check(target)
        if layer.dtype != "float32":
            raise ConfigError(
                message(
                    "layers are timed under ONNX Runtime in float32",
                    layer.dtype,
                    "a network in half precision",
                    "prune it in float32, and convert what is left",
                )
            )
        raw, shape = _one_node(layer, inputs, outputs)
        feed = {"x": np.zeros(shape, dtype=np.float32)}

        def seconds() -> float:
            with tempfile.TemporaryDirectory() as folder:
                session = open_session(raw, threads, str(Path(folder) / "profile"))
                for _ in range(_RUNS):
                    session.run(None, feed)
                events = json.loads(Path(session.end_profiling()).read_text())
            return _node_seconds(events)

        return seconds

    def versions(self) -> dict[str, str]:
        """Of what writes and of what runs the file."""
        return {name: version(name) for name in ("torch", "onnxscript", "onnxruntime")}


@dataclass(frozen=True, eq=False)
class _File:
    raw: bytes

    def bind(self, example_inputs: Any, threads: int) -> Run:
        """A session of its own."""
        session = open_session(self.raw, threads)
        names = [entry.name for entry in session.get_inputs()]
        args, kwargs = as_examples(example_inputs)[0]
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        feed = {name: tensor.detach().cpu().numpy() for name, tensor in zip(names, given, strict=True)}
        return lambda: [torch.from_numpy(array) for array in session.run(None, feed)]


def _check(target: Target) -> None:
    if target.device != "cpu" or target.layout != "contiguous":
        raise ConfigError(
            message(
                "ONNX Runtime is measured on the CPU, and chooses the layout itself",
                str(target),
                "a device or layout of PyTorch's",
                'write "cpu:onnxruntime"',
            )
        )


def _one_node(layer: Layer, inputs: int, outputs: int) -> tuple[bytes, tuple[int, ...]]:
    """(an ONNX model with one contraction, the shape of its input); weights are zeros, which no kernel looks at."""
    import onnx
    from onnx import TensorProto, helper

    with torch.device("meta"):
        module, shape = layer.build(inputs, outputs)
    weights = [
        onnx.numpy_helper.from_array(np.zeros(tuple(p.shape), np.float32), name)
        for name, p in module.named_parameters()
    ]
    if layer.kind == "linear":
        node = helper.make_node("Gemm", ["x", "weight", "bias"], ["y"], transB=1)
    else:
        extra: dict[str, Any] = {"output_padding": layer.output_padding} if layer.transposed else {}
        op = "ConvTranspose" if layer.transposed else "Conv"
        node = helper.make_node(
            op, ["x", "weight", "bias"], ["y"], group=layer.groups or inputs, strides=layer.stride,
            pads=[*layer.padding, *layer.padding], dilations=layer.dilation, **extra,
        )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return made.SerializeToString(), shape


def _node_seconds(events: list[dict[str, Any]]) -> float:
    """The quickest of the runs, the first left out, of the one node that computes."""
    times = [
        event["dur"] / 1e6
        for event in events
        if event.get("cat") == "Node"
        and event["name"].endswith("_kernel_time")
        and event["args"]["op_name"] in ("Conv", "ConvTranspose", "Gemm", "FusedConv", "FusedGemm", "MatMul")
    ]
    return min(times[1:])
