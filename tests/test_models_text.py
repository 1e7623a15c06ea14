"""Words for error messages."""

from __future__ import annotations

from strongticket.models.text import first_line, shape_text


def test_a_shape_is_written_with_crosses() -> None:
    assert shape_text((1, 28, 28)) == "1x28x28"


def test_the_first_line_with_words_is_taken() -> None:
    assert first_line(RuntimeError("\n  what happened  \nwhere\n")) == "what happened"


def test_an_error_without_words_is_called_by_its_type() -> None:
    assert first_line(KeyError()) == "KeyError"


def test_a_long_line_is_cut_and_says_so() -> None:
    line = first_line(ValueError("x" * 1000))
    assert len(line) == 240
    assert line.endswith("x...")
