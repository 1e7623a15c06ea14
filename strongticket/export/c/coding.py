"""Weights as numbers in a table: as a list of kept edges, and as planes of bits.

Weights are given as (outputs, taps, channels): the taps of a kernel in rows, and for each tap the channels of a group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .tables import Array

_MOST_BITS = 12
_SLACK = 1.04
_SPARE_BYTES = 7  # the program reads ahead, four bytes at a time


@dataclass(frozen=True)
class EdgeCode:
    """Kept edges as bytes: ``gap_bits`` bits for each gap, and a bit for each sign where there are signs."""

    bytes: Array
    gap_bits: int


def edge_code(weights: Array, *, signed: bool) -> EdgeCode:
    """Return the kept edges, those not 0, of all outputs in a row.

    For each edge the code has the number of dropped edges before it in ``gap_bits`` bits, the lowest first; all ones
    stand for that many dropped edges with another gap behind them. With ``signed`` a bit follows, 1 for a negative
    weight. An edge behind the last one ends the list, with some bytes for who reads ahead. Without dropped edges
    ``gap_bits`` is 0.
    """
    flat = weights.ravel()
    kept = np.flatnonzero(flat)
    gaps = np.diff(np.concatenate([[-1], kept, [len(flat)]])) - 1
    extra = int(signed)
    sizes = {bits: _size(gaps, bits, extra) for bits in range(1, _MOST_BITS + 1)}
    if not gaps.any():
        sizes[0] = len(gaps) * extra
    # Where one has hardly less to store than another, wide gaps are faster to read.
    bits = max(width for width, size in sizes.items() if size <= _SLACK * min(sizes.values()))
    ones = (1 << bits) - 1
    escapes = gaps // ones if ones else np.zeros_like(gaps)
    rest = gaps - escapes * ones
    ends = np.cumsum(escapes * bits + bits + extra)
    last = ends - bits - extra  # where the last gap of each edge begins
    # Ones everywhere but where a last gap or a sign says otherwise.
    stream = np.ones(sizes[bits], np.uint8)
    for bit in range(bits):
        stream[last + bit] = rest >> bit & 1
    if signed:
        stream[ends - 1] = np.append(flat[kept] < 0, False)
    return EdgeCode(np.concatenate([np.packbits(stream, bitorder="little"), np.zeros(_SPARE_BYTES, np.uint8)]), bits)


def _size(gaps: Array, bits: int, extra: int) -> int:
    """Return how many bits all gaps and signs take."""
    return int((gaps // ((1 << bits) - 1)).sum()) * bits + len(gaps) * (bits + extra)


@dataclass(frozen=True)
class Block:
    """Outputs that are worked on together: from ``first`` on, which read ``words`` words of each tap."""

    first: int
    outputs: int
    first_word: int
    words: int


def blocks_of(outputs: int, groups: int, channels: int, lanes: int) -> list[Block]:
    """Return the blocks of a layer: ``lanes`` outputs each, the last one what is left; ``channels`` are a group's."""
    group = outputs // groups
    found = []
    for first in range(0, outputs, lanes):
        count = min(lanes, outputs - first)
        low = first // group * channels
        high = ((first + count - 1) // group + 1) * channels
        found.append(Block(first, count, low // 32, (high - 1) // 32 + 1 - low // 32))
    return found


def bit_planes(signs: Array, groups: int, lanes: int, *, dense: bool) -> Array:
    """Return ternary weights as words, block after block, tap after tap, word after word of 32 channels.

    For each word stands the mask of every output of the block, then, for each output, which of its kept edges are
    positive. ``dense`` leaves the masks out. A channel is the bit of its place in the whole image, the lowest first.
    """
    outputs, taps, channels = signs.shape
    rows = []
    for block in blocks_of(outputs, groups, channels, lanes):
        spread = np.zeros((block.outputs, taps, block.words * 32), np.int8)
        for lane in range(block.outputs):
            start = (block.first + lane) // (outputs // groups) * channels - 32 * block.first_word
            spread[lane, :, start : start + channels] = signs[block.first + lane]
        kinds = [spread > 0] if dense else [spread != 0, spread > 0]
        words = [np.packbits(kind, axis=-1, bitorder="little").view("<u4") for kind in kinds]
        rows.append(np.stack([plane.transpose(1, 2, 0) for plane in words], axis=2).ravel())
    return np.concatenate(rows).astype(np.uint32)
