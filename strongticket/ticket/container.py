"""The container of a ticket: a safetensors file whose header is checked before anything in it is believed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import TicketError
from .description import Description, check_format, check_name, edge_count, parse, shown

__all__ = ["STORED_DTYPES", "Container", "check_entries", "pack", "read_container", "unpack"]

_KEY = "strongticket"
_START = b'{"__metadata__":{"strongticket":"{\\"sha256\\":\\"'
_DIGEST = slice(8 + len(_START), 8 + len(_START) + 64)
_LARGEST_HEADER = 4 << 20
STORED_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
}
"""The dtypes that a stored tensor may have, by their names in the file."""


@dataclass(frozen=True)
class Container:
    """What a file holds, its digest checked: the JSON of its description, the entries of its tensors, all its bytes."""

    said: dict[str, Any]
    entries: dict[str, Any]
    data: bytes


def pack(text: str, tensors: Mapping[str, Tensor]) -> bytes:
    """Return the file of a description, whose ``sha256`` is 64 zeros, and ``tensors``; its digest is filled in."""
    data = bytearray(safetensors.torch.save(dict(tensors), {_KEY: text}))
    data[_DIGEST] = _sha256(data).encode()
    return bytes(data)


def read_container(file: BinaryIO, size: int) -> Container:
    """Return what stands in ``file``, which has ``size`` bytes; TicketError if that is no whole ticket, bit for bit."""
    start, header = _header(file, size)
    metadata = header.pop("__metadata__", None)
    text = metadata.get(_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise TicketError("this is a safetensors file but no ticket: its metadata have no key 'strongticket'")
    said = parse(text, "the ticket's description")
    check_format(said)
    end = max((_end(key, entry) for key, entry in header.items()), default=0)
    missing = len(start) + end - size
    if missing > 0:
        raise TicketError(f"the file is truncated: {missing} of {len(start) + end} bytes are missing; fetch it again")
    if missing < 0:
        raise TicketError(f"the file has {-missing} bytes behind its end; fetch it again")
    data = start + file.read(end)
    _check_digest(data, said.get("sha256"))
    if len(metadata) > 1:
        raise TicketError(f"the metadata have unknown keys; format version {said['format']} has 'strongticket' only")
    return Container(said, header, data)


def unpack(container: Container) -> dict[str, Tensor]:
    """Return the tensors of a file by their keys; TicketError where their sizes and places do not fit together."""
    try:
        return safetensors.torch.load(container.data)
    except (SafetensorError, KeyError, ValueError, RuntimeError, TypeError, OverflowError) as error:
        raise TicketError(f"this is no valid safetensors file ({error})") from None


def check_entries(said: Description, header: Mapping[str, Any]) -> None:
    """Raise TicketError unless the file has just the tensors that its description speaks of."""
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
        if name in said.tensors:
            raise TicketError(f"{name} is both stored and drawn from the seed")
    for name in said.trained:
        if name not in stored:
            raise TicketError(f"{shown(name)} is named as trained but is not stored")


def _header(file: BinaryIO, size: int) -> tuple[bytes, dict[str, Any]]:
    """Return the bytes of ``file`` in front of the tensors, and the JSON in them."""
    length = file.read(8)
    if len(length) < 8:
        raise TicketError(f"the file is {len(length)} bytes long; this is no ticket, or the start of one")
    count = int.from_bytes(length, "little")
    if count > size - 8:
        raise TicketError(f"the header would be {count} bytes long, the file has {size - 8}: truncated, or no ticket")
    if count > _LARGEST_HEADER:
        raise TicketError(f"the header is {count} bytes long; a ticket's takes at most {_LARGEST_HEADER}")
    start = file.read(count)
    try:
        text = start.decode()
    except UnicodeDecodeError:
        raise TicketError("this is no safetensors file: its header is no text") from None
    return length + start, parse(text, "the safetensors header")


def _end(key: str, entry: object) -> int:
    """Return the offset behind a tensor's data; TicketError if the entry of the header cannot be one."""
    kind, _, name = key.partition(":")
    if kind not in ("mask", "stored"):
        raise TicketError(f"the file has a tensor {shown(key)}; a ticket has mask:NAME and stored:NAME only")
    check_name(name)
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise TicketError(f"the header's entry of {key} is {shown(entry)}; expected dtype, shape, data_offsets")
    edge_count(entry["shape"], f"the shape of {key}")
    offsets = entry["data_offsets"]
    if not isinstance(offsets, list) or [type(offset) for offset in offsets] != [int, int]:
        raise TicketError(f"the offsets of {key} are {shown(offsets)}; expected two integers")
    if not 0 <= offsets[0] <= offsets[1]:
        raise TicketError(f"the offsets of {key} are {shown(offsets)}; expected a range")
    end: int = offsets[1]
    return end


def _check_digest(data: bytes, named: object) -> None:
    if not data.startswith(_START, 8) or named != data[_DIGEST].decode(errors="replace"):
        raise TicketError("the ticket's SHA-256 does not stand where it should; the file is damaged, fetch it again")
    if named != _sha256(data):
        raise TicketError("the file is damaged: its SHA-256 is not the one it was written with; fetch it again")


def _sha256(data: bytes | bytearray) -> str:
    """Return the SHA-256 of a ticket file in which the digest itself reads as zeros."""
    view = memoryview(data)
    hasher = hashlib.sha256(view[: _DIGEST.start])
    hasher.update(b"0" * 64)
    hasher.update(view[_DIGEST.stop :])
    return hasher.hexdigest()
