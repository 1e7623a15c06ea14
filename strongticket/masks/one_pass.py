"""The pass of ``threshold.py`` in C, where ``threshold.c`` was compiled: several times as fast as numpy's.

All selections of a network are one call, since small layers would otherwise cost more around it than in it.

It is a library and no Python module: found beside this file, called through ctypes, and missed by nobody.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable, Sequence
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from itertools import accumulate, pairwise
from operator import mul
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

_ROOM = 16  # one place for so many scores; more are looked for only when little is known of the threshold
_LEAST_ROOM = 1024
_FOR_A_THREAD = 1 << 15  # as torch has it, so that a thread finds near it what it wrote in the step before

Function = Callable[..., None]


class Contest(NamedTuple):
    """Values of one vector or several that compete for ``kept`` places, in [1, the sum of their sizes].

    ``masks``, one vector a part, are where it is written which of them are kept.
    """

    parts: Sequence[NDArray[Any]]
    masks: Sequence[NDArray[np.bool_]]
    kept: int


class Largest(NamedTuple):
    """The last value kept in a contest, and how many of each part reach it, which its masks tell.

    More than ``kept`` reach it if it is tied. Then ``level`` are the places of those that equal it, one rising vector
    a part; else it is empty. The value is NaN, and nothing else means anything, if any value is NaN.
    """

    value: Any
    reached: list[int]
    level: list[NDArray[np.intp]]


class _Part(ctypes.Structure):
    """What ``threshold.c`` calls so."""

    _fields_ = [
        ("scores", ctypes.c_void_p),
        ("mask", ctypes.c_void_p),
        ("places", ctypes.c_void_p),
        *((name, ctypes.c_size_t) for name in ("size", "shares", "room", "reached", "level")),
    ]


class _Contest(ctypes.Structure):
    """What ``threshold.c`` calls so."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("first", "parts", "kept")),
        *((name, ctypes.c_float) for name in ("low", "high", "value")),
        ("is_found", ctypes.c_int),
    ]


_is_fork = False
if hasattr(os, "register_at_fork"):

    def _note_fork() -> None:
        global _is_fork
        _is_fork = True

    os.register_at_fork(after_in_child=_note_fork)


@cache
def library() -> Function | None:
    """Return the function of ``threshold.c``, None where it was not compiled or cannot be loaded."""
    for suffix in EXTENSION_SUFFIXES:
        file = Path(__file__).with_name(f"_threshold{suffix}")
        if file.exists():
            return loaded(file)
    return None


def loaded(file: Path) -> Function | None:
    """Return the function of a compiled ``threshold.c``, None if it cannot be loaded."""
    try:
        function = ctypes.CDLL(str(file)).strongticket_largest_3
    except (OSError, AttributeError):
        return None
    size, whole = ctypes.c_size_t, ctypes.c_int
    function.argtypes = [ctypes.POINTER(_Contest), size, ctypes.POINTER(_Part), size, size, whole, whole]
    function.restype = None
    return function


def takes(contest: Contest) -> bool:
    """Say whether there is a library here and the values are for it: float32 that lie in one piece."""
    return library() is not None and all(part.dtype == np.float32 and part.flags.c_contiguous for part in contest.parts)


class Table:
    """Contests that the library ``takes``, as it reads them; they can be decided again and again."""

    def __init__(self, contests: Sequence[Contest]) -> None:
        self._contests = contests  # whose arrays have to stay where they are
        parts = [part for contest in contests for part in contest.parts]
        masks = [mask for contest in contests for mask in contest.masks]
        shares = [max(1, min(threads(), part.size // _FOR_A_THREAD)) for part in parts]
        rooms = [max(_LEAST_ROOM, part.size // _ROOM // share) for part, share in zip(parts, shares, strict=True)]
        starts = [0, *accumulate(map(mul, rooms, shares))]
        self._places = np.empty(starts[-1], dtype=np.int64)
        self._rooms = [self._places[start:end] for start, end in pairwise(starts)]
        self._shares = max(shares, default=1)
        self._parts = (_Part * len(parts))(
            *(
                _Part(address_of(part), address_of(mask), address_of(place), part.size, share, room)
                for part, mask, place, share, room in zip(parts, masks, self._rooms, shares, rooms, strict=True)
            )
        )
        firsts = list(accumulate((len(contest.parts) for contest in contests), initial=0))
        self._rows = (_Contest * len(contests))(
            *(_Contest(first, len(each.parts), each.kept) for first, each in zip(firsts[:-1], contests, strict=True))
        )
        self._of = [(self._rows[n], range(*ends)) for n, ends in enumerate(pairwise(firsts))]

    def largest(self, brackets: Sequence[tuple[float, float] | None], *, magnitudes: bool) -> list[Largest | None]:
        """Return the largest of each contest, None where the last of them is not in the bracket, or there is none.

        A bracket's ends belong to it. None is returned too where so much is inside that it says little.
        """
        if (function := library()) is None or not any(brackets):
            return [None for _ in brackets]
        for (row, _), bracket in zip(self._of, brackets, strict=True):
            row.low, row.high = bracket or (math.nan, math.nan)
        function(self._rows, len(self._rows), self._parts, len(self._parts), self._shares, magnitudes, threads())
        return [self._found(row, parts) if row.is_found else None for row, parts in self._of]

    def _found(self, row: _Contest, parts: range) -> Largest:
        reached = [self._parts[p].reached for p in parts]
        is_tied = sum(reached) > row.kept
        level = [self._rooms[p][: self._parts[p].level].astype(np.intp) for p in parts] if is_tied else []
        return Largest(row.value, reached, level)


def threads() -> int:
    """Return how many threads there are for a pass; a fork has lost those that OpenMP had."""
    return torch.get_num_threads() if _shares_threads() and not _is_fork else 1


@cache
def _shares_threads() -> bool:
    """Say whether the library's OpenMP is torch's own; threads of another one would wait actively beside torch's."""
    try:
        mapped = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return False
    # Other packages bring libraries of other names; this name is what threshold.c was linked to.
    found = {Path(line.split()[-1]) for line in mapped if "/libgomp.so.1" in line}
    return bool(found) and all(Path(torch.__file__).parent in file.parents for file in found)


def address_of(array: NDArray[Any]) -> int:
    """Return where in memory an array begins."""
    address: int = array.__array_interface__["data"][0]
    return address
