"""Widths as a user writes them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongticket.errors import ConfigError
from strongticket.models.width import parse_width, scaled


@pytest.mark.parametrize(
    ("text", "width"), [("4x", 4.0), ("4", 4.0), (4, 4.0), ("0.5x", 0.5), (" 2X ", 2.0), ("1e1", 10.0), (0.25, 0.25)]
)
def test_every_way_to_write_a_width_is_read(text: str | float, width: float) -> None:
    assert parse_width(text) == width


@pytest.mark.parametrize(
    "text", ["0", "0x", "x4y", "nan", "nanx", "-1", "inf", "x", "", "4xx", 0, -0.0, math.nan, math.inf]
)
def test_a_width_that_is_no_finite_number_above_zero_is_refused_in_one_line(text: str | float) -> None:
    with pytest.raises(ConfigError, match=r"width is .*above 0") as caught:
        parse_width(text)
    assert repr(str(text)) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.floats(min_value=1e-6, max_value=1e6))
def test_a_number_and_its_text_with_x_are_the_same_width(width: float) -> None:
    assert parse_width(f"{width!r}x") == parse_width(width) == width


def test_units_are_rounded_and_never_none() -> None:
    assert [scaled(64, 0.5), scaled(64, 4), scaled(100, 0.333), scaled(64, 0.001)] == [32, 256, 33, 1]
