"""strongticket.ticket.frames: one zstd frame, read no further than it is asked for."""

from __future__ import annotations

import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongticket.errors import TicketError
from strongticket.ticket.frames import Frame, framed, framed_text, text_of

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


@given(pieces=st.lists(st.tuples(st.binary(max_size=300), st.booleans()), max_size=8))
def test_pieces_follow_each_other_wherever_blocks_begin(pieces: list[tuple[bytes, bool]]) -> None:
    assert zstd.decompress(framed(pieces)) == b"".join(piece for piece, _ in pieces)


@given(data=st.binary(max_size=400), sizes=st.lists(st.integers(1, 90), min_size=400, max_size=400), back=st.booleans())
def test_what_is_read_and_given_back_comes_in_order(data: bytes, sizes: list[int], back: bool) -> None:
    frame, found = Frame(zstd.compress(data), "it"), b""
    for size in sizes:
        if len(found) == len(data):
            break
        piece = frame.read(size)
        assert 1 <= len(piece) <= size
        kept = len(piece) // 2 + 1 if back else len(piece)
        frame.give_back(piece[kept:])
        found += piece[:kept]
    assert found == data
    frame.close()


def test_a_frame_that_is_not_read_to_its_end_cannot_be_closed() -> None:
    for read in (0, 1, 2):
        frame = Frame(zstd.compress(b"abc"), "it")
        if read:
            frame.read(read)
        with pytest.raises(TicketError, match=r"^it decompresses to more than it may hold; the file is damaged$"):
            frame.close()
    frame = Frame(zstd.compress(b"abc"), "it")
    frame.give_back(frame.read(3)[2:])
    with pytest.raises(TicketError, match=r"^it decompresses to more than it may hold"):
        frame.close()


def test_nothing_is_read_behind_the_end() -> None:
    frame = Frame(zstd.compress(b"abc"), "it")
    assert frame.read(3) == b"abc"
    with pytest.raises(TicketError, match=r"^it ends before the last edge; the file is damaged$"):
        frame.read(1)
    for data, message in (
        (b"", r"has an unfinished zstd frame"),
        (zstd.compress(b"abc")[:-3], r"has an unfinished zstd frame"),
        (b"x" * 20, r"is no zstd data \(Unknown frame descriptor\)"),
    ):
        with pytest.raises(TicketError, match=rf"^it {message}; the file is damaged$"):
            Frame(data, "it").read(1)


def test_only_a_whole_frame_with_nothing_behind_it_can_be_closed() -> None:
    Frame(zstd.compress(b""), "it").close()
    for data, message in (
        (zstd.compress(b"")[:-1], "has an unfinished zstd frame"),
        (zstd.compress(b"") + b"xy", "has 2 bytes behind its zstd frame"),
        (zstd.compress(b"") * 2, "has 9 bytes behind its zstd frame"),
    ):
        with pytest.raises(TicketError, match=f"^it {message}; the file is damaged$"):
            Frame(data, "it").close()


def test_a_text_comes_back() -> None:
    text = "größer " * 999
    assert text_of(framed_text(text), "it", most=len(text.encode())) == text
    assert text_of(framed_text(""), "it", most=0) == ""


def test_a_text_beyond_its_bound_is_not_decompressed() -> None:
    data = zstd.compress(b" " * 200_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(TicketError, match=r"^it decompresses to more than it may hold"):
            text_of(data, "it", most=4 << 20)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    with pytest.raises(TicketError, match=r"^it decompresses to more than it may hold"):
        text_of(framed_text("abcd"), "it", most=3)
    with pytest.raises(TicketError, match=r"^it is no text; the file is damaged$"):
        text_of(zstd.compress(b"\xff"), "it", most=9)
