"""Where values lie in the buffer of a C program."""

from __future__ import annotations

import random

import pytest

from strongticket.export.c.memory import layout
from strongticket.export.c.plan import Kind, Step, Value
from strongticket.export.c.simple import Call


class Some(Call):
    """A step with as much scratch as it is told."""

    needs = 0

    @property
    def scratch(self) -> int:
        """Return the words it needs."""
        return self.needs


def value(name: str, words: int) -> Value:
    return Value(name, "real", (words, 1, 1))


def step(reads: list[Value], output: Value, *, scratch: int = 0, in_place: bool = False) -> Step:
    made = Some(tuple(reads), output, "add" if in_place else "other", ())
    made.needs = scratch
    return made


GIVEN = Value("input", "input", (4, 1, 1))


@pytest.mark.parametrize(("kind", "words"), [("input", 0), ("real", 33 * 6), ("bits", 2 * 6), ("int8", 50)])
def test_a_value_takes_a_word_a_number_or_a_bit_or_a_byte(kind: Kind, words: int) -> None:
    assert Value("a", kind, (33, 2, 3)).words == words


def test_values_that_are_not_needed_at_once_share_their_place() -> None:
    a, b, c = value("a", 10), value("b", 5), value("c", 10)
    found = layout([step([GIVEN], a), step([a], b), step([b], c)])
    assert found.words == 15
    assert found.values["a"] == found.values["c"]


def test_a_sum_takes_the_place_of_what_it_adds_to() -> None:
    a, b, c = value("a", 8), value("b", 8), value("c", 8)
    found = layout([step([GIVEN], a), step([a], b), step([b, a], c, in_place=True), step([c], value("d", 1))])
    assert found.values["c"] == found.values["b"]
    assert found.words == 16


def test_what_is_read_again_is_not_overwritten() -> None:
    a, b, c = value("a", 8), value("b", 8), value("c", 8)
    found = layout([step([GIVEN], a), step([a], b, in_place=True), step([b, a], c)])
    assert len({found.values[name] for name in "abc"}) == 3


@pytest.mark.parametrize("seed", range(40))
def test_nothing_that_is_needed_is_overwritten(seed: int) -> None:
    draw = random.Random(seed)
    values = [GIVEN]
    steps = []
    for index in range(draw.randint(1, 12)):
        reads = [draw.choice(values) for _ in range(draw.randint(1, 2))]
        words = reads[0].words if draw.random() < 0.5 and reads[0].words else draw.randint(1, 50)
        output = value(f"v{index}", words)
        steps.append(step(reads, output, scratch=draw.choice([0, 0, 7, 60]), in_place=draw.random() < 0.5))
        values.append(output)
    found = layout(steps)
    # Run the program on a buffer in which every word says who wrote it.
    buffer: list[str | None] = [None] * found.words
    for current, scratch in zip(steps, found.scratch, strict=True):
        for read in current.reads:
            at = found.values.get(read.place, 0)
            assert all(buffer[at + word] == read.place for word in range(read.words))
        output, at = current.output, found.values[current.output.place]
        for word in range(current.scratch):
            buffer[scratch + word] = "scratch"
        if not current.in_place:  # it may write its first output before it has read everything
            buffer[at : at + output.words] = [output.place] * output.words
            for read in current.reads:
                assert all(buffer[found.values.get(read.place, 0) + w] == read.place for w in range(read.words))
            assert buffer[scratch : scratch + current.scratch] == ["scratch"] * current.scratch
        buffer[at : at + output.words] = [output.place] * output.words
