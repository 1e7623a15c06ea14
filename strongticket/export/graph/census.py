"""How much of a network there is: weights, kept edges, channels and multiply-adds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .operations import Convolution, Graph, Linear


@dataclass(frozen=True)
class Counts:
    """The size of one graph, summed over its convolutions and linear layers.

    ``weights`` counts the entries of their weights, ``edges`` those that are not 0. ``channels`` counts their
    outputs, channels or units. ``multiply_adds`` is what one example takes if every weight is used,
    ``edge_multiply_adds`` if only edges are; padding is counted as an input like any other.
    """

    weights: int
    edges: int
    channels: int
    multiply_adds: int
    edge_multiply_adds: int


@dataclass(frozen=True)
class Census:
    """The size of a network as it was, and of what was left after edges that cannot matter were removed."""

    before: Counts
    after: Counts


def count(graph: Graph) -> Counts:
    """Return the size of a graph."""
    weights = edges = channels = dense = sparse = 0
    for node in graph.nodes:
        if not isinstance(node.operation, Convolution | Linear):
            continue
        weight = node.operation.weight
        kept, positions = int(torch.count_nonzero(weight)), math.prod(node.shape[1:])
        weights, edges, channels = weights + weight.numel(), edges + kept, channels + len(weight)
        dense, sparse = dense + weight.numel() * positions, sparse + kept * positions
    return Counts(weights, edges, channels, dense, sparse)
