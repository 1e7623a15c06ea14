"""Weights as signs and gains."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from strongticket.export.graph.ternary import as_ternary


def test_signs_and_gains_by_hand() -> None:
    weight = torch.tensor([[0.5, 0.0, -0.5], [0.0, 0.0, 0.0], [-2.0, -2.0, 2.0]])
    found = as_ternary(weight)
    assert found is not None
    assert found.signs.tolist() == [[1, 0, -1], [0, 0, 0], [-1, -1, 1]]
    assert found.gain.tolist() == [0.5, 0.0, 2.0]
    assert found.signs.dtype == torch.int8


def test_two_magnitudes_in_one_output_are_not_ternary() -> None:
    assert as_ternary(torch.tensor([[1.0, 1.0], [1.0, -1.5]])) is None


@given(
    st.lists(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=6, max_size=6), min_size=1, max_size=5),
    st.integers(-60, 60).map(lambda e: 1.375 * 2.0**e),
)
def test_signs_times_gains_are_the_weight_bit_for_bit(rows: list[list[float]], magnitude: float) -> None:
    weight: Tensor = (torch.tensor(rows) * magnitude).reshape(len(rows), 2, 3)
    found = as_ternary(weight)
    assert found is not None
    assert torch.equal(found.signs * found.gain[:, None, None], weight)
