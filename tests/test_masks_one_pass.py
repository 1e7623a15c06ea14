"""The pass in C says what numpy says, and is missed by nobody."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongticket.masks import one_pass, threshold
from strongticket.masks.one_pass import Contest, Largest, Table

SOURCE = Path(one_pass.__file__).with_name("threshold.c")
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if COMPILER is None:
        pytest.skip("there is no C compiler here")
    library = tmp_path_factory.mktemp("compiled") / "threshold.so"
    flags = ["-std=c99", "-O3", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-shared", "-fPIC"]
    subprocess.run([COMPILER, *flags, "-o", str(library), str(SOURCE)], check=True)
    return library


@pytest.fixture(autouse=True)
def in_use(compiled: Path):
    """Use the library just compiled, whatever is installed."""
    with pytest.MonkeyPatch.context() as patch:
        function = one_pass.loaded(compiled)
        assert function is not None
        patch.setattr(one_pass, "library", lambda: function)
        yield


def contest(parts: list[np.ndarray], kept: int) -> Contest:
    return Contest(parts, [np.full(part.size, True) for part in parts], kept)


def assert_is_what_numpy_says(values: np.ndarray, kept: int, low: float, high: float, magnitudes: bool) -> None:
    """Hold against a full sort what a bracket gives: all, or None where the threshold is elsewhere."""
    low, high = np.float32(low), np.float32(high)
    ours = contest(np.array_split(values, 2), kept)
    (found,) = Table([ours]).largest([(low, high)], magnitudes=magnitudes)
    ranked = np.abs(values) if magnitudes else values
    if np.isnan(values).any():
        assert found is not None
        assert np.isnan(found.value)
        return
    threshold = np.sort(ranked)[values.size - kept]
    if not low <= threshold <= high:
        assert found is None
        return
    assert found is not None
    assert found.value == threshold
    reaching = ranked >= threshold
    assert np.array_equal(np.concatenate(ours.masks), reaching)
    assert found.reached == [part.sum() for part in np.array_split(reaching, 2)]
    tied = reaching.sum() > kept
    level = [np.flatnonzero(part == threshold) for part in np.array_split(ranked, 2)]
    assert [part.tolist() for part in found.level] == ([part.tolist() for part in level] if tied else [])


ANY = st.floats(width=32)
NUMBERS = st.floats(width=32, allow_nan=False)


@settings(max_examples=300, deadline=None)
@given(st.lists(ANY, min_size=1, max_size=600), st.data(), NUMBERS, NUMBERS, st.booleans())
def test_any_values_and_any_bracket(
    values: list[float], data: st.DataObject, one: float, other: float, magnitudes: bool
):
    kept = data.draw(st.integers(1, len(values)))
    assert_is_what_numpy_says(np.array(values, dtype=np.float32), kept, *sorted([one, other]), magnitudes)


@settings(max_examples=300, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=600), st.data(), st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_any_values_and_brackets_around_the_threshold(
    values: list[float], data: st.DataObject, below: float, above: float, magnitudes: bool
):
    scores = np.array(values, dtype=np.float32)
    kept = data.draw(st.integers(1, len(values)))
    ranked = np.abs(scores) if magnitudes else scores
    threshold = float(np.sort(ranked)[scores.size - kept])
    with np.errstate(over="ignore"):
        low, high = np.float32(threshold - below * abs(threshold)), np.float32(threshold + above * abs(threshold))
    assert_is_what_numpy_says(scores, kept, low, high, magnitudes)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 255, 256, 257, 512, 10_001])
@pytest.mark.parametrize("magnitudes", [False, True])
@pytest.mark.parametrize("bracket", [(0.5, 0.51), (-0.02, 0.02), (-np.inf, -0.6), (0.6, np.inf), (0.25, 0.25)])
def test_any_length(size: int, magnitudes: bool, bracket: tuple[float, float]):
    values = np.random.default_rng(size).integers(-40, 40, size).astype(np.float32) / 64
    for kept in {1, -(-size // 2), size}:
        assert_is_what_numpy_says(values, kept, *bracket, magnitudes)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [1, 6, 1000, 10_001])
def test_however_many_threads_have_a_share_each(threads: int, size: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(one_pass, "threads", lambda: threads)
    monkeypatch.setattr(one_pass, "_FOR_A_THREAD", 1)
    values = np.random.default_rng(size).standard_normal(size, dtype=np.float32)
    for kept in {1, -(-size // 2), size}:
        assert_is_what_numpy_says(values, kept, 0.6, 0.8, magnitudes=True)
        assert_is_what_numpy_says(values, kept, -0.1, 0.1, magnitudes=False)


def test_a_table_that_several_threads_were_to_share_is_done_by_one_in_a_fork(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(one_pass, "_FOR_A_THREAD", 1)
    monkeypatch.setattr(one_pass, "threads", lambda: 3)
    values = np.arange(100, dtype=np.float32)
    table = Table([ours := contest([values], 30)])
    monkeypatch.setattr(one_pass, "threads", lambda: 1)
    (found,) = table.largest([(60, 80)], magnitudes=False)
    assert found == Largest(70.0, [30], [])
    assert np.array_equal(ours.masks[0], values >= 70)


def test_contests_without_a_bracket_are_left_alone():
    values = np.arange(100, dtype=np.float32)
    ours, theirs = contest([values], 30), contest([values], 30)
    found = Table([ours, theirs]).largest([None, (60, 80)], magnitudes=False)
    assert found == [None, Largest(70.0, [30], [])]
    assert ours.masks[0].all()


def test_threads_are_shared_with_torch_or_there_is_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(one_pass.torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(one_pass, "_shares_threads", lambda: True)
    assert one_pass.threads() == 4
    monkeypatch.setattr(one_pass, "_is_fork", True)
    assert one_pass.threads() == 1
    monkeypatch.setattr(one_pass, "_is_fork", False)
    monkeypatch.setattr(one_pass, "_shares_threads", lambda: False)
    assert one_pass.threads() == 1


def test_small_parts_have_one_share_and_large_ones_one_a_thread(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(one_pass, "threads", lambda: 4)
    sizes = [1, (1 << 16) - 1, 1 << 16, 1 << 20]
    table = Table([contest([np.zeros(size, dtype=np.float32) for size in sizes], 1)])
    assert [part.shares for part in table._parts] == [1, 1, 2, 4]


@pytest.mark.parametrize("magnitudes", [False, True])
def test_signed_zeros_denormals_and_infinities(magnitudes: bool):
    values = np.array([0.0, -0.0, 1e-45, -1e-45, np.inf, -np.inf], dtype=np.float32)
    for low, high in ((0.0, 0.0), (-0.0, 0.0), (-np.inf, np.inf), (1e-45, np.inf), (-np.inf, -0.0)):
        for kept in range(1, 7):
            assert_is_what_numpy_says(values, kept, low, high, magnitudes)


@pytest.mark.parametrize("nan", [np.nan, -np.nan])
def test_nan_is_seen_wherever_the_bracket_lies(nan: float):
    values = np.array([0.0, 1.0, nan, 3.0], dtype=np.float32)
    for bracket in ((0.0, 3.0), (5.0, 6.0), (-2.0, -1.0)):
        assert_is_what_numpy_says(values, 2, *bracket, False)
        assert_is_what_numpy_says(values, 2, *bracket, True)


def test_more_places_than_there_is_room_for_are_not_sorted_out():
    level = np.zeros(one_pass._LEAST_ROOM + 1, dtype=np.float32)
    assert Table([contest([level[:-1]], 5)]).largest([(0.0, 0.0)], magnitudes=False) != [None]
    assert Table([contest([level], 5)]).largest([(0.0, 0.0)], magnitudes=False) == [None]


def test_values_that_it_is_not_for_are_left_to_numpy():
    values = np.zeros(16, dtype=np.float32)
    assert one_pass.takes(contest([values, values[:8]], 1))
    assert not one_pass.takes(contest([values, values[::2]], 1))
    assert not one_pass.takes(contest([values, values.astype(np.float64)], 1))


def test_selections_use_it(monkeypatch: pytest.MonkeyPatch):
    values = np.random.default_rng(0).standard_normal(100_000, dtype=np.float32)
    monkeypatch.setattr(threshold, "_sorted_out", lambda *args, **kwargs: pytest.fail("numpy passed over the values"))
    monkeypatch.setattr(threshold, "_partitioned", lambda *args: pytest.fail("numpy partitioned the values"))
    (found,) = threshold.Contests([contest([values], 40_000)]).largest(magnitudes=True)
    assert found.value == np.sort(np.abs(values))[60_000]


def test_without_the_library_everything_is_left_to_numpy(monkeypatch: pytest.MonkeyPatch):
    values = np.zeros(8, dtype=np.float32)
    assert one_pass.takes(contest([values], 1))
    monkeypatch.setattr(one_pass, "library", lambda: None)
    assert not one_pass.takes(contest([values], 1))


def test_a_library_that_cannot_be_loaded_is_none(tmp_path: Path):
    assert one_pass.loaded(tmp_path / "missing.so") is None
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    assert one_pass.loaded(broken) is None


def test_a_library_of_something_else_is_none(tmp_path: Path):
    (tmp_path / "other.c").write_text("int other(void) { return 1; }\n")
    library = tmp_path / "other.so"
    subprocess.run([str(COMPILER), "-shared", "-fPIC", "-o", str(library), str(tmp_path / "other.c")], check=True)
    assert one_pass.loaded(library) is None
