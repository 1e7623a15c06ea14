"""A network as a list of simple operations: what compaction works on and what the writers of code read."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

Pair = tuple[int, int]


@dataclass(frozen=True)
class Convolution:
    """y = x ⋆ weight + bias: weight (out, in / groups, height, width), bias (out) or None."""

    weight: Tensor
    bias: Tensor | None = None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True)
class Linear:
    """y = weight · x + bias: weight (out, in), bias (out) or None."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True)
class Normalisation:
    """Batch norm in evaluation: y = (x − mean) / √(variance + epsilon) · weight + bias, each (channels)."""

    mean: Tensor
    variance: Tensor
    epsilon: float
    weight: Tensor | None = None
    bias: Tensor | None = None


@dataclass(frozen=True)
class Relu:
    """y = max(x, 0)."""


@dataclass(frozen=True)
class Silu:
    """y = x / (1 + exp(−x))."""


@dataclass(frozen=True)
class Sign:
    """y = +1 where x ≥ 0, else −1."""


@dataclass(frozen=True)
class MaxPool:
    """The largest value of each window; padding counts as −∞."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)


@dataclass(frozen=True)
class AveragePool:
    """The mean of each window, padding counted as 0; over the whole image it is global average pooling."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)


@dataclass(frozen=True)
class Add:
    """The sum of two values of one shape."""


@dataclass(frozen=True)
class Flatten:
    """(channels, height, width) → (channels · height · width), in that order."""


Operation = Convolution | Linear | Normalisation | Relu | Silu | Sign | MaxPool | AveragePool | Add | Flatten


@dataclass(frozen=True)
class Node:
    """One operation. ``name`` is that of its layer; ``inputs`` name earlier nodes, or the graph's input.

    ``shape`` is that of the output of one example, without the batch: (channels, height, width) or (features).
    """

    name: str
    operation: Operation
    inputs: tuple[str, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Graph:
    """A network from one input to one output; every node stands after those it reads."""

    input_shape: tuple[int, ...]
    nodes: tuple[Node, ...]
    output: str

    INPUT = "input"
