"""The modules that put a mask between a frozen weight and whoever reads it.

The invariant of this file: a reader of ``module.weight`` sees the masked weight and nothing else.
Both modules are parametrizations (``torch.nn.utils.parametrize``), which replace the attribute
itself; a replaced layer would be bypassed wherever another module reads its weight, as
``nn.MultiheadAttention`` reads ``out_proj.weight``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..weights import GainGroups, binary_sign, gains
from .levels import computed_dtype
from .rules import Rule
from .slots import parametrizations_of
from .straight_through import masked

_WORTH_THREADS = 1 << 20  # below so many edges torch's threads take longer to meet than one takes to copy a mask


class _Mask(nn.Module):
    """A mask (the weight's shape; bool, or uint8 if it counts coats), and the gain of a binary weight's kept edges.

    ``draws`` (uint8, the same shape) has how often each weight was drawn anew, None unless the rule does that.
    ``gain`` is None where an edge carries its weight as it is: real weights, and weights that are ±α
    already. Otherwise it belongs to the mask and changes with it, in ``put``.
    """

    mask: Tensor
    draws: Tensor | None
    gain: Tensor | None

    def __init__(self, mask: Tensor, weight: Tensor, groups: GainGroups | None, draws: Tensor | None = None) -> None:
        super().__init__()
        self.groups = groups if groups is not None and _is_to_be_made_binary(weight) else None
        self.register_buffer("mask", mask)
        self.register_buffer("draws", draws)
        self.register_buffer("gain", None if self.groups is None else gains(weight, mask > 0, self.groups))

    def with_levels(self, mask: Tensor) -> Tensor:
        """Return a mask as a ticket has it: bool, or uint8 with the level of each kept edge."""
        return mask if self.draws is None else torch.where(mask, self.draws + 1, 0)

    def put(self, mask: Tensor, weight: Tensor) -> None:
        """Replace the mask, unless it was written to already, and the gain that belongs to it."""
        mine = self.mask
        if mask is not mine:
            if mine.device.type == mask.device.type == "cpu" and mask.numel() < _WORTH_THREADS:
                np.copyto(mine.numpy(), mask.numpy())
            else:
                mine.copy_(mask)
        # What numpy and C write, autograd does not see; a backward pass of the masks before would be wrong in silence.
        torch.autograd.graph.increment_version(mine)
        if self.groups is not None and self.gain is not None:
            with torch.no_grad():
                self.gain.copy_(gains(weight, mine > 0, self.groups))

    def carried(self, weight: Tensor) -> Tensor:
        """Return what an edge carries if it is kept: its weight, or α · sign(weight)."""
        return weight if self.gain is None else binary_sign(weight) * self.gain


class Supermask(_Mask):
    """The mask of a tensor while a search runs: learned scores, and the mask decided from them.

    ``scores`` (float, the weight's shape) is the only thing that learns. ``mask`` changes only in
    ``refresh``, so that a forward pass sorts nothing.
    """

    def __init__(self, scores: Tensor, rule: Rule, weight: Tensor, groups: GainGroups | None) -> None:
        mask = torch.ones_like(scores, dtype=computed_dtype(rule.levels), requires_grad=False)
        draws = torch.zeros_like(scores, dtype=torch.uint8, requires_grad=False) if rule.levels == "draws" else None
        super().__init__(mask, weight, groups, draws)
        self.scores = nn.Parameter(scores)
        self.effective_weight = rule.effective_weight

    def forward(self, weight: Tensor) -> Tensor:
        """Return the effective weight: what the kept edges of ``weight`` carry, +0 elsewhere."""
        # Detached, since the compiler takes no tensor as two arguments of an autograd function.
        return self.effective_weight(self.carried(weight).detach(), weight, self.scores, self.mask)


class FixedMask(_Mask):
    """The mask of a tensor once it is found: no scores, nothing learns."""

    def forward(self, weight: Tensor) -> Tensor:
        """Return what the kept edges of ``weight`` carry, +0 elsewhere (never −0)."""
        return masked(self.carried(weight), self.mask)


class Masked(NamedTuple):
    """A frozen weight, and the module that masks it."""

    weight: Tensor
    mask: Supermask | FixedMask


def masked_at(module: nn.Module, attribute: str) -> Masked:
    """Return what is behind ``module.attribute``, a tensor under a mask."""
    chain = parametrizations_of(module)[attribute]
    return Masked(chain.original, chain[0])


def _is_to_be_made_binary(weight: Tensor) -> bool:
    """Say whether the magnitudes differ; a signed constant is binary as it is drawn."""
    magnitudes = weight.detach().abs()
    return magnitudes.numel() > 0 and bool(magnitudes.amin() != magnitudes.amax())
