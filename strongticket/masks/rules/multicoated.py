"""Multicoated supermasks: nested masks of one score, added up (Okoshi et al., ICML 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...errors import ConfigError
from ..selection import Density, Selection
from ..straight_through import CoatedMask
from ..threshold import Thresholds
from .base import Edges, Moment
from .edge_popup import EdgePopup

_MOST_COATS = 31  # each costs a selection in every step, and a mask of every tensor in the ticket


@dataclass(frozen=True)
class Multicoated(EdgePopup):
    """Keep the largest |score| in several nested coats; an edge carries its weight once for each coat it is in.

    Coat i of N keeps d·(N + 1 − i)/N of the edges, d being the density asked for, so that the first coat is the mask of
    edge-popup and each of the others a part of the one before. Scores begin as those of edge-popup. Okoshi et al. 2022,
    "Multicoated Supermasks Enhance Hidden Networks" (ICML), section 3; even steps of the density are one of its ways
    to space the coats.
    """

    name = "multicoated"
    levels = "coats"

    coats: int = 3

    def __post_init__(self) -> None:
        if type(self.coats) is not int or not 2 <= self.coats <= _MOST_COATS:
            raise ConfigError(f"coats {self.coats!r} was given; expected a whole number from 2 to {_MOST_COATS}")

    def decide(self, edges: Mapping[str, Edges], selection: Selection, moment: Moment) -> dict[str, Tensor]:
        """Select the coats, and count for each edge those that it is in."""
        scores = {name: edge.scores.detach() for name, edge in edges.items()}
        return self._coated(scores, selection, moment.thresholds)

    def conclude(self, scores: Mapping[str, Tensor], selection: Selection) -> dict[str, Tensor]:
        """Select the coats, and count for each edge those that it is in."""
        return self._coated({name: score.detach() for name, score in scores.items()}, selection, None)

    def effective_weight(self, carried: Tensor, weight: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
        """Multiply the weight by its coats; see ``CoatedMask``."""
        masked: Tensor = CoatedMask.apply(carried, weight, scores, mask, self.coats)
        return masked

    def _coated(
        self, scores: Mapping[str, Tensor], selection: Selection, thresholds: Thresholds | None
    ) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for inner in range(self.coats):
            share = (self.coats - inner) / self.coats
            coat = replace(selection, density=_part(selection.density, share), floor=share * selection.floor)
            if thresholds is None:
                masks = coat.masks(scores, magnitudes=True)
            else:
                remembered = thresholds.part(inner)
                masks = coat.masks(scores, magnitudes=True, thresholds=remembered, into=remembered.masks)
                remembered.masks = masks
            for name, mask in masks.items():
                if not inner:
                    found[name] = mask.to(torch.uint8)
                elif selection.floor:  # rounded, they may differ by an edge; a coat lies on the one below it
                    found[name] += mask & (found[name] == inner)
                else:
                    found[name] += mask.view(torch.uint8)
        return found


def _part(density: Density, share: float) -> Density:
    if isinstance(density, Mapping):
        return {pattern: share * value for pattern, value in density.items()}
    return share * density
