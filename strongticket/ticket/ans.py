"""Packed bits through an asymmetric numeral system: a few bytes from the entropy that the count of a mask leaves.

Duda 2009 (arXiv 0902.0271), section 3; the coder is the one of ``constriction``. Each byte of packed bits is one
symbol, and what a symbol costs follows from the density alone, so nothing is stored but the coder's state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingExtraError, TicketError

__all__ = ["State", "coded", "frequencies", "most_edges", "require"]

_SCALE = 1 << 24  # what the frequencies of all 256 bytes add up to: the precision of constriction's models
_PIECE = 1 << 18  # bytes decoded at a time
# A state of a few bytes can stand for any number of edges of one kind, each of which takes time to decode. At a density
# of 0.01 a byte holds 99 edges; gaps under zstd do as well for sparser masks.
_FREE_EDGES = 1 << 12
_EDGES_PER_BYTE = 128


def require() -> ModuleType:
    """Return ``constriction``; MissingExtraError, with the pip command, where it is not installed."""
    try:
        import constriction
    except ImportError:
        raise MissingExtraError(
            "masks coded with 'ans' need the package constriction: pip install 'strongticket[ans]'"
        ) from None
    module: ModuleType = constriction
    return module


def frequencies(count: int, total: int) -> NDArray[np.int64]:
    """Return how often each byte is expected among 2²⁴ of them, int64 (256,), if ``count`` of ``total`` bits are 1.

        f(b) = max(1, ⌊2²⁴ · d^j · (1 − d)^(8 − j)⌋)      d = count ÷ total, j bits of b being 1

    in exact arithmetic; what is missing from 2²⁴, or is too much, goes to byte 0 if 2·count ≤ total, else to byte 255.
    """
    of_ones = [max(1, _SCALE * count**ones * (total - count) ** (8 - ones) // total**8) for ones in range(9)]
    table = np.array(of_ones, dtype=np.int64)[np.bitwise_count(np.arange(256, dtype=np.uint8))]
    table[0 if 2 * count <= total else 255] += _SCALE - int(table.sum())
    return table


def most_edges(size: int, *, masks: int = 1) -> int:
    """Return how many edges a code of ``size`` bytes may stand for, so that a small file cannot ask for much time."""
    return masks * _FREE_EDGES + _EDGES_PER_BYTE * size


def coded(masks: Sequence[tuple[bytes, int, int]]) -> bytes:
    """Return the final state of a coder that took the bytes of ``masks``, from the last of the last to the first.

    Each mask is its packed bits, how many of them are 1, and how many there are. The state is little-endian, without
    zeros behind its last byte that is not 0. MissingExtraError as ``require``.
    """
    constriction = require()
    coder = constriction.stream.stack.AnsCoder()
    for packed, count, total in reversed(masks):
        coder.encode_reverse(np.frombuffer(packed, np.uint8).astype(np.int32), _model(constriction, count, total))
    data: bytes = coder.get_compressed().astype("<u4").tobytes()
    return data.rstrip(b"\0")


class State:
    """What ``coded`` returned, to be read from the first mask on; errors are TicketErrors that begin with ``name``.

    MissingExtraError as ``require``.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self._constriction = require()
        self._name = name
        if data.endswith(b"\0"):
            raise TicketError(f"{name} ends in a byte of 0, which its code does not; the file is damaged")
        words = np.frombuffer(data + bytes(-len(data) % 4), "<u4").astype(np.uint32)
        self._coder = self._constriction.stream.stack.AnsCoder(words)

    def pieces(self, size: int, *, count: int, total: int) -> Iterator[NDArray[np.uint8]]:
        """Yield the ``size`` bytes of the next mask, in pieces."""
        model = _model(self._constriction, count, total)
        for start in range(0, size, _PIECE):
            yield self._coder.decode(model, min(_PIECE, size - start)).astype(np.uint8)

    def close(self) -> None:
        """Raise TicketError unless all has been read."""
        if not self._coder.is_empty():
            raise TicketError(f"{self._name} has more data than its edges take; the file is damaged")


def _model(constriction: ModuleType, count: int, total: int) -> Any:
    # constriction gives every symbol one part of 2²⁴ and shares out the rest by these weights. They are integers
    # that add up to that rest, so the shares are exact whatever way they are computed.
    return constriction.stream.model.Categorical((frequencies(count, total) - 1).astype(np.float64), perfect=False)
