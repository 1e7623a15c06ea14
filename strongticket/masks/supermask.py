"""The modules that put a mask between a frozen weight and whoever reads it.

The invariant of this file: a reader of ``module.weight`` sees the masked weight and nothing else.
Both modules are parametrizations (``torch.nn.utils.parametrize``), which replace the attribute
itself; a replaced layer would be bypassed wherever another module reads its weight, as
``nn.MultiheadAttention`` reads ``out_proj.weight``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .rules import Rule


class Supermask(nn.Module):
    """The mask of a tensor while a search runs: learned scores, and the mask decided from them.

    ``scores`` (float, the weight's shape) is the only thing that learns. ``mask`` (bool) changes only
    in ``refresh``, so that a forward pass sorts nothing.
    """

    mask: Tensor

    def __init__(self, scores: Tensor, rule: Rule) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)
        self.register_buffer("mask", torch.ones_like(scores, dtype=torch.bool, requires_grad=False))
        self.effective_weight = rule.effective_weight

    def forward(self, weight: Tensor) -> Tensor:
        """Return the effective weight: the kept edges of ``weight``, +0 elsewhere."""
        return self.effective_weight(weight, self.scores, self.mask)


class FixedMask(nn.Module):
    """The mask of a tensor once it is found: no scores, nothing learns."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """Return ``weight`` where the mask keeps it, +0 elsewhere (never −0)."""
        return torch.where(self.mask, weight, 0)
