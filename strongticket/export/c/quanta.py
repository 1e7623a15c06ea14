"""Activations of 8 bits: which layers read them, how large a step of theirs is, and the network that has them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...errors import ExportError
from ..graph import Convolution, Flatten, Graph, Linear, MaxPool, Node, Sign
from ..graph.network import compute
from ..graph.reading import OTHER_TARGETS
from ..graph.ternary import as_ternary

_STEPS = 127


def sign_values(graph: Graph) -> set[str]:
    """Return the names of values that are ±1: signs, and what pools and flattening make of them."""
    found: set[str] = set()
    for node in graph.nodes:
        passes = isinstance(node.operation, MaxPool | Flatten) and node.inputs[0] in found
        if isinstance(node.operation, Sign) or passes:
            found.add(node.name)
    return found


def calibrated(graph: Graph, example: Tensor | None) -> dict[str, float]:
    """Return the quantum of the input of each layer that reads real numbers, by the layer's name.

    quantum = max |x| / 127 over the example (batch, …), one for each layer's input, so that x ≈ quantum · q with a
    whole number q in [−127, 127]. Raises ExportError without an example, for a layer whose weights have more than one
    magnitude an output, and if no layer reads real numbers.
    """
    signs = sign_values(graph)
    layers = [
        node for node in graph.nodes if isinstance(node.operation, Convolution | Linear) and node.inputs[0] not in signs
    ]
    if not layers:
        raise ExportError(
            "activations 'int8' were asked for, but every layer of this network reads ±1; leave activations out"
        )
    for node in layers:
        assert isinstance(node.operation, Convolution | Linear)
        if as_ternary(node.operation.weight) is None:
            raise ExportError(
                f"activations 'int8' need binary weights, and those of {node.name} have more than one magnitude; "
                f"use activations 'float', or {OTHER_TARGETS}"
            )
    if example is None:
        raise ExportError(
            "activations 'int8' are calibrated on real inputs; pass example=batch, or use activations 'float'"
        )
    values = run(graph, example.float())
    largest = {node.name: float(values[node.inputs[0]].abs().max()) for node in layers}
    for name, value in largest.items():
        if not torch.isfinite(torch.tensor(value)):
            raise ExportError(f"the input of {name} is not finite on the example; pass another one")
    return {name: value / _STEPS if value > 0 else 1.0 for name, value in largest.items()}


def run(graph: Graph, batch: Tensor, quanta: Mapping[str, float] | None = None) -> dict[str, Tensor]:
    """Return every value of a graph for a batch, in torch; with ``quanta`` the named layers read 8-bit inputs."""
    values = {Graph.INPUT: batch}
    for node in graph.nodes:
        read = [values[name] for name in node.inputs]
        if quanta and node.name in quanta:
            read = [rounded(read[0], quanta[node.name])]
        values[node.name] = compute(node.operation, *read)
    return values


def rounded(values: Tensor, quantum: float) -> Tensor:
    """Return quantum · q, with q the whole number in [−127, 127] nearest to value / quantum, halves away from zero."""
    scaled = (values * (1 / quantum)).clamp(-_STEPS, _STEPS)
    whole: Tensor = torch.sign(scaled) * torch.floor(scaled.abs() + 0.5) * quantum
    return whole


def held_as_int8(graph: Graph, quanta: Mapping[str, float]) -> dict[str, float]:
    """Return the quantum of each value that only layers of 8 bits read, directly or through max-pools: {name: quantum}.

    Such a value can be held in 8 bits; what others read stays a real number, and is rounded where a layer reads it.
    """
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    found: dict[str, float] = {}
    for node in reversed(graph.nodes):
        wanted = {_wanted(reader, quanta, found) for reader in readers.get(node.name, [])}
        if node.name != graph.output and len(wanted) == 1 and (quantum := wanted.pop()) is not None:
            found[node.name] = quantum
    return found


def _wanted(reader: Node, quanta: Mapping[str, float], found: Mapping[str, float]) -> float | None:
    """Return the quantum in which a reader takes its input, None if it takes real numbers."""
    if isinstance(reader.operation, MaxPool | Flatten):
        return found.get(reader.name)
    return quanta.get(reader.name)
