"""The k-th largest is that of a full sort, whatever the values and wherever a sample would mislead."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strongticket.masks import threshold
from strongticket.masks.threshold import kth_largest

LARGE = 4 * threshold._SAMPLE + 12_345  # beyond this size a sample is taken


def assert_is_that_of_a_full_sort(values: np.ndarray, kept: int) -> None:
    found = kth_largest(values.copy(), kept)
    expected = np.sort(values)[values.size - kept]
    assert found.value == expected
    assert found.reached == int((values >= expected).sum())


def test_the_helper_fails_on_a_wrong_threshold(monkeypatch):
    monkeypatch.setattr(threshold, "_partitioned", lambda values, kept: threshold.Threshold(values[0], kept))
    with pytest.raises(AssertionError):
        assert_is_that_of_a_full_sort(np.array([3.0, 1.0, 2.0]), 2)


def drawn(kind: str, size: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = {
        "uniform": lambda: rng.random(size),
        "normal": lambda: rng.standard_normal(size),
        "few levels": lambda: rng.integers(0, 4, size),
        "constant": lambda: np.full(size, 0.5),
        "rising": lambda: np.arange(size),
        "falling": lambda: -np.arange(size),
        # The sample sees every (n // sample | 1)-th value: here these alone are large.
        "misleading": lambda: np.where(
            np.arange(size) % ((size // threshold._SAMPLE) | 1) == 0, 5 + rng.random(size), rng.random(size)
        ),
        "infinite": lambda: np.where(rng.random(size) < 0.3, np.inf, np.where(rng.random(size) < 0.5, -np.inf, 0.0)),
    }[kind]()
    return values.astype(np.float32)


KINDS = ["uniform", "normal", "few levels", "constant", "rising", "falling", "misleading", "infinite"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.5, 0.98, 1.0])
def test_many_values(kind: str, share: float):
    values = drawn(kind, LARGE, 1)
    assert_is_that_of_a_full_sort(values, max(1, round(share * values.size)))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.integers(LARGE - 9, LARGE + 70_000), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_any_size_and_share(kind: str, size: int, share: float, seed: int):
    assert_is_that_of_a_full_sort(drawn(kind, size, seed), min(size, max(1, round(share * size))))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40), st.data())
def test_few_values(values: list[float], data: st.DataObject):
    kept = data.draw(st.integers(1, len(values)))
    assert_is_that_of_a_full_sort(np.array(values, dtype=np.float32), kept)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_any_type_of_number(dtype: type):
    assert_is_that_of_a_full_sort((np.random.default_rng(0).random(LARGE) * 1e6).astype(dtype), LARGE // 3)


@pytest.mark.parametrize("size", [5, LARGE])
@pytest.mark.parametrize("place", [0, 3, -1])
@pytest.mark.parametrize("kept", [1, 4])
def test_nan_anywhere_is_seen(size: int, place: int, kept: int):
    values = np.zeros(size, dtype=np.float32)
    values[place] = np.nan
    assert np.isnan(kth_largest(values, kept).value)


def test_threads_change_nothing(monkeypatch):
    values = drawn("normal", 4 * threshold._BLOCK + 77, 3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    one = kth_largest(values, 1000)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert kth_largest(values, 1000) == one


def test_a_sample_that_does_not_mislead_leaves_little_to_partition(monkeypatch):
    sizes = []
    plain = threshold._partitioned
    monkeypatch.setattr(
        threshold, "_partitioned", lambda values, kept: (sizes.append(values.size), plain(values, kept))[1]
    )
    kth_largest(drawn("normal", LARGE, 5), LARGE // 2)
    assert sizes
    assert max(sizes) < LARGE // 5
