"""From (seed, tensor name) to random values that are the same on every machine, for ever.

The only source is the bit generator Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy
as 1, 2, 3"), whose raw stream numpy guarantees. What is made of the words here uses integers, exact
float32 arithmetic and one shipped table, so no version of numpy, torch or libm has a say.

Every function is pure. Two tensors never share a stream unless they share a name; a consumer that needs
values apart from the weights appends a purpose to the name, such as ``"conv1.weight:mask"``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError

__all__ = ["normals", "permutation", "sample", "signs", "tensor_key", "uniforms", "words"]

_BLOCK = 1 << 17  # words drawn at a time: the temporaries stay in the processor's cache


def tensor_key(seed: int, name: str) -> NDArray[np.uint64]:
    """Return the Philox key of a tensor, uint64 (2,): the seed and a 64-bit hash of the name.

    The hash is the BLAKE2b digest of 8 bytes of the name in UTF-8, read little-endian. Raises
    ConfigError unless ``seed`` is an int from 0 to 2⁶⁴ − 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise ConfigError(f"seed {seed!r} cannot be used; give an integer from 0 to 2**64 - 1")
    hashed = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return np.array([seed, int.from_bytes(hashed, "little")], dtype=np.uint64)


def words(seed: int, name: str, count: int) -> NDArray[np.uint64]:
    """Return the first ``count`` raw words of the stream of (seed, name), uint64 (count,).

    Word i is word i mod 4 of the Philox4x64-10 block with counter i // 4 + 1. A shorter draw is a prefix
    of a longer one. Raises ConfigError for a bad seed or a negative count.
    """
    return _philox(seed, name, count).random_raw(count)


def signs(seed: int, name: str, count: int) -> NDArray[np.bool_]:
    """Return ``count`` fair signs, bool (count,), True for +1: value i is bit i mod 64 of word i // 64."""
    raw = words(seed, name, _words_for(count, per_word=64))
    return np.unpackbits(_little(raw).view(np.uint8), count=count, bitorder="little").view(np.bool_)


def uniforms(seed: int, name: str, count: int) -> NDArray[np.float32]:
    """Return ``count`` values uniform on [0, 1), float32 (count,): multiples of 2⁻²⁴, all exact.

    Value i is (u32 >> 8) · 2⁻²⁴, where u32 is the low half of word i / 2 for even i and its high half for odd i.
    """
    values = np.empty(count if count > 0 else 0, dtype=np.float32)
    for start, block in _blocks(seed, name, count, per_word=2):
        part = values[start : start + 2 * len(block)]
        part[:] = block.view("<u4")[: len(part)] >> np.uint32(8)
        part *= np.float32(2**-24)
    return values


def normals(seed: int, name: str, count: int) -> NDArray[np.float32]:
    """Return ``count`` standard normal values, float32 (count,), from a table of 65,536 equally likely quantiles.

    Value i is the entry that the 16-bit quarter i mod 4 (lowest first) of word i // 4 points at. Entry j
    is Φ⁻¹((j + ½) / 65536), correctly rounded to float32; entries j and 65535 − j differ in sign alone. The
    mean is exactly 0, the largest magnitude 4.325 and the variance 1 − 2.03·10⁻⁵.

    ``normal_quantiles.npy`` was made once with mpmath, for j from 32768, the lower half mirrored::

        mp.dps = 50
        p = (mpf(j) + mpf(1) / 2) / 65536
        x = findroot(lambda x: ncdf(x) - p, scipy.special.ndtri(float(p)))
        with workprec(24):  # rounds to nearest, ties to even, as float32 does
            entry = float(+x)

    All 65,536 entries equal ``scipy.special.ndtri`` (1.17, float64) rounded to float32.
    """
    table = _normal_quantiles()
    values = np.empty(count if count > 0 else 0, dtype=np.float32)
    for start, block in _blocks(seed, name, count, per_word=4):
        part = values[start : start + 4 * len(block)]
        part[:] = table[block.view("<u2")[: len(part)]]
    return values


def permutation(seed: int, name: str, count: int) -> NDArray[np.int64]:
    """Return a random order of 0 … count − 1, int64 (count,): the stable argsort of the words."""
    return np.argsort(words(seed, name, count), kind="stable").astype(np.int64, copy=False)


def sample(seed: int, name: str, total: int, kept: int) -> NDArray[np.bool_]:
    """Return a mask, bool (total,), with exactly ``kept`` positions True, every such mask equally likely.

    Kept are the positions of the smallest words, ties by position: the first ``kept`` entries of
    ``permutation``, without a sort. Raises ConfigError unless 0 ≤ kept ≤ total.
    """
    if not 0 <= kept <= total:
        raise ConfigError(f"cannot keep {kept} of {total} positions; the number kept must lie between 0 and the total")
    raw = words(seed, name, total)
    if kept == 0:
        return np.zeros(total, dtype=np.bool_)
    threshold = np.partition(raw, kept - 1)[kept - 1]
    mask: NDArray[np.bool_] = raw < threshold
    missing = kept - int(np.count_nonzero(mask))
    mask[np.flatnonzero(raw == threshold)[:missing]] = True
    return mask


def _philox(seed: int, name: str, count: int) -> np.random.Philox:
    if count < 0:
        raise ConfigError(f"cannot draw {count} random values; the count must be 0 or more")
    return np.random.Philox(key=tensor_key(seed, name))


def _words_for(count: int, *, per_word: int) -> int:
    return -(-count // per_word)


def _little(raw: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # Parts of a word are taken through views of its bytes, which must lie in one order everywhere.
    return raw.astype("<u8", copy=False)


def _blocks(seed: int, name: str, count: int, *, per_word: int) -> Iterator[tuple[int, NDArray[np.uint64]]]:
    """Yield (index of the first value, little-endian words) until ``count`` values are covered."""
    generator = _philox(seed, name, count)
    needed = _words_for(count, per_word=per_word)
    for start in range(0, needed, _BLOCK):
        yield start * per_word, _little(generator.random_raw(min(_BLOCK, needed - start)))


@cache
def _normal_quantiles() -> NDArray[np.float32]:
    with files(__package__).joinpath("normal_quantiles.npy").open("rb") as file:
        table: NDArray[np.float32] = np.load(file, allow_pickle=False).astype(np.float32, copy=False)
    table.flags.writeable = False
    return table
