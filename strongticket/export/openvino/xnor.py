"""The arithmetic of xnor and popcount: ternary weights as two planes of bits, and a sign as a threshold a channel.

Over inputs of ±1 a product is +1 where two bits agree, so a plane of weight bits gives a sum by popcount. A weight of
three values is the mean of two of ±1: w = (a + b) / 2, with a = +1 where w ≥ 0 and b = +1 where w > 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ..graph import Convolution

Array = np.ndarray[Any, Any]

MOST_PRODUCTS = 2**21
"""The most products in one sum: twice as many are whole numbers that float32 tells apart from their halves."""

_LARGEST = np.finfo(np.float32).max
_SMALLEST = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class Affine:
    """What is still to be done to each channel of a value x: scale · x + shift, both float64 (channels)."""

    scale: Array
    shift: Array

    def then(self, scale: Array, shift: Array) -> Affine:
        """Return this, followed by another scale and shift."""
        return Affine(self.scale * scale, self.shift * scale + shift)


@dataclass(frozen=True)
class Threshold:
    """When a sign is +1, a channel: where (x > ``level``) == ``above``; float32 and bool, both (channels)."""

    level: Array
    above: Array


def planes(signs: Tensor) -> tuple[Array, Array]:
    """Return the bits a and b of weights in {−1, 0, +1}, of their shape: w = (a + b) / 2 with 1 for +1 and 0 for −1."""
    values = signs.numpy()
    return values >= 0, values > 0


def little_endian(bits: Array) -> Array:
    """Return bits in rows as bytes, the first in the lowest bit of the first byte."""
    return np.packbits(bits.ravel(), bitorder="little")


def threshold(affine: Affine, *, whole: bool) -> Threshold:
    """Return when scale · x + shift ≥ 0, for x in float32.

    A negative scale turns the comparison round; a scale of 0 leaves the sign of the shift. With ``whole``, x is a
    whole number and the level lies halfway between two of them. Else it is the float32 next to the point where
    the sign changes, never a subnormal one, which runtimes take for 0.
    """
    scale, shift = affine.scale, affine.shift
    above = scale >= 0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        change = np.where(scale == 0, np.where(shift >= 0, -np.inf, np.inf), -shift / scale)
        level = _between_whole_numbers(change, above) if whole else _between_floats(change, above)
    return Threshold(np.clip(level, -_LARGEST, _LARGEST).astype(np.float32), above)


def _between_whole_numbers(change: Array, above: Array) -> Array:
    """Return the half below the first whole number that counts, or above the last."""
    return np.where(above, np.ceil(change) - 0.5, np.floor(change) + 0.5)


def _between_floats(change: Array, above: Array) -> Array:
    """Return the largest float32 below ``change``, or the largest that is not above it."""
    level: Array = change.astype(np.float32)
    down = np.where(above, level >= change, level > change)
    level = np.where(down, np.nextafter(level, np.float32(-np.inf)), level)
    beyond_zero = np.where(above, change > 0, change >= 0)
    return np.where(np.abs(level) < _SMALLEST, np.where(beyond_zero, 0, -_SMALLEST), level)


def has_kernel(layer: Convolution, width: int, outputs: int) -> bool:
    """Return whether OpenVINO's xnor kernels are right for a convolution of rows of ``width`` to rows of ``outputs``.

    They know no groups, go wrong for dilated kernels and for strides that are no power of two, and refuse a
    padding that is wider than a block of outputs: 4 with AVX-512, else 2.
    """
    if layer.groups != 1 or layer.dilation != (1, 1) or any(stride not in (1, 2, 4) for stride in layer.stride):
        return False
    kernel, stride, padding = layer.weight.shape[3], layer.stride[1], layer.padding[1]
    if kernel > 7 and (layer.stride != (1, 1) and layer.padding != (0, 0)):
        return False
    for block in (2, 4):
        block = min(block, outputs)
        full = outputs - outputs % block
        right = (full - 1) * stride + kernel - padding - width
        if max(padding, right) > block:
            return False
    return True
