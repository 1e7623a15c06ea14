"""The density of a ramp at points worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongticket.masks import scheduled_density


@pytest.mark.parametrize(("progress", "density"), [(0.0, 0.9), (0.5, 0.2), (1.0, 0.1), (7.0, 0.1)])
def test_a_cubic_ramp_falls_from_its_start_to_the_density(progress, density):
    assert scheduled_density(0.1, progress, schedule="cubic", start=0.9) == pytest.approx(density)


@given(st.floats(0, 2), st.floats(0.01, 1))
def test_a_constant_schedule_is_the_density_itself(progress, density):
    assert scheduled_density(density, progress, schedule="constant", start=0.5) == density


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_cubic_ramp_is_monotone(first, second):
    low, high = sorted((first, second))
    early, late = (scheduled_density(0.05, p, schedule="cubic", start=0.5) for p in (low, high))
    assert early >= late


def test_a_mapping_is_ramped_pattern_by_pattern():
    ramped = scheduled_density({"a*": 0.1, "*": 0.5}, 0.5, schedule="cubic", start=0.9)
    assert ramped == pytest.approx({"a*": 0.2, "*": 0.55})
