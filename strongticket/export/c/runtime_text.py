"""The C functions that programs are put together from: sections of the files beside this one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType

_FILES = ("base.c", "binary.c", "real.c", "pointwise.c", "pools.c")
_SOURCES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "float_input": ("float", "word(image[x])"),
        "float_real": ("uint32_t", "image[x]"),
        "int8_input": ("float", "nearest(image[x] * layer->inverse_quantum)"),
        "int8_real": ("uint32_t", "nearest(real(image[x]) * layer->inverse_quantum)"),
        "int8_int8": ("int8_t", "image[x]"),
    }
)
"""What a frame is filled from, by its arithmetic and the kind of image: the element type, and an element's value."""


def section(name: str) -> str:
    """Return a section of the C source."""
    if name.startswith("fill_frame_"):
        source = name.removeprefix("fill_frame_")
        element, value = _SOURCES[source]
        text = _sections()["fill_frame"].replace("@NAME@", source.partition("_")[2])
        return text.replace("@TYPE@", element).replace("@VALUE@", value)
    return _sections()[name]


def in_order(names: Iterable[str]) -> list[str]:
    """Return sections, each once, in the order of the files: what is used stands before what uses it."""
    order = ["base", *_sections()]
    wanted = {"base", *names}
    return sorted(wanted, key=lambda name: order.index("fill_frame" if name.startswith("fill_frame_") else name))


def main_program() -> str:
    """Return the text of ``main.c``."""
    return _read("main.c")


@cache
def identifiers() -> frozenset[str]:
    """Return every word of the C source, which a program must not use for something else."""
    return frozenset(re.findall(r"\w+", "".join(map(_read, (*_FILES, "main.c")))))


@cache
def _sections() -> dict[str, str]:
    found: dict[str, str] = {}
    for file in _FILES:
        _, *parts = re.split(r"^/\*@ (\w+) \*/\n", _read(file), flags=re.MULTILINE)
        found |= dict(zip(parts[::2], parts[1::2], strict=True))
    return found


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")
