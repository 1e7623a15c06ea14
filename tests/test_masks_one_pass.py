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


def assert_is_what_numpy_says(values: np.ndarray, low: float, high: float, magnitudes: bool) -> None:
    mask, low, high = np.full(values.size, True), np.float32(low), np.float32(high)
    seen = one_pass.sort_out(values, low, high, magnitudes=magnitudes, mask=mask)
    assert seen is not None
    ranked = np.abs(values) if magnitudes else values
    with np.errstate(invalid="ignore"):
        above, inside = ranked > high, ~(ranked > high) & ~(ranked < low)
    assert seen[0] == above.sum()
    assert np.array_equal(mask, above)
    assert np.array_equal(seen[1], np.flatnonzero(inside))


ANY = st.floats(width=32)
NUMBERS = st.floats(width=32, allow_nan=False)


@settings(max_examples=200, deadline=None)
@given(st.lists(ANY, max_size=600), NUMBERS, NUMBERS, st.booleans())
def test_any_values_and_any_bracket(values: list[float], one: float, other: float, magnitudes: bool):
    assert_is_what_numpy_says(np.array(values, dtype=np.float32), *sorted([one, other]), magnitudes)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 255, 256, 257, 512, 10_001])
@pytest.mark.parametrize("magnitudes", [False, True])
@pytest.mark.parametrize("bracket", [(0.5, 0.51), (-0.02, 0.02), (-np.inf, -0.6), (0.6, np.inf), (0.25, 0.25)])
def test_any_length(size: int, magnitudes: bool, bracket: tuple[float, float]):
    values = np.random.default_rng(size).integers(-40, 40, size).astype(np.float32) / 64
    assert_is_what_numpy_says(values, *bracket, magnitudes)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [1, 6, 1000, 10_001])
def test_however_many_threads_have_a_part_each(threads: int, size: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(one_pass, "_threads", lambda size: threads)
    values = np.random.default_rng(size).standard_normal(size, dtype=np.float32)
    assert_is_what_numpy_says(values, 0.5, 0.6, magnitudes=True)
    assert_is_what_numpy_says(values, -0.1, 0.1, magnitudes=False)


def test_threads_are_shared_with_torch_or_there_is_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(one_pass.torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(one_pass, "_shares_threads", lambda: True)
    assert [one_pass._threads(size) for size in (0, 1 << 15, 1 << 16, 1 << 30)] == [1, 1, 2, 4]
    monkeypatch.setattr(one_pass, "_is_fork", True)
    assert one_pass._threads(1 << 30) == 1
    monkeypatch.setattr(one_pass, "_is_fork", False)
    monkeypatch.setattr(one_pass, "_shares_threads", lambda: False)
    assert one_pass._threads(1 << 30) == 1


def test_signed_zeros_denormals_infinities_and_nan():
    values = np.array([0.0, -0.0, 1e-45, -1e-45, np.inf, -np.inf, np.nan, -np.nan], dtype=np.float32)
    for low, high in ((0.0, 0.0), (-0.0, 0.0), (-np.inf, np.inf), (1e-45, np.inf)):
        assert_is_what_numpy_says(values, low, high, magnitudes=True)
        assert_is_what_numpy_says(values, low, high, magnitudes=False)


def test_more_places_than_there_is_room_for_are_left_to_numpy():
    most = np.zeros(one_pass._LEAST_ROOM, dtype=np.float32)
    mask = np.empty(most.size + 1, dtype=bool)
    assert one_pass.sort_out(most, 0.0, 0.0, magnitudes=False, mask=mask[:-1]) is not None
    assert one_pass.sort_out(np.append(most, most[:1]), 0.0, 0.0, magnitudes=False, mask=mask) is None


def test_values_that_it_is_not_for_are_left_to_numpy():
    values, mask = np.zeros(8, dtype=np.float32), np.empty(8, dtype=bool)
    options = {"magnitudes": False, "mask": mask}
    assert one_pass.sort_out(values.astype(np.float64), 0.0, 1.0, **options) is None
    assert one_pass.sort_out(np.zeros(16, dtype=np.float32)[::2], 0.0, 1.0, **options) is None
    assert one_pass.sort_out(values, 0.1, 1.0, **options) is None  # no float32
    assert one_pass.sort_out(values, 0.0, 0.1, **options) is None


def test_selections_use_it(monkeypatch: pytest.MonkeyPatch):
    values = np.random.default_rng(0).standard_normal(100_000, dtype=np.float32)
    monkeypatch.setattr(threshold, "_places", lambda flags, size: pytest.fail("numpy looked for places"))
    found = threshold.largest([values], 40_000, magnitudes=True)
    assert found.value == np.sort(np.abs(values))[60_000]


def test_without_the_library_everything_is_left_to_numpy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(one_pass, "library", lambda: None)
    values, mask = np.zeros(8, dtype=np.float32), np.empty(8, dtype=bool)
    assert one_pass.sort_out(values, 0.0, 1.0, magnitudes=False, mask=mask) is None


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
