"""One zstd frame, written from pieces that follow each other and read no further than it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from ..errors import TicketError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["Frame", "framed", "framed_text", "text_of"]

# A random mask holds no repetitions, only symbols of unequal frequency. A long least match and the smallest
# table keep the matcher out of the way of the Huffman coder: smaller than any standard level, and faster.
_OF_SYMBOLS: dict[int, int] = {
    zstd.CompressionParameter.compression_level: 1,
    zstd.CompressionParameter.min_match: 7,
    zstd.CompressionParameter.hash_log: 6,
    zstd.CompressionParameter.window_log: 19,
}
_OF_TEXT = 19
# A frame may ask for a window; 8 MiB is what the zstd format wants every decoder to grant.
_READING: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}


def framed(pieces: Iterable[tuple[bytes, bool]]) -> bytes:
    """Return the frame of ``pieces`` of symbols: (bytes, whether their statistics go on from the piece before).

    Where they do not, a new block begins, which brings a Huffman table of its own.
    """
    compressor = zstd.ZstdCompressor(options=_OF_SYMBOLS)
    found = []
    for piece, goes_on in pieces:
        if not goes_on:
            found.append(compressor.flush(mode=compressor.FLUSH_BLOCK))
        found.append(compressor.compress(piece))
    return b"".join([*found, compressor.flush()])


def framed_text(text: str) -> bytes:
    """Return the frame of ``text``, as small as zstd's better levels make it."""
    return zstd.compress(text.encode(), _OF_TEXT)


def text_of(data: bytes, name: str, *, most: int) -> str:
    """Return the text in a frame, of ``most`` bytes at most; TicketError, beginning with ``name``, if that is none."""
    frame = Frame(data, name)
    text = frame.up_to(most)
    frame.close()
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise TicketError(f"{name} is no text; the file is damaged") from None


class Frame:
    """The one frame in ``data``; every error is a TicketError that begins with ``name``."""

    def __init__(self, data: bytes, name: str) -> None:
        self._frame = zstd.ZstdDecompressor(options=_READING)
        self._data = data
        self._name = name
        self._given_back = b""

    def read(self, most: int) -> bytes:
        """Return the next bytes, one at least and ``most`` at most; TicketError if there are no more."""
        piece = self.up_to(most)
        if not piece:
            reason = "ends before the last edge" if self._frame.eof else "has an unfinished zstd frame"
            raise TicketError(f"{self._name} {reason}; the file is damaged")
        return piece

    def up_to(self, most: int) -> bytes:
        """Return the next bytes, ``most`` at most, which are none at the end."""
        if not self._given_back:
            return self._decompressed(most)
        piece, self._given_back = self._given_back[:most], self._given_back[most:]
        return piece

    def give_back(self, piece: bytes) -> None:
        """Take back the end of what was read last: it is what the next call returns."""
        self._given_back = piece + self._given_back

    def close(self) -> None:
        """Raise TicketError unless all has been read, and nothing stands behind the frame."""
        if self._given_back or self._decompressed(1):
            raise TicketError(f"{self._name} decompresses to more than it may hold; the file is damaged")
        if not self._frame.eof:
            raise TicketError(f"{self._name} has an unfinished zstd frame; the file is damaged")
        if self._frame.unused_data:
            behind = len(self._frame.unused_data)
            raise TicketError(f"{self._name} has {behind} bytes behind its zstd frame; the file is damaged")

    def _decompressed(self, most: int) -> bytes:
        if self._frame.eof:
            return b""
        data, self._data = self._data, b""
        try:
            return self._frame.decompress(data, max_length=most)
        except zstd.ZstdError as error:
            reason = str(error).rpartition(": ")[2].rstrip(".")
            raise TicketError(f"{self._name} is no zstd data ({reason}); the file is damaged") from None
