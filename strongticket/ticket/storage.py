"""The ticket file: one safetensors file, every bit of it under a digest. ``docs/format.md`` has each byte."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import TicketError
from ..files import write_beside
from ..weights import digest
from .coding import EncodedMask, decode_mask, encode_mask
from .description import Description, check_format, check_name, describe, edge_count, parse, read, shown
from .ticket import Ticket

__all__ = ["encoded_masks", "from_bytes", "load", "mask_bits", "save", "to_bytes"]

_KEY = "strongticket"
_START = b'{"__metadata__":{"strongticket":"{\\"sha256\\":\\"'
_DIGEST = slice(8 + len(_START), 8 + len(_START) + 64)
_LARGEST_HEADER = 4 << 20
# A few bytes of zstd can honestly stand for any number of edges of one kind, so a mask's size is bounded
# by the file's: without this a file of a kilobyte could ask for all memory there is.
_FREE_EDGES = 1 << 26
_EDGES_PER_BYTE = 4096
_STORED_DTYPES = {
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


def save(ticket: Ticket, path: str | Path) -> None:
    """Write ``ticket`` to ``path``, in one step: the file is whole or it is as it was before.

    Equal tickets give equal bytes under the same versions of zstd and safetensors. Raises TicketError if
    the ticket is inconsistent or the file cannot be written; nothing is left behind then.
    """
    data = to_bytes(ticket)
    try:
        write_beside(Path(path), data)
    except FileNotFoundError:
        raise TicketError(f"the ticket cannot be written to {path}: there is no folder {Path(path).parent}") from None
    except (OSError, ValueError) as error:
        raise TicketError(f"the ticket cannot be written to {path}: {_reason(error)}") from None


def load(path: str | Path) -> Ticket:
    """Return the ticket in the file at ``path``.

    Nothing in the file is run, and sizes are checked before memory is taken. Raises TicketError, in one
    line that begins with the path, if there is no such file, if it is no ticket or of a format version
    that this release does not read, and if one bit of it is not as it was written.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise TicketError(f"this is a folder; name the file in it, such as {Path(path) / 'ticket.safetensors'}")
        if not stat.S_ISREG(mode):
            raise TicketError("this is a device or a pipe; expected a ticket file")
        with open(path, "rb") as file:
            return _read(file, os.fstat(file.fileno()).st_size)
    except (OSError, ValueError) as error:
        raise TicketError(f"{path} cannot be read: {_reason(error)}") from None
    except MemoryError:
        raise TicketError(f"{path} takes more memory than there is") from None
    except TicketError as error:
        raise TicketError(f"{path}: {error}") from None


def to_bytes(ticket: Ticket) -> bytes:
    """Return the content of the ticket's file; TicketError if the ticket is inconsistent.

    What is returned has been read back: a ticket that could not be loaded is never written.
    """
    masks = encoded_masks(ticket)
    stored = {name: _plain(name, value) for name, value in ticket.stored.items()}
    tensors = {
        f"mask:{name}": torch.frombuffer(bytearray(coded.data), dtype=torch.uint8) for name, coded in masks.items()
    }
    tensors |= {f"stored:{name}": value for name, value in stored.items()}
    try:
        text = describe(ticket, masks, stored_digest=digest(stored))
        data = bytearray(safetensors.torch.save(tensors, {_KEY: text}))
        data[_DIGEST] = _sha256(data).encode()
        from_bytes(bytes(data))
    except (TicketError, SafetensorError, KeyError, ValueError) as error:
        raise TicketError(f"this ticket cannot be saved: {error}") from None
    return bytes(data)


def from_bytes(data: bytes) -> Ticket:
    """Return the ticket whose file has the content ``data``; TicketError as ``load`` raises it."""
    return _read(BytesIO(data), len(data))


def encoded_masks(ticket: Ticket) -> dict[str, EncodedMask]:
    """Return every mask as its file holds it; TicketError if the masks are not those of the masked tensors."""
    expected = {name: tensor.shape for name, tensor in ticket.tensors.items() if tensor.masked}
    found = {name: tuple(mask.shape) for name, mask in ticket.masks.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise TicketError(
                f"this ticket is inconsistent: the mask of {name} has shape {found.get(name)}, "
                f"the masked tensor {expected.get(name)}"
            )
    for name, shape in expected.items():
        if 0 in shape:
            raise TicketError(f"this ticket is inconsistent: {name} has shape {shape}, there is nothing to mask")
    return {name: encode_mask(ticket.masks[name], name=f"the mask of {name}") for name in expected}


def mask_bits(ticket: Ticket) -> int:
    """Return the size of all coded masks in bits, without the rest of the file; ``entropy_bits`` is the yardstick."""
    return 8 * sum(len(coded.data) for coded in encoded_masks(ticket).values())


def _read(file: BinaryIO, size: int) -> Ticket:
    start, header = _header(file, size)
    text = _object_in(header, "__metadata__").get(_KEY)
    if not isinstance(text, str):
        raise TicketError("this is a safetensors file but no ticket: its metadata have no key 'strongticket'")
    said = parse(text, "the ticket's description")
    check_format(said)
    end = max((_end(key, header[key]) for key in header if key != "__metadata__"), default=0)
    missing = len(start) + end - size
    if missing > 0:
        raise TicketError(f"the file is truncated: {missing} of {len(start) + end} bytes are missing; fetch it again")
    if missing < 0:
        raise TicketError(f"the file has {-missing} bytes behind its end; fetch it again")
    data = start + file.read(end)
    _check_digest(data, said.get("sha256"))
    if len(header["__metadata__"]) > 1:
        raise TicketError(f"the metadata have unknown keys; format version {said['format']} has 'strongticket' only")
    return _ticket(read(said), header, data)


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


def _ticket(said: Description, header: Mapping[str, Any], data: bytes) -> Ticket:
    most = _FREE_EDGES + _EDGES_PER_BYTE * len(data)
    if said.total > most:
        raise TicketError(
            f"the masks claim {said.total} edges in a file of {len(data)} bytes; expected at most {most}, "
            f"that is 2**26 and {_EDGES_PER_BYTE} for each byte"
        )
    _check_entries(said, header)
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError, TypeError, OverflowError) as error:
        raise TicketError(f"this is no valid safetensors file ({error})") from None
    stored = {key.removeprefix("stored:"): value for key, value in tensors.items() if key.startswith("stored:")}
    for name, value in stored.items():
        if value.dtype is torch.bool and bool((value.view(torch.uint8) > 1).any()):
            raise TicketError(f"stored:{name} has bytes over 1 for booleans")
    if digest(stored) != said.stored_digest:
        raise TicketError("the stored tensors have another digest than stored_digest says")
    masks = {}
    for name, coded in said.masks.items():
        whole = replace(coded, data=tensors[f"mask:{name}"].numpy().tobytes())
        masks[name] = decode_mask(whole, said.tensors[name].shape, name=f"the mask of {name}")
    return Ticket(
        seed=said.seed,
        law=said.law,
        tensors=said.tensors,
        masks=masks,
        weights_digest=said.weights_digest,
        stored=stored,
        trained=said.trained,
        binary=said.binary,
        search=said.search,
        model=said.model,
        provenance=said.provenance,
    )


def _check_entries(said: Description, header: Mapping[str, Any]) -> None:
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
        if not isinstance(dtype, str) or dtype not in _STORED_DTYPES:
            raise TicketError(f"stored:{name} has dtype {shown(dtype)}; expected one of {', '.join(_STORED_DTYPES)}")
        if name in said.tensors:
            raise TicketError(f"{name} is both stored and drawn from the seed")
    for name in said.trained:
        if name not in stored:
            raise TicketError(f"{shown(name)} is named as trained but is not stored")


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


def _plain(name: str, value: Tensor) -> Tensor:
    if value.layout is not torch.strided or value.is_meta or value.is_quantized:
        raise TicketError(f"this ticket cannot be saved: {name} is no dense tensor with values")
    if value.dtype not in _STORED_DTYPES.values():
        raise TicketError(f"this ticket cannot be saved: {name} is {value.dtype}, which a ticket file cannot hold")
    return value.detach().cpu().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)


def _object_in(fields: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = fields.get(key)
    return value if isinstance(value, dict) else {}


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).lower()
