"""The network of a ticket as a graph of simple operations: read from torch, made smaller, counted, put together."""

from .census import Census, Counts, count
from .compact import compact
from .network import as_module
from .operations import (
    Add,
    AveragePool,
    Convolution,
    Flatten,
    Graph,
    Linear,
    MaxPool,
    Node,
    Normalisation,
    Operation,
    Relu,
    Sign,
    Silu,
)
from .reading import OTHER_TARGETS, read_graph

__all__ = [
    "OTHER_TARGETS",
    "Add",
    "AveragePool",
    "Census",
    "Convolution",
    "Counts",
    "Flatten",
    "Graph",
    "Linear",
    "MaxPool",
    "Node",
    "Normalisation",
    "Operation",
    "Relu",
    "Sign",
    "Silu",
    "as_module",
    "compact",
    "count",
    "read_graph",
]
