"""Where the values of a program lie in its one buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .plan import Step


@dataclass(frozen=True)
class Layout:
    """Offsets in words: of values by place, of each step's scratch, and how many words there are in all."""

    values: dict[str, int]
    scratch: tuple[int, ...]
    words: int


@dataclass
class _Piece:
    """Some words that are needed from one step to another, both included."""

    words: int
    first: int
    last: int
    offset: int = -1


def layout(steps: Sequence[Step]) -> Layout:
    """Give every value and every scratch a part of the buffer that is its own for as long as it is needed.

    The largest pieces are placed first, each as low as it fits. An output takes the part of its step's first input if
    the step works in place and nobody reads that input later.
    """
    pieces: dict[str, _Piece] = {}
    last_read = {value.place: index for index, step in enumerate(steps) for value in step.reads}
    for index, step in enumerate(steps):
        place = step.output.place
        end = max(last_read.get(place, index), index)
        before = step.reads[0]
        reused = pieces.get(before.place) if step.in_place and before.words == step.output.words else None
        if reused is not None and last_read[before.place] == index:
            reused.last = end
            pieces[place] = reused
        elif step.output.words:
            pieces[place] = _Piece(step.output.words, index, end)
    scratch = [_Piece(step.scratch, index, index) for index, step in enumerate(steps)]
    placed: list[_Piece] = []
    unique = {id(piece): piece for piece in [*pieces.values(), *scratch]}.values()
    for piece in sorted(unique, key=lambda piece: -piece.words):
        piece.offset = _lowest(piece, placed)
        placed.append(piece)
    words = max((piece.offset + piece.words for piece in placed), default=0)
    return Layout({place: piece.offset for place, piece in pieces.items()}, tuple(s.offset for s in scratch), words)


def _lowest(piece: _Piece, placed: Sequence[_Piece]) -> int:
    """Return the lowest offset at which a piece overlaps none that is needed at the same time."""
    offset = 0
    for other in sorted(placed, key=lambda other: other.offset):
        if other.last < piece.first or piece.last < other.first:
            continue
        if offset + piece.words <= other.offset:
            break
        offset = max(offset, other.offset + other.words)
    return offset
