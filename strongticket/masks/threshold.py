"""The k-th largest of many scores, exactly, without partitioning them all.

A sample says between which two values the threshold almost certainly lies. One pass counts what is above
them and collects what is between, and only that is partitioned. If the sample misled, everything is: the answer
never depends on it. Floyd & Rivest 1975 (Communications of the ACM 18, 165–172) select in this way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

_SAMPLE = 1 << 14
_WIDTH = 5  # standard deviations of the sampled rank on either side
_BLOCK = 1 << 16  # values that a processor's own cache holds


class Threshold(NamedTuple):
    """The k-th largest of some values, and how many of them reach it: more than k if it is tied. NaN if any is NaN."""

    value: Any
    reached: int


def kth_largest(values: NDArray[Any], kept: int) -> Threshold:
    """Return the ``kept``-th largest of a real vector, ``kept`` in [1, len(values)]."""
    if values.size < 4 * _SAMPLE or not np.issubdtype(values.dtype, np.floating):
        return _partitioned(values, kept)
    low, high = _bracket(values, kept)
    largest, above, between = [], 0, []
    for part in _each_block(lambda block: _sorted_out(block, low, high), values):
        largest.append(part[0])
        above += part[1]
        between.append(part[2])
    if np.isnan(maximum := np.max(largest)):
        return Threshold(maximum, 0)
    band = np.concatenate(between)
    if not above < kept <= above + band.size:
        return _partitioned(values, kept)
    found = _partitioned(band, kept - above)
    return Threshold(found.value, above + found.reached)


def _partitioned(values: NDArray[Any], kept: int) -> Threshold:
    first = values.size - kept
    ordered = np.partition(values, first)
    # NaN sorts above everything, so one anywhere shows up among the kept.
    if np.isnan(largest := ordered[first:].max()):
        return Threshold(largest, 0)
    return Threshold(ordered[first], kept + int(np.count_nonzero(ordered[:first] == ordered[first])))


def _bracket(values: NDArray[Any], kept: int) -> tuple[Any, Any]:
    """Return two values of a sample of ``values`` with, almost certainly, the ``kept``-th largest between them."""
    # An odd step reaches every column of a matrix whose width is a power of two.
    sample = np.sort(values[:: (values.size // _SAMPLE) | 1])
    share = 1 - kept / values.size
    middle, spread = share * sample.size, _WIDTH * (sample.size * share * (1 - share)) ** 0.5 + 1
    low, high = max(0, int(middle - spread)), min(sample.size - 1, int(middle + spread))
    # At an end of the sample nothing is known of what lies beyond.
    return (sample[low] if low else -np.inf), (sample[high] if high < sample.size - 1 else np.inf)


def _sorted_out(block: NDArray[Any], low: Any, high: Any) -> tuple[Any, int, NDArray[Any]]:
    """Return the largest value, how many are above ``high``, and those from ``low`` to ``high``."""
    above = block > high
    return block.max(), int(np.count_nonzero(above)), block[(block >= low) ^ above]


def _each_block(function: Callable[[NDArray[Any]], Any], values: NDArray[Any]) -> Iterator[Any]:
    blocks: Iterable[NDArray[Any]] = (values[start : start + _BLOCK] for start in range(0, values.size, _BLOCK))
    threads = min(torch.get_num_threads(), values.size // _BLOCK)
    if threads < 2:
        yield from map(function, blocks)
        return
    with ThreadPoolExecutor(threads) as pool:  # numpy lets go of the interpreter while it computes
        yield from pool.map(function, blocks)
