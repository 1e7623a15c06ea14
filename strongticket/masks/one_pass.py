"""The pass of ``threshold.py`` in C, where ``threshold.c`` was compiled: several times as fast as numpy's.

It is a library and no Python module: found beside this file, called through ctypes, and missed by nobody.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_ROOM = 16  # one place for so many scores; more are looked for only when little is known of the threshold
_LEAST_ROOM = 1024
_FOR_A_THREAD = 1 << 15  # as torch has it, so that a thread finds near it what it wrote in the step before

Pass = Callable[..., None]

_is_fork = False
if hasattr(os, "register_at_fork"):

    def _note_fork() -> None:
        global _is_fork
        _is_fork = True

    os.register_at_fork(after_in_child=_note_fork)


@cache
def library() -> Pass | None:
    """Return the function of ``threshold.c``, None where it was not compiled or cannot be loaded."""
    for suffix in EXTENSION_SUFFIXES:
        file = Path(__file__).with_name(f"_threshold{suffix}")
        if file.exists():
            return loaded(file)
    return None


def loaded(file: Path) -> Pass | None:
    """Return the function of a compiled ``threshold.c``, None if it cannot be loaded."""
    try:
        function = ctypes.CDLL(str(file)).strongticket_sort_out_2
    except (OSError, AttributeError):
        return None
    address, size, value, whole = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_float, ctypes.c_int
    function.argtypes = [address, size, value, value, whole, address, address, size, whole, address, address]
    function.restype = None
    return function


def sort_out(
    values: NDArray[Any], low: Any, high: Any, *, magnitudes: bool, mask: NDArray[np.bool_]
) -> tuple[int, NDArray[np.intp]] | None:
    """Write to ``mask`` which values, or magnitudes, are above ``high``; return their number and the places of others.

    These are neither above ``high`` nor below ``low``, in rising order, NaN among them. None, and a mask that means
    nothing, if there is no library here, the values are not for it, or there are too many places.
    """
    function = library()
    if function is None or values.dtype != np.float32 or not (_is_float32(low) and _is_float32(high)):
        return None
    if not (values.flags.c_contiguous and mask.flags.c_contiguous):
        return None
    threads = _threads(values.size)
    part, share = -(-values.size // threads), max(_LEAST_ROOM, values.size // _ROOM // threads)
    places = np.empty(threads * share, dtype=np.int64)
    inside, above = np.empty(threads, dtype=np.uintp), np.empty(threads, dtype=np.uintp)
    arrays = [_address(array) for array in (values, mask, places, inside, above)]
    function(
        arrays[0], values.size, low, high, magnitudes, arrays[1], arrays[2], places.size, threads, arrays[3], arrays[4]
    )
    counts = inside.tolist()
    if max(counts) > share:
        return None
    found = [places[t * share : t * share + count] + t * part for t, count in enumerate(counts)]
    together = found[0] if threads == 1 else np.concatenate(found)
    return int(above.sum()), together.astype(np.intp, copy=False)


def _threads(size: int) -> int:
    """Return how many threads are to pass over so many scores; a fork has lost those that OpenMP had."""
    if _is_fork or not _shares_threads():
        return 1
    return max(1, min(torch.get_num_threads(), size // _FOR_A_THREAD))


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


def _is_float32(value: Any) -> bool:
    return float(np.float32(value)) == float(value)


def _address(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
