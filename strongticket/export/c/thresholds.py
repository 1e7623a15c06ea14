"""A sign after a layer as a comparison of the layer's sum, so that no normalisation is left.

Between a layer and the sign of its outputs there may be normalisations, ReLU and max-pools. All are monotone: whether
the sign is +1 changes at one value of the sum, and a pool of larger values is a pool of signs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..graph import MaxPool, Normalisation, Operation
from ..graph.network import compute

_WIDTH = 16  # torch's kernels take the numbers of a row in vectors; the last few of a short row they take otherwise
_LARGEST = 0x7F7FFFFF  # the bits of the largest float32


def directions(operations: Sequence[Operation], channels: int) -> Tensor:
    """Return −1 for channels whose order the normalisations among ``operations`` turn round, else +1 (int64)."""
    found = torch.ones(channels, dtype=torch.int64)
    for operation in operations:
        if isinstance(operation, Normalisation) and operation.weight is not None:
            found *= torch.where(operation.weight < 0, -1, 1)
    return found


def decides(operations: Sequence[Operation], values: Tensor) -> Tensor:
    """Return for a value of each channel, float32, whether the sign after ``operations`` is +1; pools do nothing.

    The arithmetic is that of torch, float32.
    """
    image = values[None, :, None, None].expand(1, -1, 1, _WIDTH).contiguous()
    for operation in operations:
        if not isinstance(operation, MaxPool):
            image = compute(operation, image)
    return image[0, :, 0, 0] >= 0


def smallest(holds: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Return for each channel the smallest integer in [low, high] for which a condition holds, else high + 1.

    ``holds`` takes an int64 for each channel and returns bools: False up to some number, and True from there on.
    """
    low, high = low.clone(), high + 1
    while bool((low < high).any()):
        middle = torch.div(low + high, 2, rounding_mode="floor")
        found = holds(middle)
        high = torch.where((low < high) & found, middle, high)
        low = torch.where((low < high) & ~found, middle + 1, low)
    return low


def integer_thresholds(operations: Sequence[Operation], gain: Tensor, bias: Tensor, reach: Tensor) -> Tensor:
    """Return from which sum on a sign is +1: int64 (channels), ``reach`` + 1 for one that never is.

    The sum is an integer in [−reach, reach]; the layer's output is sum · gain + bias, float32.
    """
    return smallest(lambda sums: decides(operations, sums.float() * gain + bias), -reach, reach)


def real_thresholds(operations: Sequence[Operation], gain: Tensor, bias: Tensor) -> Tensor:
    """Return the same for sums that are any finite float32, as float32; the largest of them where it never is +1."""
    highest = torch.full(gain.shape, _LARGEST, dtype=torch.int64)
    found = smallest(lambda order: decides(operations, _float_at(order) * gain + bias), -highest, highest)
    return _float_at(found.clamp(max=_LARGEST))


def _float_at(order: Tensor) -> Tensor:
    """Return the finite float32 numbers at places in their order; both zeros are at place 0."""
    bits = torch.where(order < 0, -order, order).to(torch.int32).view(torch.float32)
    return torch.where(order < 0, -bits, bits)
