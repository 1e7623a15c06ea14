"""What a target writes: the network of a ticket, in every form that a writer may read."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..errors import ExportError
from ..ticket import Ticket
from .graph import OTHER_TARGETS, Census, Graph, as_module, compact, count, read_graph
from .text import core_reason
from .verify import RELATIVE_TOLERANCE, compare, run_torch

_CHECKED = 2
"""How many random inputs, and how many real ones, tell whether a graph computes what its network does.

The file is checked on more.
"""


@dataclass(frozen=True)
class Source:
    """A network to write. No writer changes it.

    ``reference`` is the baked network in evaluation mode on the CPU: what a file has to compute. ``plain`` is the
    module to write: one without the edges and channels that cannot matter where there are such, else ``reference``
    itself. ``graph`` is what is left as a list of operations, in float32 where the network is of half precision;
    where no graph can express the network it is None, and ``reason`` says which layer is why. ``census`` counts what
    was left. ``example`` is a batch of inputs, in the dtype of the network.
    """

    plain: nn.Module
    reference: nn.Module
    ticket: Ticket
    example: Tensor | None = None
    graph: Graph | None = None
    reason: str = ""
    census: Census | None = None

    def require_graph(self) -> Graph:
        """Return the graph; ExportError with the layer that is why if there is none."""
        if self.graph is None:
            raise ExportError(self.reason)
        return self.graph

    def require_example(self, to: str) -> Tensor:
        """Return the example; ExportError if none was given to the target ``to``."""
        if self.example is None:
            raise ExportError(f"the {to} target needs an example batch of inputs; pass example=batch")
        return self.example


def source_of(reference: nn.Module, ticket: Ticket, example: Tensor | None) -> Source:
    """Return a baked network in every form: as it is, and without what cannot matter if a graph can express it.

    The shape of an input is that of the example, else the one that the ticket's network was built for.
    """
    shape = tuple(ticket.model.get("input_shape", ())) if example is None else tuple(example.shape[1:])
    half = any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in _tensors(reference))
    single = copy.deepcopy(reference).float() if half else reference
    try:
        if not shape:
            raise ExportError("the shape of an input is not known; pass example=batch")
        whole = read_graph(single, shape)
        # In float64, since a sum of ± one gain is exact there: rounding decides on no sign.
        double, batch = copy.deepcopy(single).double(), _batch(example, shape)
        graph = next((graph for graph in (compact(whole), whole) if _agrees(double, graph, batch)), None)
        if graph is None:
            raise ExportError(
                f"the forward pass of {type(reference).__name__} does more than its layers do, one after another; "
                f"{OTHER_TARGETS} take it"
            )
        # In a network of signs rounding may decide otherwise than in the network as it is.
        as_it_is = graph is whole or half or not _agrees(single, graph, batch)
    except Exception as error:  # a stranger's network may hold anything, and most targets need no graph
        reason = str(error) if isinstance(error, ExportError) else f"no graph of this network: {core_reason(error)}"
        return Source(reference, reference, ticket, example, reason=reason)
    plain = reference if as_it_is else as_module(graph)
    return Source(plain, reference, ticket, example, graph, census=Census(count(whole), count(graph)))


def _batch(example: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """Return inputs that tell whether a graph computes what its network does, in float64."""
    random = torch.randn(_CHECKED, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return random if example is None else torch.cat([random, example[:_CHECKED].double()])


def _agrees(network: nn.Module, graph: Graph, batch: Tensor) -> bool:
    """Say whether a graph computes what a network does, in the network's precision."""
    dtype = next((tensor.dtype for tensor in _tensors(network) if tensor.is_floating_point()), torch.float32)
    module = copy.deepcopy(as_module(graph)).to(dtype)
    found = compare(partial(run_torch, network), partial(run_torch, module), [batch.to(dtype)])
    return found.max_relative <= RELATIVE_TOLERANCE


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
