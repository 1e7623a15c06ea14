"""Edge-popup as the paper prints it, to be measured against: a full sort of the scores in every forward pass.

Ramanujan et al. 2020 (arXiv 1911.13299), algorithm 1 of its appendix: sort |s|, put zeros and ones where it says, pass
the gradient straight through. float32, default memory format, any network of convolutions and linear layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class SortedMask(torch.autograd.Function):
    """The mask of the largest scores, from a full sort; its gradient is handed on as it is."""

    @staticmethod
    def forward(ctx: Any, magnitudes: Tensor, density: float) -> Tensor:
        """Return 1 for the largest ``density`` of the scores, 0 elsewhere."""
        mask = magnitudes.clone()
        _, order = magnitudes.flatten().sort()
        dropped = int((1 - density) * magnitudes.numel())
        flat = mask.flatten()
        flat[order[:dropped]] = 0
        flat[order[dropped:]] = 1
        return flat.view_as(mask)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the mask."""
        return grad, None


class PaperMask(nn.Module):
    """A parametrization: the weight times the mask of its scores, computed anew whenever it is read."""

    def __init__(self, weight: Tensor, density: float) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.empty_like(weight).uniform_(-1, 1) / weight[0].numel() ** 0.5)
        self.density = density

    def forward(self, weight: Tensor) -> Tensor:
        """Return the effective weight."""
        masked: Tensor = weight * SortedMask.apply(self.scores.abs(), self.density)
        return masked


def attach_as_printed(model: nn.Module, density: float) -> None:
    """Put every convolution and linear layer of ``model`` under such a mask and freeze its weights."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.requires_grad_(False)
            parametrize.register_parametrization(module, "weight", PaperMask(module.weight.detach(), density))
