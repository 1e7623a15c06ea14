"""The target ``onnx``: the network as an ONNX graph with a free batch dimension, checked in onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import ExportError
from ..ticket import Ticket
from .text import core_reason, quiet
from .verify import Comparison, Run, check_batches, compare, require_equal, run_torch

MODULES = ("onnx", "onnxscript", "onnxruntime")
"""What must be importable."""

OPSET = 18
"""The operator set torch writes without converting; every onnxruntime since 1.14 reads it."""


def write(plain: nn.Module, path: Path, *, ticket: Ticket, example: Tensor | None) -> Comparison:
    """Write a baked network to ``path`` as ONNX and compare it with torch on random and example inputs.

    The input is called ``input``, the outputs ``output`` or ``output_0``, ``output_1``, …; their first
    dimension is free. Half-precision weights are written in float32, which holds them exactly; ``plain``
    is converted for that. Weights too large for one file of this format lie in ``PATH.data``. Raises
    ExportError if torch or onnxruntime cannot express a layer, or if the outputs differ.
    """
    if example is None:
        raise ExportError("the onnx target needs an example batch of inputs; pass example=batch")
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in plain.parameters()):
        plain = plain.float()
        example = example.float() if example.is_floating_point() else example
    count = len(run_torch(plain, example))
    # torch takes a dimension of size 1 for a constant.
    batch = example if len(example) > 1 else torch.cat([example, example])
    try:
        with quiet(), torch.no_grad(), _plain_attention():
            # Traced here, because torch.onnx of some versions turns to a tracer that drops branches in silence.
            traced = torch.export.export(plain, (batch,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False)
            program = torch.onnx.export(
                traced,
                (batch,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["input"],
                output_names=["output"] if count == 1 else [f"output_{i}" for i in range(count)],
                dynamic_shapes=({0: "batch"},),
                verbose=False,
            )
    except Exception as error:  # torch.export raises whatever its tracer met
        raise ExportError(f"torch cannot express this network in ONNX: {core_reason(error)}") from error
    if program is None:
        raise ExportError("torch cannot express this network in ONNX: its exporter returned nothing")
    with quiet():
        program.save(path)
    comparison = compare(partial(run_torch, plain), _onnxruntime(path), check_batches(example))
    require_equal(comparison, binary_activations=bool(ticket.binary.activations))
    return comparison


def _onnxruntime(path: Path) -> Run:
    """Return a run of the file on the CPU, in one thread so that it adds in a fixed order."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common class
        raise ExportError(f"onnxruntime cannot read the exported network: {core_reason(error)}") from error
    name = session.get_inputs()[0].name

    def run(batch: Tensor) -> list[Tensor]:
        try:
            return [torch.as_tensor(output) for output in session.run(None, {name: batch.numpy()})]
        except Exception as error:
            raise ExportError(
                f"onnxruntime cannot run the exported network on a batch of {len(batch)}: {core_reason(error)}"
            ) from error

    return run


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Let attention be computed by ordinary operators; its fused kernels have no ONNX counterpart."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
