"""Which channels and which edges of a network reach its output."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .constants import edges_of
from .operations import Convolution, Flatten, Graph, Linear, Node


def without_unread_edges(graph: Graph) -> Graph:
    """Return the graph with the edges at 0 that reach no output, or whose inputs are all padding; itself if none are.

    A kernel loses its outer rows and columns where they meet nothing but padding, as many on either side.
    """
    shapes = {Graph.INPUT: graph.input_shape} | {node.name: node.shape for node in graph.nodes}
    read = _read(graph)
    nodes, changed = [], False
    for node in graph.nodes:
        operation = node.operation
        if isinstance(operation, Convolution):
            operation = _cropped(operation, shapes[node.inputs[0]], node.shape)
        if isinstance(operation, Convolution | Linear) and operation.weight[~read[node.name]].any():
            weight = operation.weight.clone()
            weight[~read[node.name]] = 0
            operation = replace(operation, weight=weight)
        changed |= operation is not node.operation
        nodes.append(replace(node, operation=operation))
    return replace(graph, nodes=tuple(nodes)) if changed else graph


def _read(graph: Graph) -> dict[str, Tensor]:
    """Return which channels of each value lead over edges to the output, by name: (channels) bool."""
    shapes = {Graph.INPUT: graph.input_shape} | {node.name: node.shape for node in graph.nodes}
    read = {name: torch.zeros(shape[0], dtype=torch.bool) for name, shape in shapes.items()}
    read[graph.output][:] = True
    for node in reversed(graph.nodes):
        for name in node.inputs:
            read[name] |= _read_by(node, read[node.name], shapes[name][0])
    return read


def _read_by(node: Node, outputs: Tensor, channels: int) -> Tensor:
    """Return which channels a node reads for some of its outputs: (channels) bool."""
    match node.operation:
        case Convolution(weight=weight, groups=groups):
            edges = edges_of(weight) & outputs[:, None]
            return edges.reshape(groups, -1, weight.shape[1]).any(1).flatten()
        case Linear(weight=weight):
            return (weight[outputs] != 0).any(0)
        case Flatten():
            return outputs.reshape(channels, -1).any(1)
        case _:
            return outputs


def _cropped(operation: Convolution, read: tuple[int, ...], given: tuple[int, ...]) -> Convolution:
    """Return a convolution without the weights that meet nothing but padding; itself if it has none."""
    met = [_met(operation, axis, read[1 + axis], given[1 + axis]) for axis in (0, 1)]
    if all(bool(taps.all()) for taps in met):
        return operation
    weight = torch.where(met[0][:, None] & met[1], operation.weight, 0)
    padding, spare = list(operation.padding), []
    for axis, taps in enumerate(met):
        outer = [int(side.int().argmax()) for side in (taps, taps.flip(0))]
        most = operation.padding[axis] // operation.dilation[axis]
        spare.append(min(*outer, most))
        padding[axis] -= spare[-1] * operation.dilation[axis]
    if not any(spare) and torch.equal(weight, operation.weight):
        return operation
    rows, columns = (slice(cut, len(taps) - cut) for cut, taps in zip(spare, met, strict=True))
    return replace(operation, weight=weight[:, :, rows, columns], padding=(padding[0], padding[1]))


def _met(operation: Convolution, axis: int, size: int, outputs: int) -> Tensor:
    """Return which positions of a kernel meet a pixel of the image for at least one output: (kernel) bool."""
    starts = torch.arange(outputs) * operation.stride[axis] - operation.padding[axis]
    pixels = starts[:, None] + torch.arange(operation.weight.shape[2 + axis]) * operation.dilation[axis]
    return ((pixels >= 0) & (pixels < size)).any(0)
