"""Edge-popup: keep the edges of the largest score magnitude (arXiv 1911.13299)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...weights import Fans, binary_sign, uniforms
from ..selection import Selection
from ..straight_through import MagnitudeMask
from .base import Edges, Moment, Rule


class EdgePopup(Rule):
    """Keep the edges with the largest |score|; the gradient passes straight through to every score.

    Scores begin as U(−1/√fan_in, 1/√fan_in), which is Kaiming's uniform law with a = √5. Ramanujan et
    al. 2020 (arXiv 1911.13299), section 3.2.
    """

    name = "edge-popup"

    def initial_scores(self, seed: int, name: str, shape: Sequence[int], *, fans: Fans, density: float) -> Tensor:
        """Return U(±1/√fan_in) scores from the seed and the tensor's name."""
        unit = torch.from_numpy(uniforms(seed, f"{name}:scores", math.prod(shape))).reshape(tuple(shape))
        return (2 * unit - 1) / math.sqrt(fans.fan_in)

    def decide(self, edges: Mapping[str, Edges], selection: Selection, moment: Moment) -> dict[str, Tensor]:
        """Select the largest magnitudes."""
        scores = {name: edge.scores for name, edge in edges.items()}
        live = {name: edge.mask for name, edge in edges.items()}
        return selection.masks(scores, magnitudes=True, thresholds=moment.thresholds, into=live)

    def conclude(self, scores: Mapping[str, Tensor], selection: Selection) -> dict[str, Tensor]:
        """Select the largest magnitudes."""
        return selection.masks({name: score.detach() for name, score in scores.items()}, magnitudes=True)

    def effective_weight(self, carried: Tensor, weight: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
        """Mask the weight; see ``MagnitudeMask``."""
        masked: Tensor = MagnitudeMask.apply(carried, weight, scores, mask)
        return masked

    def direction(self, weight: Tensor, scores: Tensor) -> Tensor:
        """Return the sign of ∂w̃/∂s, which magnitudes turn with the sign of the score."""
        return binary_sign(weight).mul_(binary_sign(scores))
