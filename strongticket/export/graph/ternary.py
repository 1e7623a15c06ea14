"""Weights of three values a channel: signs, and one magnitude for each output."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ternary:
    """A weight as signs times gains: ``signs`` (its shape, int8 in {−1, 0, +1}), ``gain`` (outputs, its dtype, ≥ 0)."""

    signs: Tensor
    gain: Tensor


def as_ternary(weight: Tensor) -> Ternary | None:
    """Return a weight (outputs, …) as signs and gains, or None if the kept edges of an output differ in magnitude.

    signs[o] · gain[o] is weight[o], bit for bit. An output that keeps no edge has gain 0.
    """
    magnitudes = weight.detach().abs().flatten(1)
    gain = magnitudes.amax(1)
    if not bool(((magnitudes == 0) | (magnitudes == gain[:, None])).all()):
        return None
    return Ternary(torch.sign(weight.detach()).to(torch.int8), gain)
