"""Ternary weights as planes of bits, and signs as thresholds."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strongticket.export.graph import Convolution
from strongticket.export.openvino.xnor import Affine, Threshold, has_kernel, little_endian, planes, threshold

TINY = float(np.finfo(np.float32).tiny)


def affine(*pairs: tuple[float, float]) -> Affine:
    scale, shift = zip(*pairs, strict=True)
    return Affine(np.array(scale), np.array(shift))


def positive(found: Threshold, x: float) -> bool:
    """Return what the runtime decides, which compares float32."""
    return bool((np.float32(x) > found.level[0]) == found.above[0])


def test_two_planes_hold_three_values() -> None:
    a, b = planes(torch.tensor([[1, 0, -1]], dtype=torch.int8))
    assert (a.tolist(), b.tolist()) == ([[True, True, False]], [[True, False, False]])
    # w = (a + b) / 2 with a bit 0 for −1.
    assert ((2 * a.astype(int) - 1 + 2 * b.astype(int) - 1) / 2).tolist() == [[1, 0, -1]]


def test_the_first_bit_is_the_lowest_of_the_first_byte() -> None:
    bits = np.zeros((2, 5), bool)
    bits[0, 0] = bits[0, 3] = bits[1, 4] = True  # the first, the fourth and the tenth
    assert little_endian(bits).tolist() == [1 + 8, 2]


def test_scales_and_shifts_follow_one_another() -> None:
    twice = affine((2, 3), (1, 0)).then(np.array([5.0, -1.0]), np.array([7.0, 4.0]))
    # 5 (2x + 3) + 7 = 10x + 22, and −x + 4.
    assert (twice.scale.tolist(), twice.shift.tolist()) == ([10, -1], [22, 4])


def test_whole_numbers_are_told_apart_halfway() -> None:
    # 2x − 5 ≥ 0 from 3 on; −x + 4 ≥ 0 up to 4; 3x + 6 ≥ 0 from −2 on; −2x − 6 ≥ 0 up to −3.
    found = threshold(affine((2, -5), (-1, 4), (3, 6), (-2, -6)), whole=True)
    assert found.level.tolist() == [2.5, 4.5, -2.5, -2.5]
    assert found.above.tolist() == [True, False, True, False]
    assert found.level.dtype == np.float32


@pytest.mark.parametrize("whole", [False, True])
def test_a_scale_of_zero_leaves_the_sign_of_the_shift(whole: bool) -> None:
    for shift, expected in ((3.0, True), (0.0, True), (-3.0, False)):
        found = threshold(affine((0.0, shift)), whole=whole)
        assert np.isfinite(found.level).all()
        assert [positive(found, x) for x in (-1e30, 0.0, 1e30)] == [expected] * 3


@pytest.mark.parametrize(("scale", "expected"), [(1.0, [False, True, True, True]), (-1.0, [True, True, True, False])])
def test_the_sign_of_zero_is_plus_one_for_both_zeros(scale: float, expected: list[bool]) -> None:
    found = threshold(affine((scale, 0.0)), whole=False)
    assert [positive(found, x) for x in (-2 * TINY, -0.0, 0.0, 2 * TINY)] == expected
    assert found.level[0] == 0 or abs(found.level[0]) >= TINY  # a subnormal level may be taken for 0


@pytest.mark.parametrize("change", [1e-42, -1e-42])
@pytest.mark.parametrize("scale", [1.0, -1.0])
def test_a_change_next_to_zero_stays_on_its_side(scale: float, change: float) -> None:
    found = threshold(affine((scale, -scale * change)), whole=False)
    assert abs(found.level[0]) in (0, np.float32(TINY))
    assert positive(found, 0.0) == (scale * (0.0 - change) >= 0)


FLOATS = st.floats(-1e6, 1e6, width=32).filter(lambda x: abs(x) > 1e-6)


@given(FLOATS, FLOATS)
def test_every_float_next_to_the_change_falls_on_its_side(scale: float, shift: float) -> None:
    found = threshold(affine((scale, shift)), whole=False)
    change = np.float32(-shift / scale)
    around = [np.nextafter(change, np.float32(-np.inf)), change, np.nextafter(change, np.float32(np.inf))]
    for x in [*around, change - 1, change + 1]:
        exact = Fraction(scale) * Fraction(float(x)) + Fraction(shift) >= 0
        assert positive(found, float(x)) == exact


@given(FLOATS, st.integers(-1000, 1000), st.floats(-1, 1, width=32))
def test_every_whole_number_next_to_the_change_falls_on_its_side(scale: float, middle: int, off: float) -> None:
    shift = float(np.float32(-scale * (middle + off)))
    found = threshold(affine((scale, shift)), whole=True)
    for x in range(middle - 3, middle + 4):
        assert positive(found, x) == (Fraction(scale) * x + Fraction(shift) >= 0)


def convolution(kernel: int, **options: object) -> Convolution:
    return Convolution(torch.ones(2, 2, kernel, kernel), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layer", "width", "outputs", "expected"),
    [
        (convolution(3, padding=(1, 1)), 8, 8, True),
        (convolution(3, padding=(1, 1), stride=(2, 2)), 8, 4, True),
        (convolution(3, padding=(1, 1)), 1, 1, True),
        (convolution(1), 1, 1, True),
        (convolution(3, padding=(2, 2), dilation=(2, 2)), 8, 8, False),
        (convolution(3, groups=2), 8, 6, False),
        (convolution(5, stride=(3, 3)), 8, 2, False),
        (convolution(7, padding=(3, 3)), 8, 8, False),  # 3 is wider than a block of 2
        (convolution(5, padding=(2, 2)), 1, 1, False),  # 2 is wider than a row of 1
        (convolution(5, padding=(2, 2)), 8, 8, True),
        (convolution(7, padding=(2, 2), stride=(2, 2)), 4, 1, False),
        (convolution(9, padding=(1, 1), stride=(2, 2)), 12, 3, False),
    ],
)
def test_where_the_kernels_are_right(layer: Convolution, width: int, outputs: int, expected: bool) -> None:
    assert has_kernel(layer, width, outputs) is expected
