"""The largest of many scores, exactly, in one pass over them.

The threshold lies almost certainly near the last one, or else between two values of a sample. The pass marks what is
above that bracket and collects what is inside, and only that is partitioned. If the bracket misled, everything is:
the answer never depends on it. Floyd & Rivest 1975 (Communications of the ACM 18, 165–172) select in this way.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from . import one_pass

_SAMPLE = 1 << 14
_WIDTH = 5  # standard deviations of the sampled rank on either side
_BLOCK = 1 << 18  # values that fit a cache of one processor; smaller ones would have threads wait for the interpreter
_FEW = 256
_DRIFTS = 4  # how many times its last changes a threshold may move and still be where it is looked for


class Largest(NamedTuple):
    """The k-th largest of some values, how many of them reach it, and which, one bool vector a part.

    More than k reach it if it is tied: ``level`` are the places of those that equal it, one rising vector a part. It is
    NaN, and the rest means nothing, if any value is NaN.
    """

    value: Any
    reached: int
    masks: list[NDArray[np.bool_]]
    level: list[NDArray[np.intp]]


class Thresholds:
    """Where the thresholds of earlier selections lay, by name: it makes the next ones quick, never other ones."""

    def __init__(self) -> None:
        self._last: dict[str, Any] = {}
        self._change: dict[str, Any] = {}
        self._parts: dict[int, Thresholds] = {}

    def part(self, number: int) -> Thresholds:
        """Return the memory of selections that are made again and again beside those of this one."""
        return self._parts.setdefault(number, Thresholds())

    def near(self, name: str) -> tuple[Any, Any] | None:
        """Return two values that the next threshold called ``name`` most likely lies between, None at first."""
        if name not in self._last:
            return None
        last, reach = self._last[name], _DRIFTS * self._change[name]
        return last - reach, last + reach

    def note(self, name: str, value: Any) -> None:
        """Remember the threshold of a selection, unless it is infinite."""
        if np.isfinite(value):
            change = abs(value - self._last.get(name, value))
            # By chance a threshold hardly moves at times; the next one will not do the same.
            self._change[name] = max(change, self._change.get(name, change) / 2)
            self._last[name] = value


class _Piece(NamedTuple):
    """A block of the values of a part from ``start`` on, and the room for its mask."""

    part: int
    start: int
    values: NDArray[Any]
    mask: NDArray[np.bool_]


class _Sorted(NamedTuple):
    """What a pass finds in a piece: how many values are above the bracket, places and values of those inside or NaN."""

    above: int
    places: NDArray[np.intp]
    inside: NDArray[Any]


def largest(
    parts: Sequence[NDArray[Any]], kept: int, *, magnitudes: bool = False, near: tuple[Any, Any] | None = None
) -> Largest:
    """Return which of real vectors are the ``kept`` largest of all, ``kept`` in [1, the sum of their sizes].

    ``magnitudes`` ranks absolute values. ``near`` are two values between which to look for the threshold first.
    """
    size = sum(part.size for part in parts)
    if size < 4 * _SAMPLE or not all(np.issubdtype(part.dtype, np.floating) for part in parts):
        return _partitioned(parts, kept, magnitudes)
    found = None if near is None else _within(near, parts, kept, magnitudes)
    found = found or _within(_sampled(parts, kept, size, magnitudes), parts, kept, magnitudes)
    return found or _partitioned(parts, kept, magnitudes)


def _partitioned(parts: Sequence[NDArray[Any]], kept: int, magnitudes: bool) -> Largest:
    ranked = [np.abs(part) if magnitudes else part for part in parts]
    values = ranked[0] if len(parts) == 1 else np.concatenate(ranked)
    first = values.size - kept
    ordered = np.partition(values, first)
    # NaN sorts above everything, so one anywhere shows up among the kept.
    if np.isnan(largest := ordered[first:].max()):
        return Largest(largest, 0, [], [])
    value = ordered[first]
    masks = [part >= value for part in ranked]
    level = [np.flatnonzero(part == value) for part in ranked]
    return Largest(value, sum(int(np.count_nonzero(mask)) for mask in masks), masks, level)


def _within(bracket: tuple[Any, Any], parts: Sequence[NDArray[Any]], kept: int, magnitudes: bool) -> Largest | None:
    """Return the ``kept`` largest if the last of them lies in the bracket, ends included, else None."""
    low, high = bracket
    masks = [np.empty(part.size, dtype=bool) for part in parts]
    pieces: list[_Piece] = []
    found: list[_Sorted] = []
    for number, (part, mask) in enumerate(zip(parts, masks, strict=True)):
        if (seen := one_pass.sort_out(part, low, high, magnitudes=magnitudes, mask=mask)) is not None:
            above, places = seen
            inside = part[places]
            pieces.append(_Piece(number, 0, part, mask))
            found.append(_Sorted(above, places, np.abs(inside) if magnitudes else inside))
            continue
        blocks = [
            _Piece(number, start, part[start : start + _BLOCK], mask[start : start + _BLOCK])
            for start in range(0, part.size, _BLOCK)
        ]
        pieces += blocks
        found += _in_threads(blocks, low, high, magnitudes)
    missing = kept - sum(piece.above for piece in found)
    inside = np.concatenate([piece.inside for piece in found])
    if np.isnan(inside).any():
        return Largest(np.nan, 0, [], [])
    if not 0 < missing <= inside.size:
        return None
    value = np.partition(inside, inside.size - missing)[inside.size - missing]
    level: list[list[NDArray[np.intp]]] = [[] for _ in parts]
    for piece, held in zip(pieces, found, strict=True):
        piece.mask[held.places[held.inside >= value]] = True
        level[piece.part].append(piece.start + held.places[held.inside == value])
    reached = kept - missing + int(np.count_nonzero(inside >= value))
    return Largest(value, reached, masks, [np.concatenate(places) for places in level])


def _sampled(parts: Sequence[NDArray[Any]], kept: int, size: int, magnitudes: bool) -> tuple[Any, Any]:
    """Return two values of a sample with, almost certainly, the ``kept``-th largest of all between them."""
    # An odd step reaches every column of a matrix whose width is a power of two.
    step, offset, taken = (size // _SAMPLE) | 1, 0, []
    for part in parts:
        taken.append(part[-offset % step :: step])
        offset += part.size
    sample = np.concatenate(taken)
    sample = np.sort(np.abs(sample) if magnitudes else sample)
    share = 1 - kept / size
    middle, spread = share * sample.size, _WIDTH * (sample.size * share * (1 - share)) ** 0.5 + 1
    low, high = max(0, int(middle - spread)), min(sample.size - 1, int(middle + spread))
    # At an end of the sample nothing is known of what lies beyond.
    return (sample[low] if low else -np.inf), (sample[high] if high < sample.size - 1 else np.inf)


def _sorted_out(pieces: Iterable[_Piece], low: Any, high: Any, magnitudes: bool) -> list[_Sorted]:
    """Mark what is above ``high`` in the masks of the pieces, and return what else is in them."""
    room, bits = np.empty(0), bytearray(_BLOCK)
    flags = np.frombuffer(bits, dtype=bool)
    found = []
    for _, _, values, mask in pieces:
        if magnitudes:
            if room.size < values.size or room.dtype != values.dtype:
                room = np.empty_like(values)
            values = np.abs(values, out=room[: values.size])
        np.greater(values, high, out=mask)
        below = np.less(values, low, out=flags[: values.size])
        np.equal(below, mask, out=below)  # neither above nor below, as NaN is too
        places = _places(bits, values.size)
        found.append(_Sorted(int(np.count_nonzero(mask)), places, values[places]))
    return found


def _places(flags: bytearray, size: int) -> NDArray[np.intp]:
    """Return which of the first ``size`` flags are 1: by a search for bytes, which is fast where they are few."""
    places: list[int] = []
    place = flags.find(1, 0, size)
    while place >= 0:
        if len(places) == _FEW:
            return np.flatnonzero(np.frombuffer(flags, dtype=bool, count=size))
        places.append(place)
        place = flags.find(1, place + 1, size)
    return np.array(places, dtype=np.intp)


def _in_threads(pieces: Sequence[_Piece], low: Any, high: Any, magnitudes: bool) -> list[_Sorted]:
    """Sort the pieces out, in order; numpy lets go of the interpreter while it computes."""
    threads = min(torch.get_num_threads(), len(pieces) // 2)  # less is done before another one has begun
    sort_out = partial(_sorted_out, low=low, high=high, magnitudes=magnitudes)
    if threads < 2:
        return sort_out(pieces)
    share = -(-len(pieces) // threads)
    shares = [pieces[start : start + share] for start in range(0, len(pieces), share)]
    return list(chain.from_iterable(_pool(threads).map(sort_out, shares)))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="strongticket-masks")


if hasattr(os, "register_at_fork"):  # threads do not follow into a fork, whose first work would wait for them
    os.register_at_fork(after_in_child=_pool.cache_clear)
