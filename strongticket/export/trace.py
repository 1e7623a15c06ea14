"""A network as a graph of torch's own operators, with a free batch dimension: what ``onnx`` and ``pt2`` are made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from .text import quiet


def trace(plain: nn.Module, batch: Tensor) -> ExportedProgram:
    """Return the program of a network for batches of any size, without the batch and without paths of this machine.

    Raises whatever torch's tracer meets in a network that no graph can express.
    """
    if len(batch) == 1:  # torch takes a dimension of size 1 for a constant
        batch = torch.cat([batch, batch])
    with quiet(), torch.no_grad(), _plain_attention():
        program = torch.export.export(plain, (batch,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), strict=False)
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):  # branches of a condition are graphs of their own
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    program.example_inputs = None
    return program


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Let attention be computed by ordinary operators; its fused kernels have no counterpart elsewhere."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
