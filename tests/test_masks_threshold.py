"""The largest are those of a full sort, whatever the values and wherever a bracket would mislead."""

from __future__ import annotations

import copy
import os

import numpy as np
import pytest
import torch
from forks import forked
from hypothesis import given, settings
from hypothesis import strategies as st

from strongticket.masks import one_pass, threshold
from strongticket.masks.one_pass import Contest, Largest
from strongticket.masks.threshold import Contests, Thresholds

LARGE = 4 * threshold._SAMPLE + 12_345  # beyond this size a sample is taken


def contest(parts: list[np.ndarray], kept: int) -> Contest:
    return Contest(parts, [np.zeros(part.size, dtype=bool) for part in parts], kept)


def largest(values: np.ndarray, kept: int, *, near: tuple | None = None, magnitudes: bool = False) -> Largest:
    return Contests([contest([values], kept)]).largest([near], magnitudes=magnitudes)[0]


def assert_is_that_of_a_full_sort(
    values: np.ndarray, kept: int, *, parts: int = 1, magnitudes: bool = False, near: tuple | None = None
) -> None:
    ours = contest(np.array_split(values.copy(), parts), kept)
    assert_agrees(ours, Contests([ours]).largest([near], magnitudes=magnitudes)[0], magnitudes)


def assert_agrees(ours: Contest, found: Largest, magnitudes: bool) -> None:
    values = np.concatenate(ours.parts)
    ranked = np.where(values < 0, -values, values) if magnitudes else values
    expected = np.sort(ranked)[values.size - ours.kept]
    assert found.value == expected
    assert found.reached == [int(mask.sum()) for mask in ours.masks]
    assert np.array_equal(np.concatenate(ours.masks), ranked >= expected)
    if sum(found.reached) == ours.kept:
        assert found.level == []
        return
    starts = np.cumsum([0, *(mask.size for mask in ours.masks[:-1])])
    level = [start + places for start, places in zip(starts, found.level, strict=True)]
    assert np.array_equal(np.concatenate(level), np.flatnonzero(ranked == expected))


@pytest.fixture(autouse=True, params=["numpy", "C"], scope="module")
def several_blocks(request):
    """Let vectors of a size that tests can sort be more than one block, and go numpy's way and C's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threshold, "_BLOCK", 1 << 15)
        if request.param == "numpy":
            patch.setattr(one_pass, "library", lambda: None)
        elif one_pass.library() is None:
            pytest.skip("threshold.c was not compiled")
        yield


def test_the_helper_fails_on_a_wrong_threshold_a_wrong_mask_and_wrong_ties():
    values = np.array([3.0, 1.0, 2.0, 2.0])
    right = Contest([values], [values >= 2], 2)
    assert_agrees(right, Largest(2.0, [3], [np.array([2, 3])]), False)
    for wrong in (
        Largest(3.0, [3], [np.array([2, 3])]),
        Largest(2.0, [2], [np.array([2, 3])]),
        Largest(2.0, [3], [np.array([2])]),
    ):
        with pytest.raises(AssertionError):
            assert_agrees(right, wrong, False)
    with pytest.raises(AssertionError):
        assert_agrees(right._replace(masks=[values >= 3]), Largest(2.0, [3], [np.array([2, 3])]), False)


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
@given(
    st.sampled_from(KINDS),
    st.integers(LARGE - 9, LARGE + 70_000),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
    st.integers(1, 4),
    st.booleans(),
)
def test_any_size_share_and_number_of_parts(
    kind: str, size: int, share: float, seed: int, parts: int, magnitudes: bool
):
    kept = min(size, max(1, round(share * size)))
    assert_is_that_of_a_full_sort(drawn(kind, size, seed), kept, parts=parts, magnitudes=magnitudes)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.floats(0, 1), st.floats(-2, 2), st.floats(0, 2), st.booleans())
def test_wherever_it_is_looked_for_first(kind: str, share: float, low: float, width: float, magnitudes: bool):
    near = (np.float32(low), np.float32(low + width))
    kept = min(LARGE, max(1, round(share * LARGE)))
    assert_is_that_of_a_full_sort(drawn(kind, LARGE, 1), kept, magnitudes=magnitudes, near=near)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40), st.data())
def test_few_values(values: list[float], data: st.DataObject):
    kept = data.draw(st.integers(1, len(values)))
    parts, magnitudes = data.draw(st.integers(1, 3)), data.draw(st.booleans())
    assert_is_that_of_a_full_sort(np.array(values, dtype=np.float32), kept, parts=parts, magnitudes=magnitudes)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("magnitudes", [False, True])
def test_any_type_of_number(dtype: type, magnitudes: bool):
    values = (np.random.default_rng(0).uniform(-1, 1, LARGE) * 1e6).astype(dtype)
    assert_is_that_of_a_full_sort(values, LARGE // 3, magnitudes=magnitudes)


@pytest.mark.parametrize("size", [5, LARGE])
@pytest.mark.parametrize("place", [0, 3, -1])
@pytest.mark.parametrize("kept", [1, 4])
@pytest.mark.parametrize("near", [None, (-1.0, 1.0), (5.0, 6.0)])
def test_nan_anywhere_is_seen(size: int, place: int, kept: int, near: tuple | None):
    values = np.zeros(size, dtype=np.float32)
    values[place] = np.nan
    assert np.isnan(largest(values, kept, near=near).value)


def test_the_values_stay_as_they_were():
    values = drawn("normal", LARGE, 2)
    before = values.copy()
    largest(values, 100, magnitudes=True)
    assert np.array_equal(values, before)


def test_threads_change_nothing(monkeypatch):
    values = drawn("normal", 4 * threshold._BLOCK + 77, 3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    one, three = contest([values], 1000), contest([values], 1000)
    found = Contests([one]).largest()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert Contests([three]).largest() == found
    assert np.array_equal(one.masks[0], three.masks[0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_fork_has_threads_of_its_own(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    values = drawn("normal", 4 * threshold._BLOCK, 3)
    expected = largest(values, 1000).value
    assert forked(lambda: 0 if largest(values, 1000).value == expected else 1) == 0


@pytest.fixture
def partitioned(monkeypatch) -> list[int]:
    """The sizes of what ``np.partition`` is given."""
    sizes: list[int] = []
    plain = np.partition
    monkeypatch.setattr(
        threshold.np, "partition", lambda values, first: (sizes.append(values.size), plain(values, first))[1]
    )
    return sizes


def test_a_sample_that_does_not_mislead_leaves_little_to_partition(partitioned):
    largest(drawn("normal", LARGE, 5), LARGE // 2)
    assert len(partitioned) == (one_pass.library() is None)  # C does it by itself, where little is left
    assert sum(partitioned) < LARGE // 5


def test_thresholds_that_drift_slowly_leave_next_to_nothing_to_partition(partitioned):
    values, thresholds = drawn("normal", LARGE, 5), Thresholds()
    for _ in range(6):
        partitioned.clear()
        thresholds.note("w", largest(values, LARGE // 2, near=thresholds.near("w")).value)
        values += np.float32(0.0003)
    assert len(partitioned) == (one_pass.library() is None)
    assert sum(partitioned) < LARGE / 200


def test_a_threshold_is_looked_for_within_three_times_its_last_changes():
    thresholds = Thresholds()
    assert thresholds.near("w") is None
    thresholds.note("w", 3.0)
    assert thresholds.near("w") == (3.0, 3.0)
    thresholds.note("w", 3.5)
    assert thresholds.near("w") == (2.0, 5.0)
    thresholds.note("w", 3.5)  # it stood still once, and 95 % of the change before still count
    assert thresholds.near("w") == (3.5 - 3 * 0.475, 3.5 + 3 * 0.475)
    thresholds.note("w", 1.5)
    assert thresholds.near("w") == (-4.5, 7.5)
    assert thresholds.near("v") is None


def test_an_infinite_threshold_says_nothing_of_the_next_one():
    thresholds = Thresholds()
    thresholds.note("w", np.float32(3.0))
    thresholds.note("w", np.float32(np.inf))
    assert thresholds.near("w") == (3.0, 3.0)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 40_000), st.floats(0, 1)), min_size=1, max_size=5))
def test_contests_decided_together_are_decided_as_each_alone(shapes: list[tuple[int, int, float]]):
    rng = np.random.default_rng(len(shapes))
    # Of whole numbers many are tied; the second contest is not for C.
    types = [np.float32, np.float64, np.float32, np.float32, np.float32]
    contests = [
        contest(np.array_split(rng.integers(-size, size, size).astype(dtype), parts), max(1, int(share * size)))
        for (parts, size, share), dtype in zip(shapes, types, strict=False)
    ]
    together = Contests(contests)
    near: list[tuple | None] = [None for _ in contests]
    for _ in range(3):
        found = together.largest(near, magnitudes=True)
        for ours, one in zip(contests, found, strict=True):
            assert_agrees(ours, one, True)
        near = [(float(one.value) - 5, float(one.value) + 5) for one in found]
        for ours in contests:  # values change in place, and far for some brackets
            for part in ours.parts:
                part += rng.integers(-4, 9)


def test_a_copy_of_thresholds_has_no_contests_since_its_tensors_are_others():
    thresholds = Thresholds()
    thresholds.note("w", 3.0)
    thresholds.keep("key", contests := Contests([]))
    assert thresholds.contests("key") is contests
    assert thresholds.contests("other key") is None
    copied = copy.deepcopy(thresholds)
    assert copied.contests("key") is None
    assert copied.near("w") == (3.0, 3.0)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 64, 1000, 4099])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.5, 1.0])
def test_places_are_those_of_the_flags_however_many_are_set(size: int, share: float):
    flags = np.random.default_rng(size).random(size) < share
    expected = [place for place, flag in enumerate(flags.tolist()) if flag]
    assert np.array_equal(threshold._places(bytearray(flags.tobytes() + b"\1\1"), size), expected)
