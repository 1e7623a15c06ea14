"""Masks as few bytes: packed bits or the gaps between edges, under zstd or an asymmetric numeral system.

A mask of n edges, k of them kept, carries at most n·H(k/n) bits, H being the binary entropy. Zstd's Huffman
coder comes within 2 % of that for random masks of densities from 0.005 to 0.995 and a million edges, the
numeral system (extra ``ans``) within 0.1 %.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError, TicketError
from . import ans

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["CODECS", "CODERS", "EncodedMask", "check_coder", "check_mask", "decode_mask", "encode_mask", "entropy_bits"]

CODECS: dict[str, str] = {
    "bits": "packed bits as they are",
    "zstd-bits": "packed bits under zstd",
    "zstd-gaps": "gaps between edges of the rarer kind, one byte each, under zstd",
    "ans": "packed bits through an asymmetric numeral system",
}
CODERS = MappingProxyType({"zstd": ("bits", "zstd-bits", "zstd-gaps"), "ans": tuple(CODECS)})
"""What a mask may be coded with, and the codecs that each of them chooses from."""

_ESCAPE = 255
_BLOCK = 1 << 18  # edges whose gaps are found at a time: what is computed of them stays in the processor's cache
_CHUNK = 1 << 18  # bytes decompressed at a time
_GAPS = 1 << 15  # the same for gaps, each of which may be 255 edges long
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


def check_coder(coder: str) -> None:
    """Raise ConfigError unless ``coder`` is a key of ``CODERS``, MissingExtraError if its package is not installed."""
    if coder not in CODERS:
        raise ConfigError(f"coder {coder!r} is not known; choose one of {', '.join(CODERS)}")
    if coder == "ans":
        ans.require()


def encode_mask(mask: Tensor, *, coder: str = "zstd", name: str = "the mask") -> EncodedMask:
    """Return ``mask``, a bool tensor of any shape, memory format and device, in the codec that makes it smallest.

    ``coder`` is a key of ``CODERS``. The result is never larger than one bit an edge, rounded up to bytes. Raises
    TicketError, in which ``name`` stands, if the tensor is not bool, and what ``check_coder`` raises.
    """
    check_coder(coder)
    if mask.dtype is not torch.bool:
        raise TicketError(f"{name} is {str(mask.dtype).removeprefix('torch.')}; expected bool")
    flat: NDArray[np.bool_] = mask.detach().cpu().contiguous().reshape(-1).numpy()
    count = int(np.count_nonzero(flat))
    bits = np.packbits(flat, bitorder="little")
    packed = bits.tobytes()
    choices = {
        "bits": packed,
        "zstd-bits": zstd.compress(packed, options=_COMPRESSION),
        "zstd-gaps": zstd.compress(_gaps(flat, count), options=_COMPRESSION),
    }
    if coder == "ans" and 0 < count < flat.size:
        state = ans.coded(bits, count, flat.size)
        if flat.size <= ans.most_edges(len(state)):
            choices["ans"] = state
    codec = min(choices, key=lambda name: len(choices[name]))
    return EncodedMask(codec, count, hashlib.sha256(packed).hexdigest(), choices[codec])


def decode_mask(encoded: EncodedMask, shape: Sequence[int], *, name: str = "the mask") -> Tensor:
    """Return the mask, bool of ``shape``, contiguous, on the CPU; ``name`` stands in the error messages.

    Nothing is decompressed beyond the number of edges of ``shape``. Raises TicketError, saying which,
    for an unknown codec, a damaged or unfinished zstd frame, bytes after it, more or fewer edges than
    ``shape`` has, another count than the one given, bits set behind the last edge, or another SHA-256;
    MissingExtraError for the codec ``ans`` where its extra is not installed.
    """
    total = math.prod(shape)
    _check_claim(encoded, total, name)
    flat = np.empty(total, dtype=np.bool_)
    _read(encoded, total, name, into=flat)
    return torch.from_numpy(flat).reshape(tuple(shape))


def check_mask(encoded: EncodedMask, total: int, *, name: str = "the mask") -> None:
    """Raise what ``decode_mask`` would raise for ``total`` edges, in memory that does not grow with them."""
    _check_claim(encoded, total, name)
    _read(encoded, total, name, into=None)


def entropy_bits(kept: int, total: int) -> float:
    """Return n·H(k/n): the most bits that a mask with k = ``kept`` of n = ``total`` edges can carry.

    H(d) = −d·log₂ d − (1 − d)·log₂(1 − d), the binary entropy of the density d; 0 if all edges are of one kind.
    """
    dropped = total - kept
    if not kept or not dropped:
        return 0.0
    return kept * math.log2(total / kept) + dropped * math.log2(total / dropped)


def _check_claim(encoded: EncodedMask, total: int, name: str) -> None:
    if encoded.codec not in CODECS:
        raise TicketError(f"{name} has codec {encoded.codec!r}; this release reads {', '.join(CODECS)}")
    if not 0 <= encoded.count <= total:
        raise TicketError(f"{name} claims {encoded.count} kept edges of {total}")
    if encoded.codec == "ans" and total > (most := ans.most_edges(size := len(encoded.data))):
        raise TicketError(f"{name} has {total} edges in {size} bytes; the codec 'ans' has at most {most} in them")


def _rarer_is_kept(count: int, total: int) -> bool:
    return 2 * count <= total


def _gaps(flat: NDArray[np.bool_], count: int) -> bytes:
    """Return the length of the run before each edge of the rarer kind: byte 255 adds 255, any other ends the run."""
    kept, last, found = _rarer_is_kept(count, flat.size), -1, []
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        positions = np.flatnonzero(block if kept else ~block) + start
        if not positions.size:
            continue
        runs = np.diff(positions, prepend=last) - 1
        last = int(positions[-1])
        coded = (runs % _ESCAPE).astype(np.uint8)
        long = np.flatnonzero(runs >= _ESCAPE)
        found.append(np.insert(coded, np.repeat(long, runs[long] // _ESCAPE), _ESCAPE).tobytes())
    return b"".join(found)


def _read(encoded: EncodedMask, total: int, name: str, *, into: NDArray[np.bool_] | None) -> None:
    """Decode a mask ``into`` as many edges as it has, or nowhere; TicketError if it is not what it is said to be."""
    hasher, found, read = hashlib.sha256(), 0, 0
    for piece in _whole_pieces(encoded, total, name):
        hasher.update(piece.data)
        found += int(np.bitwise_count(piece).sum())
        if into is not None:
            part = into[8 * read : 8 * (read + piece.size)]
            part[:] = np.unpackbits(piece, count=part.size, bitorder="little").view(np.bool_)
        read += piece.size
    if found != encoded.count:
        raise TicketError(f"{name} keeps {found} edges, its count says {encoded.count}; the file is damaged")
    if hasher.hexdigest() != encoded.sha256:
        raise TicketError(f"{name} decodes to bits of another SHA-256 than the file says; the file is damaged")


def _whole_pieces(encoded: EncodedMask, total: int, name: str) -> Iterator[NDArray[np.uint8]]:
    """Yield the packed bits of a mask in pieces; TicketError unless together they are those of ``total`` edges."""
    size, read, last = -(-total // 8), 0, 0
    for piece in _pieces(encoded, total, size, name):
        if piece.size:
            read, last = read + piece.size, int(piece[-1])
        yield piece
    if read != size:
        raise TicketError(f"{name} has {read} bytes of bits, {total} edges take {size}; the file is damaged")
    if total % 8 and last >> total % 8:
        raise TicketError(f"{name} has bits behind its last edge; the file is damaged")


def _pieces(encoded: EncodedMask, total: int, size: int, name: str) -> Iterator[NDArray[np.uint8]]:
    if encoded.codec == "bits":
        yield np.frombuffer(encoded.data, np.uint8)
    elif encoded.codec == "zstd-bits":
        for chunk in _decompressed(encoded.data, size, name, chunk=_CHUNK):
            yield np.frombuffer(chunk, np.uint8)
    elif encoded.codec == "zstd-gaps":
        for block in _between_gaps(encoded, total, name):
            yield np.packbits(block, bitorder="little")
    else:
        yield from ans.pieces(encoded.data, size, encoded.count, total, name)


def _between_gaps(encoded: EncodedMask, total: int, name: str) -> Iterator[NDArray[np.bool_]]:
    """Yield the edges of a mask in pieces of whole bytes, the last aside, from the gaps between them."""
    kept = _rarer_is_kept(encoded.count, total)
    rarer = encoded.count if kept else total - encoded.count
    reached = marked = written = last = 0
    waiting = np.empty(0, dtype=np.int64)  # edges of the byte that is not full yet
    for chunk in _decompressed(encoded.data, rarer + (total - rarer) // _ESCAPE, name, chunk=_GAPS):
        coded = np.frombuffer(chunk, np.uint8)
        ending = coded != _ESCAPE
        # Each byte passes over its run, and one that ends a run over the edge behind it as well.
        passed = reached + np.cumsum(coded + ending.astype(np.int64))
        reached, last = int(passed[-1]), int(coded[-1])
        if reached > total:
            raise TicketError(f"{name} has gaps that go beyond its {total} edges; the file is damaged")
        edges = np.concatenate([waiting, passed[ending] - 1])
        marked += edges.size - waiting.size
        whole = reached - reached % 8
        block = np.full(whole - written, not kept, dtype=np.bool_)
        full = int(np.searchsorted(edges, whole))
        block[edges[:full] - written] = kept
        waiting, written = edges[full:], whole
        yield block
    if last == _ESCAPE:
        raise TicketError(f"{name} ends within a gap; the file is damaged")
    if marked != rarer:
        raise TicketError(f"{name} has {marked} gaps, its count takes {rarer}; the file is damaged")
    for start in range(written, total, 8 * _CHUNK):
        block = np.full(min(8 * _CHUNK, total - start), not kept, dtype=np.bool_)
        block[waiting - start] = kept
        waiting = waiting[:0]
        yield block


def _decompressed(data: bytes, most: int, name: str, *, chunk: int) -> Iterator[bytes]:
    """Yield what one zstd frame holds, in pieces that are not empty; TicketError if that is over ``most`` bytes."""
    frame = zstd.ZstdDecompressor(options=_DECOMPRESSION)
    left = most
    while not frame.eof:
        try:
            piece = frame.decompress(data, max_length=min(chunk, left + 1))
        except zstd.ZstdError as error:
            raise TicketError(f"{name} is no zstd data ({_plain(error)}); the file is damaged") from None
        data = b""
        left -= len(piece)
        if left < 0:
            raise TicketError(f"{name} decompresses to more than the {most} bytes it can take; the file is damaged")
        if piece:
            yield piece
        elif not frame.eof:
            raise TicketError(f"{name} has an unfinished zstd frame; the file is damaged")
    if frame.unused_data:
        raise TicketError(f"{name} has {len(frame.unused_data)} bytes behind its zstd frame; the file is damaged")


def _plain(error: Exception) -> str:
    return str(error).rpartition(": ")[2].rstrip(".")
