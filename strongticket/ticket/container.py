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
from .coding import STREAM_OF
from .description import JOINED, LEVELLED, check_format, check_name, edge_count
from .strict import parse, shown

__all__ = ["Container", "pack", "read_container", "sections", "unpack"]

_KEY = "strongticket"
_START = b'{"__metadata__":{"strongticket":"{\\"sha256\\":\\"'
_DIGEST = slice(8 + len(_START), 8 + len(_START) + 64)
_LARGEST_HEADER = 4 << 20
_STREAMS = tuple(dict.fromkeys(STREAM_OF.values()))
_LEVELS = tuple(f"levels.{stream}" for stream in _STREAMS)
_SECTIONS = ("table", *(f"masks.{stream}" for stream in _STREAMS), "stored")


@dataclass(frozen=True)
class Container:
    """What a file holds, its digest checked: the JSON of its description, the entries of its tensors, all its bytes."""

    said: dict[str, Any]
    entries: dict[str, Any]
    data: bytes


def pack(text: str, content: Mapping[str, bytes]) -> bytes:
    """Return the file of a description, whose ``sha256`` is 64 zeros, and its ``content``; its digest is filled in."""
    tensors = {key: torch.tensor(bytearray(data), dtype=torch.uint8) for key, data in content.items()}
    data = bytearray(safetensors.torch.save(tensors, {_KEY: text}))
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
    for key in header:
        _check_key(key, said["format"])
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


def sections(container: Container) -> dict[str, bytes]:
    """Return the bytes of a file's tensors by their keys; TicketError unless they are bytes that fill the file."""
    start = len(container.data) - max((entry["data_offsets"][1] for entry in container.entries.values()), default=0)
    found, reached = {}, 0
    for key, entry in sorted(container.entries.items(), key=lambda item: item[1]["data_offsets"]):
        first, behind = entry["data_offsets"]
        if entry["dtype"] != "U8" or entry["shape"] != [behind - first]:
            found_as = f"{shown(entry['dtype'])} {shown(entry['shape'])}"
            raise TicketError(f"{key} has {found_as}; expected U8 in one dimension of {behind - first}")
        if first != reached:
            raise TicketError(f"{key} begins at byte {first}, the tensor before it ends at {reached}")
        found[key], reached = container.data[start + first : start + behind], behind
    return found


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


def _check_key(key: str, version: int) -> None:
    if version >= JOINED:
        known = (*_SECTIONS, *_LEVELS) if version >= LEVELLED else _SECTIONS
        if key not in known:
            raise TicketError(f"the file has a tensor {shown(key)}; a ticket has {', '.join(known)} only")
        return
    kind, _, name = key.partition(":")
    if kind not in ("mask", "stored"):
        raise TicketError(f"the file has a tensor {shown(key)}; a ticket has mask:NAME and stored:NAME only")
    check_name(name)


def _end(key: str, entry: object) -> int:
    """Return the offset behind a tensor's data; TicketError if the entry of the header cannot be one."""
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
