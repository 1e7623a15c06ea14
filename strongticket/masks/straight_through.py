"""The estimators that carry a gradient through a hard mask.

Both masks below are step functions of the scores; their true gradient is zero almost everywhere. In
the backward pass the step is replaced, and nothing else is: the forward pass is exact. A dropped edge
gets its gradient like any other, which is how it can come back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..weights import binary_sign

_INTEGER = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


def masked(carried: Tensor, mask: Tensor) -> Tensor:
    """Return ``carried`` where ``mask`` (bool, same shape), +0 elsewhere, never −0; not differentiable.

    A mask that counts coats (uint8) multiplies what it keeps.

    On a CPU torch.where takes a branch for each value, which a random mask makes it guess wrong half the time.
    There a bitwise and keeps the same bits without one.
    """
    is_kept, coats = (mask, None) if mask.dtype is torch.bool else (mask.bool(), mask)
    if torch.compiler.is_compiling() or carried.device.type != "cpu":
        kept = torch.where(is_kept, carried, 0)
    else:
        bits = _INTEGER[carried.element_size()]
        ones = is_kept.view(torch.int8).neg().to(bits)  # in all bits where the mask is True
        kept = ones.bitwise_and_(carried.detach().view(bits)).view(carried.dtype)
    return kept if coats is None else kept * coats


class MaskedWeight(torch.autograd.Function):
    """The forward pass that all estimators share: w̃ = v where m, else +0 (never −0).

    v is what an edge carries if it is kept: the weight w itself, or α · sign(w) if weights are binary. The
    backward pass reads the real w in both cases: Diffenderfer & Kailkhura 2021 (arXiv 2103.09377), section 3.
    """

    @staticmethod
    def forward(carried: Tensor, weight: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
        """Return what is carried, with dropped edges at +0; all four have the weight's shape."""
        return masked(carried, mask)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor], output: Tensor) -> None:
        """Keep what a backward formula reads."""
        _, weight, scores, _ = inputs
        ctx.save_for_backward(weight, scores)


class MagnitudeMask(MaskedWeight):
    """Effective weight under a mask of the largest score magnitudes.

    Forward:  w̃ = v where m, else +0.
    Backward: ∂L/∂s = sign(s) · w · ∂L/∂w̃ for kept and dropped edges, with sign(0) = +1; ∂L/∂w = ∂L/∂v = 0.

    The mask is taken for |s| in the backward pass: Ramanujan et al. 2020 (arXiv 1911.13299), section 3.2.
    """

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor, None]:
        """Return the gradient of the scores."""
        weight, scores = ctx.saved_tensors
        return None, None, (grad * weight).mul_(binary_sign(scores)), None


class CoatedMask(torch.autograd.Function):
    """Effective weight under nested masks of the largest score magnitudes, added up.

    Forward:  w̃ = v · Σᵢ mᵢ, +0 where no mᵢ keeps the edge; v is what a coat carries, as in ``MaskedWeight``.
    Backward: ∂L/∂s = N · sign(s) · w · ∂L/∂w̃ for kept and dropped edges, with sign(0) = +1; ∂L/∂w = ∂L/∂v = 0.

    Each of the N masks is taken for |s| in the backward pass: Okoshi et al. 2022 (ICML), section 3.
    """

    @staticmethod
    def forward(carried: Tensor, weight: Tensor, scores: Tensor, mask: Tensor, coats: int) -> Tensor:
        """Return what is carried times its coats (uint8, in ``mask``); all four have the weight's shape."""
        return masked(carried, mask)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor, int], output: Tensor) -> None:
        """Keep what the backward formula reads."""
        _, weight, scores, _, coats = inputs
        ctx.save_for_backward(weight, scores)
        ctx.coats = coats

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor, None, None]:
        """Return the gradient of the scores."""
        weight, scores = ctx.saved_tensors
        return None, None, (grad * weight).mul_(binary_sign(scores).mul_(ctx.coats)), None, None


class ScoreMask(MaskedWeight):
    """Effective weight under a mask of the largest scores, signs included.

    Forward:  w̃ = v where m, else +0.
    Backward: ∂L/∂s = w · ∂L/∂w̃ for kept and dropped edges; ∂L/∂w = ∂L/∂v = 0.

    The mask is taken for s in the backward pass: Chijiwa et al. 2021 (arXiv 2106.09269), section 2.
    """

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor, None]:
        """Return the gradient of the scores."""
        weight, _ = ctx.saved_tensors
        return None, None, grad * weight, None


class ProbabilityMask(MaskedWeight):
    """Effective weight under a mask sampled from logits.

    Forward:  w̃ = v where m, else +0, with m ~ Bernoulli(σ(s)), σ the logistic function.
    Backward: ∂L/∂s = σ(s) · (1 − σ(s)) · w · ∂L/∂w̃; ∂L/∂w = ∂L/∂v = 0.

    The sample is taken for its probability in the backward pass: Zhou et al. 2019 (arXiv 1905.01067),
    section 5.
    """

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor, None]:
        """Return the gradient of the logits."""
        weight, scores = ctx.saved_tensors
        probability = torch.sigmoid(scores)
        return None, None, grad * weight * probability * (1 - probability), None
