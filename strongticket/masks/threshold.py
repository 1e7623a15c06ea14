"""The largest of many scores, exactly, in one pass over them.

The threshold lies almost certainly near the last one, or else between two values of a sample. The pass marks what is
above that bracket and collects what is inside, and only that is partitioned. If the bracket misled, everything is:
the answer never depends on it. Floyd & Rivest 1975 (Communications of the ACM 18, 165–172) select in this way.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import one_pass
from .one_pass import Contest, Largest

_SAMPLE = 1 << 14
_WIDTH = 5  # standard deviations of the sampled rank on either side
_BLOCK = 1 << 18  # values that fit a cache of one processor; smaller ones would have threads wait for the interpreter
_FEW = 256
_DRIFTS = 3  # how many times its last changes a threshold may move and still be where it is looked for
_FADE = 0.95  # what a change counts for one selection later; with 0.5 four in a hundred thresholds were missed


class Thresholds:
    """Where the thresholds of earlier selections lay, by name: it makes the next ones quick, never other ones."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._change: dict[str, float] = {}
        self._parts: dict[int, Thresholds] = {}
        self._contests: tuple[object, Contests] | None = None
        self.masks: Mapping[str, Tensor] = {}
        """The masks of the last selection, where a rule keeps them here to have them written to again."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the contests and their masks, since a copy's would be those of other tensors."""
        return {**self.__dict__, "_contests": None, "masks": {}}

    def part(self, number: int) -> Thresholds:
        """Return the memory of selections that are made again and again beside those of this one."""
        return self._parts.setdefault(number, Thresholds())

    def contests(self, key: object) -> Contests | None:
        """Return the contests that were kept, if it was under this key."""
        return self._contests[1] if self._contests is not None and self._contests[0] == key else None

    def keep(self, key: object, contests: Contests) -> None:
        """Keep contests, and so the memory that their values lie in, in place of those kept before."""
        self._contests = key, contests

    def near(self, name: str) -> tuple[float, float] | None:
        """Return two values that the next threshold called ``name`` most likely lies between, None at first."""
        if name not in self._last:
            return None
        last, reach = self._last[name], _DRIFTS * self._change[name]
        return last - reach, last + reach

    def note(self, name: str, value: float) -> None:
        """Remember the threshold of a selection, unless it is infinite."""
        if math.isfinite(value):
            change = abs(value - self._last.get(name, value))
            # By chance a threshold hardly moves at times; the next one will not do the same.
            self._change[name] = max(change, _FADE * self._change.get(name, change))
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


class Contests:
    """Contests that are decided together, as often as their values change in place."""

    def __init__(self, contests: Sequence[Contest]) -> None:
        self._contests = contests
        self._by_c = [number for number, contest in enumerate(contests) if one_pass.takes(contest)]
        self._table = one_pass.Table([contests[number] for number in self._by_c])

    def largest(
        self, near: Sequence[tuple[float, float] | None] | None = None, *, magnitudes: bool = False
    ) -> list[Largest]:
        """Find the largest of each contest and write its masks; ``magnitudes`` ranks absolute values.

        ``near`` has for each contest two values between which the last of those kept most likely lies, or None.
        """
        found = self._within(near or [None for _ in self._contests], magnitudes)
        if None in found:
            sampled = [
                _sampled(contest, magnitudes) if one is None else None
                for contest, one in zip(self._contests, found, strict=True)
            ]
            found = [one or again for one, again in zip(found, self._within(sampled, magnitudes), strict=True)]
        return [one or _partitioned(contest, magnitudes) for contest, one in zip(self._contests, found, strict=True)]

    def _within(self, brackets: Sequence[tuple[Any, Any] | None], magnitudes: bool) -> list[Largest | None]:
        """Return the largest of each contest if the last of them lies in its bracket, ends included, else None."""
        by_c = self._table.largest([brackets[number] for number in self._by_c], magnitudes=magnitudes)
        if len(by_c) == len(brackets):
            return by_c
        found = dict(zip(self._by_c, by_c, strict=True))
        return [
            found[number] if number in found else bracket and _within(contest, bracket, magnitudes)
            for number, (contest, bracket) in enumerate(zip(self._contests, brackets, strict=True))
        ]


def _partitioned(contest: Contest, magnitudes: bool) -> Largest:
    ranked = [np.abs(part) if magnitudes else part for part in contest.parts]
    values = ranked[0] if len(ranked) == 1 else np.concatenate(ranked)
    first = values.size - contest.kept
    ordered = np.partition(values, first)
    # NaN sorts above everything, so one anywhere shows up among the kept.
    if np.isnan(last := ordered[first:].max()):
        return Largest(last, [], [])
    value = ordered[first]
    for part, mask in zip(ranked, contest.masks, strict=True):
        np.greater_equal(part, value, out=mask)
    reached = [int(np.count_nonzero(mask)) for mask in contest.masks]
    is_tied = sum(reached) > contest.kept
    return Largest(value, reached, [np.flatnonzero(part == value) for part in ranked] if is_tied else [])


def _within(contest: Contest, bracket: tuple[Any, Any], magnitudes: bool) -> Largest | None:
    """Do what ``one_pass.Table`` does, by numpy; None of few values, which are as well partitioned."""
    if not _is_worth_a_pass(contest):
        return None
    pieces = [
        _Piece(number, start, part[start : start + _BLOCK], mask[start : start + _BLOCK])
        for number, (part, mask) in enumerate(zip(contest.parts, contest.masks, strict=True))
        for start in range(0, part.size, _BLOCK)
    ]
    found = _in_threads(pieces, *bracket, magnitudes)
    missing = contest.kept - sum(piece.above for piece in found)
    inside = np.concatenate([piece.inside for piece in found])
    if np.isnan(inside).any():
        return Largest(np.nan, [], [])
    if not 0 < missing <= inside.size:
        return None
    value = np.partition(inside, inside.size - missing)[inside.size - missing]
    level: list[list[NDArray[np.intp]]] = [[] for _ in contest.parts]
    reached = [0 for _ in contest.parts]
    for piece, held in zip(pieces, found, strict=True):
        reaching = held.places[held.inside >= value]
        piece.mask[reaching] = True
        reached[piece.part] += held.above + reaching.size
        level[piece.part].append(piece.start + held.places[held.inside == value])
    is_tied = sum(reached) > contest.kept
    return Largest(value, reached, [np.concatenate(places) for places in level] if is_tied else [])


def _is_worth_a_pass(contest: Contest) -> bool:
    """Say whether a bracket saves numpy some work."""
    is_large = sum(part.size for part in contest.parts) >= 4 * _SAMPLE
    return is_large and all(np.issubdtype(part.dtype, np.floating) for part in contest.parts)


def _sampled(contest: Contest, magnitudes: bool) -> tuple[Any, Any] | None:
    """Return two values of a sample with, almost certainly, the last of those kept between them; None of few values."""
    if not _is_worth_a_pass(contest):
        return None
    parts, kept, size = contest.parts, contest.kept, sum(part.size for part in contest.parts)
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
