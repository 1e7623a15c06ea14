"""Which channels of a network are the same whatever the input is, and what they are then."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .network import compute
from .operations import Add, AveragePool, Convolution, Flatten, Graph, Linear, Node, Normalisation


@dataclass(frozen=True)
class Constants:
    """What is known of one value of a graph, channel by channel, without knowing the input.

    ``known`` (channels) is True where the channel depends on no input; ``values``, of the shape of one example,
    holds what it is then, computed by torch's own kernels, and 0 elsewhere. ``uniform`` (channels) is True where
    the channel is known and one number at all positions: beside an edge that is padded with zeros it may not be.
    """

    known: Tensor
    values: Tensor
    uniform: Tensor

    @property
    def rows(self) -> Tensor:
        """The values of each channel in a row, (channels, positions)."""
        return self.values.reshape(len(self.values), -1)

    @property
    def zero(self) -> Tensor:
        """Which channels are known to be 0 at all positions, (channels)."""
        return self.known & (self.rows == 0).all(1)


def constants_of(graph: Graph) -> dict[str, Constants]:
    """Return what is known of every value of a graph, by name, the input's included (nothing).

    A channel is known if every edge that leads to it comes from a known one; edges are weights that are not 0.
    """
    dtype = next((w.dtype for node in graph.nodes if (w := _weight_of(node)) is not None), torch.get_default_dtype())
    nothing = torch.zeros(graph.input_shape[0], dtype=torch.bool)
    found = {Graph.INPUT: Constants(nothing, torch.zeros(graph.input_shape, dtype=dtype), nothing)}
    for node in graph.nodes:
        found[node.name] = _after(node, [found[name] for name in node.inputs])
    return found


def edges_of(weight: Tensor) -> Tensor:
    """Return which inputs each output of a weight (outputs, inputs, …) is connected with: (outputs, inputs) bool."""
    return (weight != 0).flatten(2).any(2) if weight.dim() > 2 else weight != 0


def _weight_of(node: Node) -> Tensor | None:
    operation = node.operation
    if isinstance(operation, Normalisation):
        return operation.mean
    return operation.weight if isinstance(operation, Convolution | Linear) else None


def _after(node: Node, read: list[Constants]) -> Constants:
    """Return what is known of a node's output."""
    operation, first = node.operation, read[0]
    values = compute(operation, *(constants.values[None] for constants in read))[0]
    known, uniform = first.known, first.uniform
    match operation:
        case Convolution(weight=weight, groups=groups):
            inside = first.known.reshape(groups, -1).repeat_interleave(len(weight) // groups, 0)
            known = ~(edges_of(weight) & ~inside).any(1)
            # A zero border is like the inside of the image if all that is read is 0.
            same = first.zero | (first.uniform & (operation.padding == (0, 0)))
            inside = same.reshape(groups, -1).repeat_interleave(len(weight) // groups, 0)
            uniform = ~(edges_of(weight) & ~inside).any(1)
        case Linear(weight=weight):
            known = ~((weight != 0) & ~first.known).any(1)
            uniform = known
        case Normalisation(weight=gain):
            if gain is not None:
                known = known | (gain == 0)
                uniform = uniform | (gain == 0)
        case AveragePool(padding=padding):
            uniform = first.zero | (uniform & (padding == (0, 0)))
        case Add():
            known, uniform = known & read[1].known, uniform & read[1].uniform
        case Flatten():
            known = first.known[:, None].expand(len(first.known), values.numel() // len(first.known)).flatten()
            uniform = known
        case _:
            pass
    flat = values.reshape(len(values), -1)
    known = known & flat.isfinite().all(1)
    # One number, not its roundings: kernels may add in another order at another place.
    flat = torch.where(uniform[:, None], flat[:, :1], flat)
    flat = torch.where(known[:, None], flat, 0)
    uniform = known & (flat == flat[:, :1]).all(1)
    return Constants(known, flat.reshape(values.shape), uniform)
