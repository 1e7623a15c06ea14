"""The target ``openvino``: the network as a model of OpenVINO, its binary layers as xnor and popcount."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import ConfigError, ExportError
from ..source import Source
from ..text import core_reason, quiet, shape_text
from ..verify import Comparison, Run, check_batches, compare, reference_run, require_equal
from .model import build

MODULES = ("openvino",)
"""What must be importable."""

PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}
"""The configuration that a file is verified under: where the processor has bfloat16, the runtime's default is that."""


def write(source: Source, path: Path, *, batch: int = 1) -> Comparison:
    """Write a network to ``path`` (``.xml``) and its weights beside it (``.bin``), and compare the files with torch.

    Layers that read ±1 and have ternary weights are binary convolutions, other ternary weights are stored in 8
    bits. Input ``input`` and output ``output`` have a fixed batch size, ``batch``, since the binary kernels know
    no other; ``openvino.Model.reshape`` gives the model that was read another one. A network with binary
    activations is compared with torch in float64, where sums of ± one gain are exact. Raises ConfigError for a batch
    below 1, and ExportError for a path without ``.xml``, if a layer is none of a graph's, or if the outputs differ.
    """
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise ConfigError(f"batch is {batch!r}; expected a whole number of at least 1")
    if path.suffix != ".xml":
        raise ExportError(f"{path.name} does not end in .xml; OpenVINO writes NAME.xml, and NAME.bin beside it")
    example, graph = source.require_example("openvino").float(), source.require_graph()
    import openvino

    try:
        with quiet():
            openvino.save_model(build(graph, batch), path, compress_to_fp16=False)
    except RuntimeError as error:
        raise ExportError(f"OpenVINO cannot express this network: {core_reason(error)}") from error
    binary_activations = bool(source.ticket.binary.activations)
    reference = reference_run(source.reference, binary_activations=binary_activations)
    comparison = compare(reference, _runtime(path), check_batches(example))
    require_equal(comparison, binary_activations=binary_activations)
    return comparison


def _runtime(path: Path) -> Run:
    """Return a run of the files on the CPU, in one thread so that it adds in a fixed order."""
    compiled = cache(partial(_compile, path))

    def run(batch: Tensor) -> list[Tensor]:
        try:
            request = compiled(tuple(batch.shape)).create_infer_request()
            # Copied on the way in and out: both sides would share memory else.
            outputs = request.infer([batch.numpy()], share_inputs=False, share_outputs=False)
            return [torch.from_numpy(outputs[0])]
        except RuntimeError as error:
            raise ExportError(
                f"OpenVINO cannot run the exported network on inputs of shape {shape_text(batch.shape)}: "
                f"{core_reason(error)}"
            ) from error

    return run


@cache
def core() -> Any:
    """Return OpenVINO's core, one for the process.

    Each of them gives the thread another stack for signal handlers, and puts the one before it back when it ends: of
    two, in the wrong order, the thread is left with memory that is gone, and dies of its next signal.
    """
    import openvino

    return openvino.Core()


def _compile(path: Path, shape: tuple[int, ...]) -> Any:
    model = core().read_model(path)
    if tuple(model.input().shape) != shape:
        model.reshape(list(shape))
    # Without streams it runs in this thread, not in one that is bound to a core, which may have other work.
    return core().compile_model(model, "CPU", {**PRECISION, "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 0})
