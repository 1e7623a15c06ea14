"""The removal of edges that cannot matter: channels that no input reaches, or that reach no output.

A channel goes if nothing that is left reads it, or if it is a constant that its readers take into their biases. A
constant other than 0 cannot be taken out of a convolution with padding, since at the border it is read less often.
Channels that must go together do: those that are added, the same channel before and after a normalisation,
activation or pool, and all channels of a group of a grouped convolution.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .constants import Constants, constants_of, edges_of
from .operations import Add, Convolution, Flatten, Graph, Linear, Node, Normalisation, Operation
from .readers import without_unread_edges


@torch.no_grad()
def compact(graph: Graph) -> Graph:
    """Return a graph of the same function without the edges and channels that cannot matter; itself if there are none.

    An edge is a weight that is not 0. Beside those of channels that go, edges go that read nothing but padding or
    zeros. The input and the output keep their shapes, and every layer at least one channel. Sums lose terms that are
    exactly 0 and gain their constant terms in one: outputs are the same but for the rounding of sums in another order.
    In a network of signs that rounding decides between values that are level, in this graph as in any other runtime.
    """
    before = None
    while graph is not before:
        before, graph = graph, without_unread_edges(graph)
        constants = constants_of(graph)
        smaller = _without_empty_sums(graph, constants)
        graph = smaller if smaller is not graph else _reduced(graph, constants)
    return graph


def _without_empty_sums(graph: Graph, constants: dict[str, Constants]) -> Graph:
    """Return the graph without sums of which one side is 0 throughout, and without what only they read."""
    same: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        node = replace(node, inputs=tuple(same.get(name, name) for name in node.inputs))
        if isinstance(node.operation, Add):
            empty = [bool(constants[name].zero.all()) for name in node.inputs]
            other = node.inputs[1 if empty[0] else 0]
            if any(empty) and (node.name, other) != (graph.output, Graph.INPUT):  # one node stays
                same[node.name] = other
                continue
        nodes.append(node)
    if not same:
        return graph
    output = same.get(graph.output, graph.output)
    needed, left = {output}, []
    for node in reversed(nodes):
        if node.name in needed:
            needed.update(node.inputs)
            left.append(node)
    return Graph(graph.input_shape, tuple(reversed(left)), output)


def _reduced(graph: Graph, constants: dict[str, Constants]) -> Graph:
    """Return the graph without the channels that are not needed, itself if no channel and no edge can go."""
    keep = _needed(graph, constants)
    changed = not all(bool(kept.all()) for kept in keep.values())
    nodes = []
    for node in graph.nodes:
        kept, read, known = keep[node.name], keep[node.inputs[0]], constants[node.inputs[0]]
        operation = node.operation
        if isinstance(operation, Convolution | Linear):
            operation = _folded(operation, known, _constant_inputs(node, known) & (known.zero | ~read))
        changed |= operation is not node.operation
        shape = (int(kept.sum()), *node.shape[1:])
        nodes.append(replace(node, operation=_part(operation, kept, read), shape=shape))
    return replace(graph, nodes=tuple(nodes)) if changed else graph


def _constant_inputs(node: Node, known: Constants) -> Tensor:
    """Return which inputs a layer with weights can take into its bias, (inputs); none if they are in groups."""
    operation = node.operation
    if isinstance(operation, Linear):
        return known.known
    if not isinstance(operation, Convolution) or operation.groups > 1:
        return torch.zeros_like(known.known)
    return known.zero | (known.uniform & (operation.padding == (0, 0)))


def _folded(operation: Convolution | Linear, known: Constants, columns: Tensor) -> Convolution | Linear:
    """Return a layer that takes some constant inputs into its bias, and has no edges from them; itself if none are."""
    weight = operation.weight
    if not columns.any() or not weight[:, columns].any():
        return operation
    left = weight.clone()
    left[:, columns] = 0
    added = _sums(weight, columns) @ known.rows[columns, 0].double()
    if operation.bias is None and not added.any():
        return replace(operation, weight=left)
    bias = 0 if operation.bias is None else operation.bias.double()
    return replace(operation, weight=left, bias=(bias + added).to(weight.dtype))


def _sums(weight: Tensor, columns: Tensor) -> Tensor:
    """Return the sum over positions of the weights of some inputs, (outputs, inputs chosen), in float64."""
    return weight[:, columns].double().reshape(len(weight), int(columns.sum()), -1).sum(2)


def _needed(graph: Graph, constants: dict[str, Constants]) -> dict[str, Tensor]:
    """Return which channels of each value must stay, by name: (channels) bool.

    It grows from the output: a channel is needed if a needed one reads it, and with it all that must go together.
    """
    together, count = _classes(graph)
    needed = torch.zeros(count, dtype=torch.bool)
    needed[together[Graph.INPUT]] = needed[together[graph.output]] = True
    edges = {
        node.name: edges_of(node.operation.weight) & ~_constant_inputs(node, constants[node.inputs[0]])
        for node in graph.nodes
        if isinstance(node.operation, Convolution | Linear) and getattr(node.operation, "groups", 1) == 1
    }

    def grow() -> None:
        before = -1
        while before != (before := int(needed.sum())):
            for node in reversed(graph.nodes):
                if node.name in edges:
                    reads = edges[node.name][needed[together[node.name]]].any(0)
                    needed[together[node.inputs[0]][reads]] = True

    grow()
    for node in reversed(graph.nodes):
        if not needed[together[node.name]].any():  # one channel stays
            needed[together[node.name][0]] = True
            grow()
    return {name: needed[classes] for name, classes in together.items()}


def _classes(graph: Graph) -> tuple[dict[str, Tensor], int]:
    """Return the class of each channel of each value, and how many there are; channels of one class go together."""
    from scipy.sparse import coo_array  # slow to import, and seldom needed
    from scipy.sparse.csgraph import connected_components

    shapes = {Graph.INPUT: graph.input_shape} | {node.name: node.shape for node in graph.nodes}
    starts = np.cumsum([0, *(shape[0] for shape in shapes.values())])
    channels = {name: np.arange(start, start + shapes[name][0]) for name, start in zip(shapes, starts, strict=False)}
    pairs = []
    for node in graph.nodes:
        own, read = channels[node.name], channels[node.inputs[0]]
        match node.operation:
            case Linear() | Convolution(groups=1):
                continue
            case Convolution(groups=groups):
                # All of a group are tied to the first channel that it reads.
                first = read[:: len(read) // groups]
                pairs += [
                    (np.repeat(first, len(read) // groups), read),
                    (np.repeat(first, len(own) // groups), own),
                ]
            case Flatten():
                pairs.append((np.repeat(read, len(own) // len(read)), own))
            case _:
                pairs += [(own, channels[name]) for name in node.inputs]
    total = int(starts[-1])
    one, other = (
        np.concatenate([np.empty(0, int), *side]) for side in (zip(*pairs, strict=True) if pairs else ((), ()))
    )
    links = coo_array((np.ones(len(one), bool), (one, other)), shape=(total, total))
    count, classes = connected_components(links, directed=False)
    labels = torch.as_tensor(classes, dtype=torch.long)
    return {name: labels[torch.as_tensor(own)] for name, own in channels.items()}, int(count)


def _part(operation: Operation, kept: Tensor, read: Tensor) -> Operation:
    """Return an operation on the channels that it still reads, for the channels that are kept of its output."""
    match operation:
        case Convolution(weight=weight, bias=bias, groups=groups):
            bias = None if bias is None else bias[kept]
            if groups == 1:
                return replace(operation, weight=weight[kept][:, read], bias=bias)
            groups = int(read.sum()) // weight.shape[1]
            return replace(operation, weight=weight[kept], bias=bias, groups=groups)
        case Linear(weight=weight, bias=bias):
            return Linear(weight[kept][:, read], None if bias is None else bias[kept])
        case Normalisation(mean=mean, variance=variance, weight=weight, bias=bias):
            return replace(
                operation,
                mean=mean[kept],
                variance=variance[kept],
                weight=None if weight is None else weight[kept],
                bias=None if bias is None else bias[kept],
            )
        case _:
            return operation
