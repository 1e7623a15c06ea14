"""Iterative randomisation: what is dropped is drawn anew from time to time (arXiv 2106.09269)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import ConfigError
from ...weights import Fans, uniforms
from ..selection import Selection
from ..straight_through import ScoreMask
from .base import Edges, Moment, Rule


@dataclass(frozen=True)
class IteRand(Rule):
    """Keep the largest scores, signs included; now and then give dropped edges another random weight.

    Every ``redraw_every`` steps each dropped edge is drawn anew with probability ``redraw_share``, from a stream of
    the seed that it never had a weight of; kept edges stay as they are. So nothing is trained: the search has more
    random weights to choose from, and the ticket says of each kept edge which draw it carries. Scores begin as
    U(−√(6/fan_in), √(6/fan_in)). Chijiwa et al. 2021 (arXiv 2106.09269), section 3.
    """

    name = "iterand"
    levels = "draws"

    redraw_every: int = 300
    redraw_share: float = 0.1

    def __post_init__(self) -> None:
        if type(self.redraw_every) is not int or self.redraw_every < 1:
            raise ConfigError(f"redraw_every {self.redraw_every!r} was given; expected a number of steps, at least 1")
        is_number = isinstance(self.redraw_share, int | float) and not isinstance(self.redraw_share, bool)
        if not (is_number and 0 <= self.redraw_share <= 1):
            raise ConfigError(f"redraw_share {self.redraw_share!r} was given; expected a probability from 0 to 1")

    def initial_scores(self, seed: int, name: str, shape: Sequence[int], *, fans: Fans, density: float) -> Tensor:
        """Return U(±√(6/fan_in)) scores from the seed and the tensor's name."""
        unit = torch.from_numpy(uniforms(seed, f"{name}:scores", math.prod(shape))).reshape(tuple(shape))
        return (2 * unit - 1) * math.sqrt(6 / fans.fan_in)

    def decide(self, edges: Mapping[str, Edges], selection: Selection, moment: Moment) -> dict[str, Tensor]:
        """Select the largest scores."""
        scores = {name: edge.scores for name, edge in edges.items()}
        live = {name: edge.mask for name, edge in edges.items()}
        return selection.masks(scores, thresholds=moment.thresholds, into=live)

    def redrawn(self, masks: Mapping[str, Tensor], moment: Moment) -> dict[str, Tensor]:
        """Choose among the dropped edges when it is time; a function of (seed, tensor name, refreshes)."""
        if moment.refreshes == 0 or moment.refreshes % self.redraw_every:
            return {}
        chosen = {}
        for name, mask in masks.items():
            unit = uniforms(moment.seed, f"{name}:redraw:{moment.refreshes}", mask.numel())
            among = torch.from_numpy(unit < self.redraw_share).reshape(mask.shape)
            chosen[name] = among.to(mask.device) & ~mask
        return chosen

    def conclude(self, scores: Mapping[str, Tensor], selection: Selection) -> dict[str, Tensor]:
        """Select the largest scores."""
        return selection.masks({name: score.detach() for name, score in scores.items()})

    def effective_weight(self, carried: Tensor, weight: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
        """Mask the weight; see ``ScoreMask``."""
        masked: Tensor = ScoreMask.apply(carried, weight, scores, mask)
        return masked
