"""Masks as few bytes: packed bits or the gaps between edges, under zstd.

A mask of n edges, k of them kept, carries at most n·H(k/n) bits, H being the binary entropy. Zstd's Huffman
coder comes within 2 % of that for random masks of densities from 0.005 to 0.995 and a million edges.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import TicketError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["CODECS", "EncodedMask", "decode_mask", "encode_mask", "entropy_bits"]

CODECS: dict[str, str] = {
    "bits": "packed bits as they are",
    "zstd-bits": "packed bits under zstd",
    "zstd-gaps": "gaps between edges of the rarer kind, one byte each, under zstd",
}

_ESCAPE = 255
_CHUNK = 1 << 18  # bytes decompressed at a time: what they expand to stays in the processor's cache
# A random mask holds no repetitions, only symbols of unequal frequency. A long least match and the smallest
# table keep the matcher out of the way of the Huffman coder: smaller than any standard level, and faster.
_COMPRESSION: dict[int, int] = {
    zstd.CompressionParameter.compression_level: 1,
    zstd.CompressionParameter.min_match: 7,
    zstd.CompressionParameter.hash_log: 6,
    zstd.CompressionParameter.window_log: 19,
}
# A frame may ask for a window; 8 MiB is what the zstd format wants every decoder to grant.
_DECOMPRESSION: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}


@dataclass(frozen=True)
class EncodedMask:
    """A coded mask: a key of ``CODECS``, the number of kept edges, the SHA-256 of its packed bits, the coded bytes.

    Packed bits are the mask in C order, edge i being bit i mod 8 (lowest first) of byte i // 8; unused bits
    of the last byte are 0.
    """

    codec: str
    count: int
    sha256: str
    data: bytes


def encode_mask(mask: Tensor, *, name: str = "the mask") -> EncodedMask:
    """Return ``mask``, a bool tensor of any shape, memory format and device, in the codec that makes it smallest.

    The result is never larger than one bit an edge, rounded up to bytes. Raises TicketError, in which
    ``name`` stands, if the tensor is not bool.
    """
    if mask.dtype is not torch.bool:
        raise TicketError(f"{name} is {str(mask.dtype).removeprefix('torch.')}; expected bool")
    flat: NDArray[np.bool_] = mask.detach().cpu().contiguous().reshape(-1).numpy()
    count = int(np.count_nonzero(flat))
    packed = np.packbits(flat, bitorder="little").tobytes()
    choices = {
        "bits": packed,
        "zstd-bits": zstd.compress(packed, options=_COMPRESSION),
        "zstd-gaps": zstd.compress(_gaps(flat, count), options=_COMPRESSION),
    }
    codec = min(choices, key=lambda name: len(choices[name]))
    return EncodedMask(codec, count, hashlib.sha256(packed).hexdigest(), choices[codec])


def decode_mask(encoded: EncodedMask, shape: Sequence[int], *, name: str = "the mask") -> Tensor:
    """Return the mask, bool of ``shape``, contiguous, on the CPU; ``name`` stands in the error messages.

    Nothing is decompressed beyond the number of edges of ``shape``. Raises TicketError, saying which,
    for an unknown codec, a damaged or unfinished zstd frame, bytes after it, more or fewer edges than
    ``shape`` has, another count than the one given, bits set behind the last edge, or another SHA-256.
    """
    total = math.prod(shape)
    if encoded.codec not in CODECS:
        raise TicketError(f"{name} has codec {encoded.codec!r}; this release reads {', '.join(CODECS)}")
    if not 0 <= encoded.count <= total:
        raise TicketError(f"{name} claims {encoded.count} kept edges of {total}")
    flat = _from_gaps(encoded, total, name) if encoded.codec == "zstd-gaps" else _from_bits(encoded, total, name)
    if (found := int(np.count_nonzero(flat))) != encoded.count:
        raise TicketError(f"{name} keeps {found} edges, its count says {encoded.count}; the file is damaged")
    if hashlib.sha256(np.packbits(flat, bitorder="little").data).hexdigest() != encoded.sha256:
        raise TicketError(f"{name} decodes to bits of another SHA-256 than the file says; the file is damaged")
    return torch.from_numpy(flat).reshape(tuple(shape))


def entropy_bits(kept: int, total: int) -> float:
    """Return n·H(k/n): the most bits that a mask with k = ``kept`` of n = ``total`` edges can carry.

    H(d) = −d·log₂ d − (1 − d)·log₂(1 − d), the binary entropy of the density d; 0 if all edges are of one kind.
    """
    dropped = total - kept
    if not kept or not dropped:
        return 0.0
    return kept * math.log2(total / kept) + dropped * math.log2(total / dropped)


def _rarer_is_kept(count: int, total: int) -> bool:
    return 2 * count <= total


def _gaps(flat: NDArray[np.bool_], count: int) -> bytes:
    """Return the length of the run before each edge of the rarer kind: byte 255 adds 255, any other ends the run."""
    positions = np.flatnonzero(flat if _rarer_is_kept(count, flat.size) else ~flat)
    runs = np.diff(positions, prepend=-1) - 1
    coded = (runs % _ESCAPE).astype(np.uint8)
    long = np.flatnonzero(runs >= _ESCAPE)
    coded = np.insert(coded, np.repeat(long, runs[long] // _ESCAPE), _ESCAPE)
    return coded.tobytes()


def _from_bits(encoded: EncodedMask, total: int, name: str) -> NDArray[np.bool_]:
    size = -(-total // 8)
    data = encoded.data
    if encoded.codec == "zstd-bits":
        data = b"".join(_decompressed(data, size, name))
    if len(data) != size:
        raise TicketError(f"{name} has {len(data)} bytes of bits, {total} edges take {size}; the file is damaged")
    if total % 8 and data[-1] >> total % 8:
        raise TicketError(f"{name} has bits behind its last edge; the file is damaged")
    return np.unpackbits(np.frombuffer(data, np.uint8), count=total, bitorder="little").view(np.bool_)


def _from_gaps(encoded: EncodedMask, total: int, name: str) -> NDArray[np.bool_]:
    kept = _rarer_is_kept(encoded.count, total)
    rarer = encoded.count if kept else total - encoded.count
    flat = np.full(total, not kept, dtype=np.bool_)
    reached = marked = 0
    last = 0
    for chunk in _decompressed(encoded.data, rarer + (total - rarer) // _ESCAPE, name):
        coded = np.frombuffer(chunk, np.uint8)
        ending = coded != _ESCAPE
        # Each byte passes over its run, and one that ends a run over the edge behind it as well.
        passed = reached + np.cumsum(coded + ending.astype(np.int64))
        reached, last = int(passed[-1]), int(coded[-1])
        if reached > total:
            raise TicketError(f"{name} has gaps that go beyond its {total} edges; the file is damaged")
        edges = passed[ending] - 1
        flat[edges] = kept
        marked += edges.size
    if last == _ESCAPE:
        raise TicketError(f"{name} ends within a gap; the file is damaged")
    if marked != rarer:
        raise TicketError(f"{name} has {marked} gaps, its count takes {rarer}; the file is damaged")
    return flat


def _decompressed(data: bytes, most: int, name: str) -> Iterator[bytes]:
    """Yield what one zstd frame holds, in pieces that are not empty; TicketError if that is over ``most`` bytes."""
    frame = zstd.ZstdDecompressor(options=_DECOMPRESSION)
    left = most
    while not frame.eof:
        try:
            chunk = frame.decompress(data, max_length=min(_CHUNK, left + 1))
        except zstd.ZstdError as error:
            raise TicketError(f"{name} is no zstd data ({_plain(error)}); the file is damaged") from None
        data = b""
        left -= len(chunk)
        if left < 0:
            raise TicketError(f"{name} decompresses to more than the {most} bytes it can take; the file is damaged")
        if chunk:
            yield chunk
        elif not frame.eof:
            raise TicketError(f"{name} has an unfinished zstd frame; the file is damaged")
    if frame.unused_data:
        raise TicketError(f"{name} has {len(frame.unused_data)} bytes behind its zstd frame; the file is damaged")


def _plain(error: Exception) -> str:
    return str(error).rpartition(": ")[2].rstrip(".")
