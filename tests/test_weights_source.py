"""The random source against an independent Philox4x64-10, published vectors and plain statistics."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import ndtri

from strongticket.errors import ConfigError
from strongticket.weights import normals, permutation, sample, signs, source, tensor_key, uniforms, words

LOW = 2**64 - 1
SEED, NAME = 20240607, "features.0.weight"

# Random123, kat_vectors: counter, key, result of philox4x64 with 10 rounds.
PUBLISHED = [
    (
        (0, 0, 0, 0),
        (0, 0),
        (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B),
    ),
    (
        (LOW, LOW, LOW, LOW),
        (LOW, LOW),
        (0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0),
    ),
    (
        (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89),
        (0x452821E638D01377, 0xBE5466CF34E90C6C),
        (0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6),
    ),
]


def philox(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Philox4x64-10 as Salmon et al. 2011 define it, in plain integers."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (second >> 64) ^ c1 ^ k0, second & LOW, (first >> 64) ^ c3 ^ k1, first & LOW
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & LOW, (k1 + 0xBB67AE8584CAA73B) & LOW
    return c0, c1, c2, c3


def expected_words(seed: int, name: str, count: int) -> list[int]:
    hashed = int.from_bytes(hashlib.blake2b(name.encode("utf-8"), digest_size=8).digest(), "little")
    stream: list[int] = []
    block = 1
    while len(stream) < count:
        stream += philox((block, 0, 0, 0), (seed, hashed))
        block += 1
    return stream[:count]


@pytest.mark.parametrize(("counter", "key", "result"), PUBLISHED)
def test_both_philox_match_the_published_vectors(
    counter: tuple[int, ...], key: tuple[int, ...], result: tuple[int, ...]
) -> None:
    assert philox(counter, key) == result
    before = (sum(word << 64 * i for i, word in enumerate(counter)) - 1) % 2**256  # numpy counts up first
    start = np.array([before >> 64 * i & LOW for i in range(4)], dtype=np.uint64)
    generator = np.random.Philox(counter=start, key=np.array(key, dtype=np.uint64))
    assert tuple(generator.random_raw(4).tolist()) == result


@pytest.mark.parametrize("seed", [0, 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("name", ["", "conv1.weight", "Schicht.ä.重み"])
def test_words_are_the_philox_stream_of_seed_and_name(seed: int, name: str) -> None:
    assert words(seed, name, 11).tolist() == expected_words(seed, name, 11)


def test_key_is_the_seed_and_the_blake2b_hash_of_the_name() -> None:
    hashed = int.from_bytes(hashlib.blake2b(b"fc.weight", digest_size=8).digest(), "little")
    assert tensor_key(7, "fc.weight").tolist() == [7, hashed]


def test_signs_are_the_bits_of_the_words_lowest_first() -> None:
    stream = expected_words(SEED, NAME, 3)
    assert signs(SEED, NAME, 150).tolist() == [bool(stream[i // 64] >> i % 64 & 1) for i in range(150)]


def test_uniforms_are_the_high_24_bits_of_the_half_words() -> None:
    stream = expected_words(SEED, NAME, 5)
    halves = [word >> shift & 0xFFFFFFFF for word in stream for shift in (0, 32)]
    assert uniforms(SEED, NAME, 9).tolist() == [math.ldexp(half >> 8, -24) for half in halves[:9]]


def test_normals_are_the_quantiles_that_16_bit_quarters_point_at() -> None:
    stream = expected_words(SEED, NAME, 4)
    quarters = [word >> shift & 0xFFFF for word in stream for shift in (0, 16, 32, 48)]
    quantile = NormalDist().inv_cdf
    expected = [quantile((quarter + 0.5) / 65536) for quarter in quarters[:14]]
    np.testing.assert_allclose(normals(SEED, NAME, 14), expected, rtol=1e-7)


def test_normal_quantiles_are_correctly_rounded_symmetric_and_increasing() -> None:
    table = source._normal_quantiles()
    exact = ndtri((np.arange(65536) + 0.5) / 65536)
    assert (table.shape, table.dtype) == ((65536,), np.dtype(np.float32))
    half_step = np.spacing(np.abs(table)).astype(np.float64) / 2
    assert (np.abs(table.astype(np.float64) - exact) <= half_step * (1 + 1e-6)).all()
    assert (table == -table[::-1]).all()
    assert (np.diff(table) > 0).all()
    assert hashlib.sha256(table.astype("<f4").tobytes()).hexdigest() == (
        "1cfbba1e07e34386a57626f82aeb43e6ed54ba70a3ea6b7d964dc66a841074a8"
    )


def test_normal_quantiles_have_the_documented_moments() -> None:
    table = source._normal_quantiles().astype(np.float64)
    assert table.sum() == 0
    assert table.var() == pytest.approx(1 - 2.03e-5, abs=5e-8)
    assert table.max() == pytest.approx(4.325, abs=5e-4)


def test_normal_quantiles_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        source._normal_quantiles()[0] = 0


Drawer = Callable[[int, str, int], NDArray[Any]]
DRAWERS: list[Drawer] = [words, signs, uniforms, normals]


@pytest.mark.parametrize("drawer", DRAWERS)
@given(short=st.integers(0, 300), extra=st.integers(0, 300))
def test_a_shorter_draw_is_a_prefix_of_a_longer_one(drawer: Drawer, short: int, extra: int) -> None:
    longer = drawer(SEED, NAME, short + extra)
    assert longer.shape == (short + extra,)
    np.testing.assert_array_equal(drawer(SEED, NAME, short), longer[:short])


@pytest.mark.parametrize("drawer", [uniforms, normals])
def test_values_do_not_depend_on_the_size_of_the_blocks(drawer: Drawer, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = drawer(SEED, NAME, 1003)
    monkeypatch.setattr(source, "_BLOCK", 7)
    np.testing.assert_array_equal(drawer(SEED, NAME, 1003), whole)


@pytest.mark.parametrize("drawer", [*DRAWERS, permutation])
def test_equal_seed_and_name_repeat_and_others_differ(drawer: Drawer) -> None:
    first = drawer(3, "a.weight", 256)
    np.testing.assert_array_equal(drawer(3, "a.weight", 256), first)
    assert (drawer(4, "a.weight", 256) != first).any()
    assert (drawer(3, "b.weight", 256) != first).any()


@pytest.mark.parametrize(
    ("drawer", "dtype"),
    [(words, "uint64"), (signs, "bool"), (uniforms, "float32"), (normals, "float32"), (permutation, "int64")],
)
def test_dtypes_are_native(drawer: Drawer, dtype: str) -> None:
    drawn = drawer(0, "x", 3)
    assert drawn.dtype == np.dtype(dtype)
    assert drawn.dtype.isnative


def test_the_global_generator_is_left_alone() -> None:
    before = str(np.random.get_state())
    normals(0, "x", 100)
    assert str(np.random.get_state()) == before


def test_signs_are_fair() -> None:
    share = signs(0, "statistics", 1_000_000).mean()
    assert abs(share - 0.5) < 4 * 0.5 / 1000


def test_uniforms_have_the_moments_of_a_uniform() -> None:
    drawn = uniforms(0, "statistics", 1_000_000).astype(np.float64)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert abs(drawn.mean() - 1 / 2) < 4 * math.sqrt(1 / 12) / 1000
    assert abs(drawn.var() - 1 / 12) < 4 * math.sqrt(1 / 180) / 1000


def test_normals_have_the_moments_of_a_normal() -> None:
    drawn = normals(0, "statistics", 1_000_000).astype(np.float64)
    assert abs(drawn.mean()) < 4 / 1000
    assert abs(drawn.var() - 1) < 4 * math.sqrt(2) / 1000
    assert abs((drawn**4).mean() - 3) < 4 * math.sqrt(96) / 1000
    assert abs((np.abs(drawn) < 1).mean() - 0.682689) < 4 * 0.4654 / 1000


def test_streams_of_neighbouring_seeds_and_names_are_uncorrelated() -> None:
    count = 100_000
    streams = [normals(seed, name, count) for seed in (0, 1) for name in ("layer1", "layer2")]
    correlation = np.corrcoef(streams) - np.eye(4)
    assert np.abs(correlation).max() < 4.5 / math.sqrt(count)


def test_permutation_sorts_the_words() -> None:
    stream = expected_words(SEED, NAME, 50)
    assert permutation(SEED, NAME, 50).tolist() == sorted(range(50), key=stream.__getitem__)


def test_every_order_of_three_is_equally_likely() -> None:
    seen: dict[tuple[int, ...], int] = {}
    for seed in range(3000):
        order = tuple(permutation(seed, "order", 3).tolist())
        seen[order] = seen.get(order, 0) + 1
    assert len(seen) == 6
    assert sum((n - 500) ** 2 / 500 for n in seen.values()) < 20.5  # chi², 5 degrees of freedom, p = 0.001


@given(total=st.integers(0, 200), data=st.data())
def test_a_sample_keeps_exactly_the_positions_of_the_smallest_words(total: int, data: st.DataObject) -> None:
    kept = data.draw(st.integers(0, total))
    mask = sample(SEED, NAME, total, kept)
    assert (mask.shape, mask.dtype) == ((total,), np.dtype(bool))
    stream = expected_words(SEED, NAME, total)
    assert set(np.flatnonzero(mask).tolist()) == set(sorted(range(total), key=stream.__getitem__)[:kept])


def test_equal_words_are_kept_by_position(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "words", lambda *_: np.array([5, 2, 5, 1, 5, 5], dtype=np.uint64))
    assert sample(0, "x", 6, 4).tolist() == [True, True, True, True, False, False]
    assert permutation(0, "x", 6).tolist() == [3, 1, 0, 2, 4, 5]


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, "7", None, True])
@pytest.mark.parametrize("drawer", [*DRAWERS, permutation])
def test_a_bad_seed_is_refused_in_one_line(drawer: Drawer, seed: Any) -> None:
    with pytest.raises(ConfigError, match=r"seed .* give an integer from 0 to") as caught:
        drawer(seed, "x", 4)
    assert repr(seed) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("drawer", [*DRAWERS, permutation])
def test_a_negative_count_is_refused(drawer: Drawer) -> None:
    with pytest.raises(ConfigError, match="cannot draw -"):
        drawer(0, "x", -64)


@pytest.mark.parametrize(("total", "kept"), [(5, 6), (5, -1), (-1, 0)])
def test_an_impossible_sample_is_refused(total: int, kept: int) -> None:
    with pytest.raises(ConfigError, match=f"cannot keep {kept} of {total}"):
        sample(0, "x", total, kept)
