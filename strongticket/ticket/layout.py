"""Where masks and stored tensors stand in a ticket's file: all together since version 4, a tensor each before that."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import TicketError
from .coding import CodedMasks
from .container import Container, sections, unpack
from .description import JOINED, STORED_DTYPES, Description, read
from .frames import framed_text, text_of
from .strict import parse, shown

__all__ = ["content", "described", "laid_out"]

_LARGEST_TABLE = 4 << 20


def laid_out(table: str, coded: CodedMasks, above: CodedMasks | None, stored: Mapping[str, Tensor]) -> dict[str, bytes]:
    """Return the sections of a file: its table, the streams of masks and of levels, stored tensors by their names."""
    found = {"table": framed_text(table)}
    found |= {f"masks.{stream}": data for stream, data in coded.streams.items()}
    if above is not None:
        found |= {f"levels.{stream}": data for stream, data in above.streams.items()}
    if stored:
        found["stored"] = b"".join(_bytes_of(stored[name]) for name in sorted(stored))
    return found


def described(container: Container) -> Description:
    """Return what a file says of itself; TicketError, naming the place, for whatever is odd."""
    if container.said["format"] < JOINED:
        said = read(container.said)
        _check_entries(said, container.entries)
        return said
    table = sections(container).get("table")
    if table is None:
        raise TicketError("the file has no tensor 'table', which says what is in it")
    said = read(container.said, parse(text_of(table, "the table", most=_LARGEST_TABLE), "the table"))
    _check_names(said, said.stored or {})
    expected = {"table", *(f"masks.{stream}" for group in said.coded for stream in group.streams)}
    expected |= {f"levels.{stream}" for stream in said.above.streams}
    expected |= {"stored"} if said.stored else set()
    for key in sorted(expected ^ container.entries.keys()):
        where = "described but not in the file" if key in expected else "in the file but not described"
        raise TicketError(f"the tensor {key!r} is {where}")
    return said


def content(said: Description, container: Container) -> tuple[tuple[CodedMasks, ...], CodedMasks, dict[str, Tensor]]:
    """Return the masks of a file with their bytes, those of levels, and its stored tensors; TicketError if odd."""
    above = said.above
    if said.stored is None:
        tensors = unpack(container)
        stored = {key.removeprefix("stored:"): value for key, value in tensors.items() if key.startswith("stored:")}
        coded = [
            replace(group, streams={stream: tensors[f"mask:{name}"].numpy().tobytes() for stream in group.streams})
            for group in said.coded
            for name in group.masks
        ]
    else:
        held = sections(container)
        stored = _taken_apart(held.get("stored", b""), said)
        coded = [
            replace(group, streams={stream: held[f"masks.{stream}"] for stream in group.streams})
            for group in said.coded
        ]
        above = replace(above, streams={stream: held[f"levels.{stream}"] for stream in above.streams})
    for name, value in stored.items():
        if value.dtype is torch.bool and bool((value.view(torch.uint8) > 1).any()):
            raise TicketError(f"stored:{name} has bytes over 1 for booleans")
    return tuple(coded), above, stored


def _check_entries(said: Description, header: Mapping[str, Any]) -> None:
    """Raise TicketError unless a file of a version before 4 has just the tensors that its description speaks of."""
    stored = {key.removeprefix("stored:") for key in header if key.startswith("stored:")}
    masks = {key.removeprefix("mask:") for key in header if key.startswith("mask:")}
    for name in sorted(masks ^ said.masks.keys()):
        where = "described but not in the file" if name in said.masks else "in the file but not described"
        raise TicketError(f"the mask of {name} is {where}")
    for name in sorted(masks):
        entry = header[f"mask:{name}"]
        if entry["dtype"] != "U8" or len(entry["shape"]) != 1:
            raise TicketError(f"mask:{name} has {shown(entry['dtype'])} {entry['shape']}; expected U8 in one dimension")
    for name in sorted(stored):
        dtype = header[f"stored:{name}"]["dtype"]
        if not isinstance(dtype, str) or dtype not in STORED_DTYPES:
            raise TicketError(f"stored:{name} has dtype {shown(dtype)}; expected one of {', '.join(STORED_DTYPES)}")
    _check_names(said, stored)


def _check_names(said: Description, stored: Collection[str]) -> None:
    for name in sorted(stored):
        if name in said.tensors:
            raise TicketError(f"{name} is both stored and drawn from the seed")
    for name in said.trained:
        if name not in stored:
            raise TicketError(f"{shown(name)} is named as trained but is not stored")


def _taken_apart(data: bytes, said: Description) -> dict[str, Tensor]:
    """Return the tensors that stand behind each other in ``data``."""
    entries = said.stored or {}
    sizes = {name: math.prod(entry.shape) * entry.dtype.itemsize for name, entry in entries.items()}
    if sum(sizes.values()) != len(data):
        raise TicketError(f"the stored tensors take {sum(sizes.values())} bytes, the file has {len(data)}")
    found, start = {}, 0
    for name, entry in entries.items():
        piece = bytearray(data[start : start + sizes[name]])
        start += sizes[name]
        flat = torch.frombuffer(piece, dtype=entry.dtype) if piece else torch.empty(0, dtype=entry.dtype)
        found[name] = flat.reshape(entry.shape)
    return found


def _bytes_of(value: Tensor) -> bytes:
    return value.reshape(-1).view(torch.uint8).numpy().tobytes()
