"""The pass of ``threshold.py`` in C, where ``threshold.c`` was compiled: several times as fast as numpy's.

It is a library and no Python module: found beside this file, called through ctypes, and missed by nobody.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROOM = 16  # one place for so many scores; more are looked for only when little is known of the threshold
_LEAST_ROOM = 1024

SortOut = Callable[..., int]


@cache
def library() -> SortOut | None:
    """Return the function of ``threshold.c``, None where it was not compiled or cannot be loaded."""
    for suffix in EXTENSION_SUFFIXES:
        file = Path(__file__).with_name(f"_threshold{suffix}")
        if file.exists():
            return loaded(file)
    return None


def loaded(file: Path) -> SortOut | None:
    """Return the function of a compiled ``threshold.c``, None if it cannot be loaded."""
    try:
        function = ctypes.CDLL(str(file)).strongticket_sort_out
    except (OSError, AttributeError):
        return None
    address, size, value = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_float
    function.argtypes = [address, size, value, value, ctypes.c_int, address, address, size, address]
    function.restype = size
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
    above = ctypes.c_size_t(0)
    places = np.empty(max(_LEAST_ROOM, values.size // _ROOM), dtype=np.int64)
    inside = function(
        _address(values),
        values.size,
        low,
        high,
        magnitudes,
        _address(mask),
        _address(places),
        places.size,
        ctypes.byref(above),
    )
    return None if inside > places.size else (above.value, places[:inside].astype(np.intp, copy=False))


def _is_float32(value: Any) -> bool:
    return float(np.float32(value)) == float(value)


def _address(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
