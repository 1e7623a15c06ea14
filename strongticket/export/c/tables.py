"""Constant arrays of a C program: what they hold, how many bytes they take, and their text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_SIZES = {"uint8_t": 1, "int16_t": 2, "int32_t": 4, "uint32_t": 4, "float": 4}
_WIDTH = 116


@dataclass(frozen=True)
class Table:
    """A constant array: its name and element type in C, and its values in a row."""

    name: str
    type: str
    values: Array

    @property
    def bytes(self) -> int:
        """How many bytes it takes."""
        return len(self.values) * _SIZES[self.type]

    def declaration(self) -> str:
        """Return its definition in C. Numbers are literals, so that no machine's byte order is in them."""
        literals = _LITERALS[self.type](self.values)
        body = "\n".join(f"    {line}" for line in _lines(literals))
        return f"static const {self.type} {self.name}[{len(self.values)}] = {{\n{body}\n}};\n"


def float_literal(value: float) -> str:
    """Return a finite float32 as a literal of C99 that gives all its bits back.

    >>> float_literal(0.5), float_literal(-3.0), float_literal(0.0)
    ('0x1p-1f', '-0x1.8p+1f', '0x0p+0f')
    """
    text = float(value).hex()
    return re.sub(r"\.?0*p", "p", text) + "f"


def smallest_type(values: Iterable[Array]) -> str:
    """Return the smaller of int16_t and int32_t that holds all values of some arrays of integers."""
    limits = np.iinfo(np.int16)
    fits = all(len(one) == 0 or (limits.min <= one.min() and one.max() <= limits.max) for one in values)
    return "int16_t" if fits else "int32_t"


def _lines(literals: Iterable[str]) -> Iterator[str]:
    line = ""
    for literal in literals:
        if len(line) + len(literal) + 2 > _WIDTH:
            yield line
            line = ""
        line += f" {literal}," if line else f"{literal},"
    yield line


def _integers(values: Array) -> Iterable[str]:
    return map(str, values.tolist())


def _wide_integers(values: Array) -> Iterable[str]:
    # The literal of the lowest is no int32_t: C reads a minus and a number that is one too large.
    return ("(-2147483647 - 1)" if value == -(2**31) else str(value) for value in values.tolist())


def _words(values: Array) -> Iterable[str]:
    return map("0x{:08x}u".format, values.tolist())


def _floats(values: Array) -> Iterable[str]:
    return map(float_literal, values.tolist())


_LITERALS = {
    "uint8_t": _integers,
    "int16_t": _integers,
    "int32_t": _wide_integers,
    "uint32_t": _words,
    "float": _floats,
}
