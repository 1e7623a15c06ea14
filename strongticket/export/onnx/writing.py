"""The target ``onnx``: the network as an ONNX graph with a free batch dimension, checked in onnxruntime."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ...errors import ExportError
from ..source import Source
from ..text import core_reason, quiet
from ..trace import trace
from ..verify import Comparison, Run, check_batches, compare, require_equal, run_torch
from .packing import check_weights, pack, require_ternary

MODULES = ("onnx", "onnxscript", "onnxruntime")
"""What must be importable."""

OPSET = 18
"""The operator set torch writes without converting; every onnxruntime since 1.14 reads it."""


def write(source: Source, path: Path, *, weights: str = "float") -> Comparison:
    """Write a network to ``path`` as ONNX and compare it with torch on random and example inputs.

    The input is called ``input``, the outputs ``output`` or ``output_0``, ``output_1``, …; their first
    dimension is free. Half-precision weights are written in float32, which holds them exactly. With ``weights``
    ``"int8"`` or ``"int2"`` the ternary ones are stored in 8 or 2 bits a value, with a scale a channel, for
    DequantizeLinear (the latter in operator set 25). Weights too large for one file of this format lie in
    ``PATH.data``. Raises ConfigError for other ``weights``, and ExportError if a masked weight is not ternary where
    that was asked for, if torch or onnxruntime cannot express a layer, or if the outputs differ.
    """
    check_weights(weights)
    plain, reference, example = source.plain, source.reference, source.require_example("onnx")
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in reference.parameters()):
        plain, reference = copy.deepcopy(plain).float(), copy.deepcopy(reference).float()
        example = example.float() if example.is_floating_point() else example
    if weights != "float":
        state = reference.state_dict()
        require_ternary(((name, state[name]) for name in source.ticket.masks), weights)
    count = len(run_torch(plain, example))
    batch = example if len(example) > 1 else torch.cat([example, example])
    try:
        # Traced here, because torch.onnx of some versions turns to a tracer that drops branches in silence.
        traced = trace(plain, example)
        with quiet(), torch.no_grad():
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
    if weights != "float":
        _pack(path, weights)
    comparison = compare(partial(run_torch, reference), _onnxruntime(path), check_batches(example))
    require_equal(comparison, binary_activations=bool(source.ticket.binary.activations))
    return comparison


def _pack(path: Path, weights: str) -> None:
    """Store the ternary weights of an ONNX file in fewer bits."""
    import onnx

    model = pack(onnx.load(path), weights)
    beside = path.with_name(f"{path.name}.data")  # where the weights of a large network lie
    beside.unlink(missing_ok=True)
    large = model.ByteSize() > onnx.checker.MAXIMUM_PROTOBUF
    onnx.save(model, path, save_as_external_data=large, location=beside.name)
    onnx.checker.check_model(path)


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
