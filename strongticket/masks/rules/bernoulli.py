"""The Bernoulli supermask: every step samples its edges from learned probabilities (arXiv 1905.01067)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...weights import Fans, uniforms
from ..selection import Selection
from ..straight_through import ProbabilityMask
from .base import Edges, Moment, Rule

_SPREAD = 0.1  # half-width of the initial logits: breaks ties, leaves the probabilities nearly equal


class Bernoulli(Rule):
    """Sample an edge with probability σ(score), anew in every step; the ticket keeps the likeliest edges.

    Zhou et al. 2019 (arXiv 1905.01067), section 5, with one difference: the sample is conditioned on
    its size, so that density and scope mean here what they mean for every rule. An edge is drawn where
    score + logistic noise > τ. With τ = 0 that is Bernoulli(σ(score)); here τ is the threshold that
    leaves the exact count. Logits begin at logit(density) ± 0.1, where τ is close to 0.
    """

    name = "bernoulli"

    def initial_scores(self, seed: int, name: str, shape: Sequence[int], *, fans: Fans, density: float) -> Tensor:
        """Return logits near logit(density); a density of 1 counts as 0.999."""
        unit = torch.from_numpy(uniforms(seed, f"{name}:scores", math.prod(shape))).reshape(tuple(shape))
        share = min(density, 0.999)
        return (2 * unit - 1) * _SPREAD + math.log(share / (1 - share))

    def decide(self, edges: Mapping[str, Edges], selection: Selection, moment: Moment) -> dict[str, Tensor]:
        """Sample masks of the exact count; the noise is a function of (seed, tensor name, refreshes)."""
        noisy = {}
        for name, edge in edges.items():
            key = hashlib.blake2b(f"{moment.seed}:{name}:{moment.refreshes}".encode(), digest_size=7).digest()
            generator = torch.Generator(edge.scores.device).manual_seed(int.from_bytes(key, "little"))
            unit = torch.empty_like(edge.scores, dtype=torch.float32, requires_grad=False)
            unit.uniform_(generator=generator)
            noisy[name] = edge.scores.detach().float() + torch.logit(unit, eps=1e-7)
        return selection.masks(noisy, thresholds=moment.thresholds)

    def conclude(self, scores: Mapping[str, Tensor], selection: Selection) -> dict[str, Tensor]:
        """Keep the most probable edges."""
        return selection.masks({name: score.detach() for name, score in scores.items()})

    def effective_weight(self, carried: Tensor, weight: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
        """Mask the weight; see ``ProbabilityMask``."""
        masked: Tensor = ProbabilityMask.apply(carried, weight, scores, mask)
        return masked
