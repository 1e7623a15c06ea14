"""Masks as few bytes: packed bits or the gaps between edges, under zstd or an asymmetric numeral system.

A mask of n edges, k of them kept, carries at most n·H(k/n) bits, H being the binary entropy. Zstd's Huffman
coder comes within 2 % of that for random masks of densities from 0.005 to 0.995 and a million edges, the
numeral system (extra ``ans``) within 0.1 %. Masks are coded one behind the other, so that those of one density
share what zstd has to say about it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError, TicketError
from . import ans
from .frames import Frame, framed

__all__ = [
    "CODECS",
    "CODERS",
    "STREAM_OF",
    "CodedMask",
    "CodedMasks",
    "check_coder",
    "check_masks",
    "decode_masks",
    "encode_masks",
    "entropy_bits",
]

CODECS: dict[str, str] = {
    "bits": "packed bits as they are",
    "zstd-bits": "packed bits under zstd",
    "zstd-gaps": "gaps between edges of the rarer kind, one byte each, under zstd",
    "ans": "packed bits through an asymmetric numeral system",
}
CODERS = MappingProxyType({"zstd": ("bits", "zstd-bits", "zstd-gaps"), "ans": tuple(CODECS)})
"""What a mask may be coded with, and the codecs that each of them chooses from."""
STREAM_OF = MappingProxyType({"bits": "bits", "zstd-bits": "zstd", "zstd-gaps": "zstd", "ans": "ans"})
"""Which stream of bytes holds the masks of a codec."""

_ESCAPE = 255
_BLOCK = 1 << 18  # edges whose gaps are found at a time: what is computed of them stays in the processor's cache
_CHUNK = 1 << 18  # bytes read at a time
_GAPS = 1 << 15  # the same for gaps, each of which may be 255 edges long


@dataclass(frozen=True)
class CodedMask:
    """How one mask is coded: a key of ``CODECS``, and the number of kept edges."""

    codec: str
    count: int


@dataclass(frozen=True)
class CodedMasks:
    """Masks by the names of their tensors: how each is coded, the SHA-256 of all their packed bits, the coded bytes.

    Packed bits are a mask in C order, edge i being bit i mod 8 (lowest first) of byte i // 8; unused bits of the
    last byte are 0. ``streams`` has the bytes of each stream that a codec here puts its masks into. ``kind`` is what
    errors call all of them.
    """

    masks: Mapping[str, CodedMask]
    sha256: str
    streams: Mapping[str, bytes]
    kind: str = "masks"

    @property
    def size(self) -> int:
        """Number of coded bytes."""
        return sum(map(len, self.streams.values()))

    @property
    def label(self) -> str:
        """What errors call these masks."""
        return f"the mask of {next(iter(self.masks))}" if len(self.masks) == 1 else f"the code of all {self.kind}"


def check_coder(coder: str) -> None:
    """Raise ConfigError unless ``coder`` is a key of ``CODERS``, MissingExtraError if its package is not installed."""
    if coder not in CODERS:
        raise ConfigError(f"coder {coder!r} is not known; choose one of {', '.join(CODERS)}")
    if coder == "ans":
        ans.require()


def encode_masks(masks: Mapping[str, Tensor], *, coder: str = "zstd") -> CodedMasks:
    """Return ``masks``, bool tensors of any shape, memory format and device, each in the codec that makes it smallest.

    ``coder`` is a key of ``CODERS``. A mask alone is never larger than one bit an edge, rounded up to bytes. Raises
    TicketError, with the name, if a tensor is not bool, and what ``check_coder`` raises.
    """
    check_coder(coder)
    hasher, coded, streams = hashlib.sha256(), {}, _Streams()
    for name, mask in masks.items():
        if mask.dtype is not torch.bool:
            raise TicketError(f"the mask of {name} is {str(mask.dtype).removeprefix('torch.')}; expected bool")
        flat: NDArray[np.bool_] = mask.detach().cpu().contiguous().reshape(-1).numpy()
        packed = np.packbits(flat, bitorder="little").tobytes()
        hasher.update(packed)
        count = int(np.count_nonzero(flat))
        codec, content = _smallest(flat, packed, count, coder)
        streams.add(codec, content, count, flat.size)
        coded[name] = CodedMask(codec, count)
    return CodedMasks(coded, hasher.hexdigest(), streams.joined())


def decode_masks(coded: CodedMasks, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Return the masks, bool tensors of their ``shapes``, contiguous, on the CPU.

    Nothing is decompressed beyond the number of edges of the shapes. Raises TicketError, saying which,
    for an unknown codec, one without its stream, a damaged or unfinished zstd frame, bytes after it, more or fewer
    edges than the shapes have, another count than the one given, bits set behind the last edge, or another SHA-256;
    MissingExtraError for the codec ``ans`` where its extra is not installed.
    """
    found: dict[str, Tensor] = {}
    totals = {name: math.prod(shapes[name]) for name in coded.masks}
    _check_claims(coded, totals)
    for name, pieces in _reading(coded, totals):
        flat = np.empty(totals[name], dtype=np.bool_)
        read = 0
        for piece in pieces:
            part = flat[8 * read : 8 * (read + piece.size)]
            part[:] = np.unpackbits(piece, count=part.size, bitorder="little").view(np.bool_)
            read += piece.size
        found[name] = torch.from_numpy(flat).reshape(tuple(shapes[name]))
    return found


def check_masks(coded: CodedMasks, shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise what ``decode_masks`` would raise, in memory that does not grow with the edges."""
    totals = {name: math.prod(shapes[name]) for name in coded.masks}
    _check_claims(coded, totals)
    for _, pieces in _reading(coded, totals):
        for _ in pieces:
            pass


def entropy_bits(kept: int, total: int) -> float:
    """Return n·H(k/n): the most bits that a mask with k = ``kept`` of n = ``total`` edges can carry.

    H(d) = −d·log₂ d − (1 − d)·log₂(1 − d), the binary entropy of the density d; 0 if all edges are of one kind.
    """
    dropped = total - kept
    if not kept or not dropped:
        return 0.0
    return kept * math.log2(total / kept) + dropped * math.log2(total / dropped)


def _check_claims(coded: CodedMasks, totals: Mapping[str, int]) -> None:
    for name, mask in coded.masks.items():
        if mask.codec not in CODECS:
            raise TicketError(f"the mask of {name} has codec {mask.codec!r}; this release reads {', '.join(CODECS)}")
        if (stream := STREAM_OF[mask.codec]) not in coded.streams:
            raise TicketError(f"the mask of {name} has codec {mask.codec!r}, but the stream {stream!r} is missing")
        if not 0 <= mask.count <= totals[name]:
            raise TicketError(f"the mask of {name} claims {mask.count} kept edges of {totals[name]}")
    in_ans = [totals[name] for name, mask in coded.masks.items() if mask.codec == "ans"]
    size = len(coded.streams.get("ans", b""))
    if sum(in_ans) > (most := ans.most_edges(size, masks=len(in_ans))):
        raise TicketError(
            f"{coded.label} has {sum(in_ans)} edges in {size} bytes; the codec 'ans' has at most {most} in them"
        )


def _smallest(flat: NDArray[np.bool_], packed: bytes, count: int, coder: str) -> tuple[str, bytes]:
    """Return the codec in which a mask by itself is smallest, and what that codec codes: packed bits or gaps."""
    content = {"zstd-bits": packed, "zstd-gaps": _gaps(flat, count)}
    sizes = {"bits": len(packed)} | {codec: len(framed([(symbols, True)])) for codec, symbols in content.items()}
    if coder == "ans" and 0 < count < flat.size:
        size = len(ans.coded([(packed, count, flat.size)]))
        if flat.size <= ans.most_edges(size - 8):  # behind other states it may take some bytes less
            sizes["ans"] = size
    codec = min(sizes, key=lambda name: sizes[name])
    return codec, content.get(codec, packed)


class _Streams:
    """What goes into the streams, mask by mask."""

    def __init__(self) -> None:
        self._plain: list[bytes] = []
        self._symbols: list[tuple[bytes, bool]] = []
        self._states: list[tuple[bytes, int, int]] = []
        self._before: tuple[object, float] = (None, 0.0)

    def add(self, codec: str, content: bytes, count: int, total: int) -> None:
        if codec == "bits":
            self._plain.append(content)
        elif codec == "ans":
            self._states.append((content, count, total))
        else:
            self._symbols.append((content, self._goes_on(codec, count, total)))

    def joined(self) -> dict[str, bytes]:
        found = {}
        if self._plain:
            found["bits"] = b"".join(self._plain)
        if self._symbols:
            found["zstd"] = framed(self._symbols)
        if self._states:
            found["ans"] = ans.coded(self._states)
        return found

    def _goes_on(self, codec: str, count: int, total: int) -> bool:
        """Say whether the symbols of a mask are distributed as those before: a tenth apart pays for a new block."""
        kept = _rarer_is_kept(count, total)
        kind, share = (codec, kept), (count if kept else total - count) / total
        (last_kind, last), self._before = self._before, (kind, share)
        return not self._symbols or (kind == last_kind and 10 * abs(share - last) <= max(share, last))


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


class _Plain:
    """Bytes as they are, read as a frame is."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data, self._read, self._name = data, 0, name

    def read(self, most: int) -> bytes:
        piece = self._data[self._read : self._read + most]
        if not piece:
            raise TicketError(f"{self._name} ends before the last edge; the file is damaged")
        self._read += len(piece)
        return piece

    def close(self) -> None:
        if self._read < len(self._data):
            behind = len(self._data) - self._read
            raise TicketError(f"{self._name} has {behind} bytes behind the last edge; the file is damaged")


_SOURCES = MappingProxyType({"bits": _Plain, "zstd": Frame, "ans": ans.State})


def _reading(coded: CodedMasks, totals: Mapping[str, int]) -> Iterator[tuple[str, Iterator[NDArray[np.uint8]]]]:
    """Yield each name with the packed bits of its mask in pieces, which have to be taken before the next name is."""
    hasher = hashlib.sha256()
    sources: dict[str, Any] = {stream: _SOURCES[stream](data, coded.label) for stream, data in coded.streams.items()}
    for name, mask in coded.masks.items():
        source = sources[STREAM_OF[mask.codec]]
        yield name, _checked(mask, totals[name], source, hasher, f"the mask of {name}")
    for source in sources.values():
        source.close()
    if hasher.hexdigest() != coded.sha256:
        raise TicketError(f"{coded.label} decodes to bits of another SHA-256 than the file says; the file is damaged")


def _checked(mask: CodedMask, total: int, source: Any, hasher: Any, name: str) -> Iterator[NDArray[np.uint8]]:
    """Yield the packed bits of a mask; TicketError where they are not those of its edges and its count."""
    found = last = 0
    for piece in _pieces(mask, total, source, name):
        hasher.update(piece.data)
        found += int(np.bitwise_count(piece).sum())
        if piece.size:
            last = int(piece[-1])
        yield piece
    if total % 8 and last >> total % 8:
        raise TicketError(f"{name} has bits behind its last edge; the file is damaged")
    if found != mask.count:
        raise TicketError(f"{name} keeps {found} edges, its count says {mask.count}; the file is damaged")


def _pieces(mask: CodedMask, total: int, source: Any, name: str) -> Iterator[NDArray[np.uint8]]:
    size = -(-total // 8)
    if mask.codec == "ans":
        yield from source.pieces(size, count=mask.count, total=total)
    elif mask.codec == "zstd-gaps":
        for block in _between_gaps(mask.count, total, source, name):
            yield np.packbits(block, bitorder="little")
    else:
        while size:
            piece = np.frombuffer(source.read(min(_CHUNK, size)), np.uint8)
            size -= piece.size
            yield piece


def _between_gaps(count: int, total: int, frame: Frame, name: str) -> Iterator[NDArray[np.bool_]]:
    """Yield the edges of a mask in pieces of whole bytes, the last aside, from the gaps between them."""
    kept = _rarer_is_kept(count, total)
    left = count if kept else total - count
    reached = written = 0
    waiting = np.empty(0, dtype=np.int64)  # edges of the byte that is not full yet
    while left:
        chunk = frame.read(min(_GAPS, left + (total - reached) // _ESCAPE))
        coded = np.frombuffer(chunk, np.uint8)
        ending = coded != _ESCAPE
        if (ends := np.flatnonzero(ending)).size >= left:  # what follows is the next mask's
            behind = int(ends[left - 1]) + 1
            frame.give_back(chunk[behind:])
            coded, ending = coded[:behind], ending[:behind]
        # Each byte passes over its run, and one that ends a run over the edge behind it as well.
        passed = reached + np.cumsum(coded + ending.astype(np.int64))
        reached = int(passed[-1])
        if reached > total:
            raise TicketError(f"{name} has gaps that go beyond its {total} edges; the file is damaged")
        edges = np.concatenate([waiting, passed[ending] - 1])
        left -= edges.size - waiting.size
        whole = reached - reached % 8
        block = np.full(whole - written, not kept, dtype=np.bool_)
        full = int(np.searchsorted(edges, whole))
        block[edges[:full] - written] = kept
        waiting, written = edges[full:], whole
        yield block
    for start in range(written, total, 8 * _CHUNK):
        block = np.full(min(8 * _CHUNK, total - start), not kept, dtype=np.bool_)
        block[waiting - start] = kept
        waiting = waiting[:0]
        yield block
