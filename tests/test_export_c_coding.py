"""Weights and numbers as tables of a C program."""

from __future__ import annotations

import math
import re
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from strongticket.export.c.coding import Block, EdgeCode, bit_planes, blocks_of, edge_code
from strongticket.export.c.identifiers import Names
from strongticket.export.c.tables import Table, float_literal, smallest_type


def decoded(code: EdgeCode, shape: tuple[int, ...], *, signed: bool) -> np.ndarray:
    """Read a list of edges bit by bit, as its description says: ±1, or 1 where there are no signs."""
    bits = [byte >> place & 1 for byte in code.bytes.tolist() for place in range(8)]
    ones, at, edge = (1 << code.gap_bits) - 1, 0, -1
    flat = np.zeros(math.prod(shape), np.int8)
    while True:
        gap = sum(bits[at + place] << place for place in range(code.gap_bits))
        at += code.gap_bits
        edge += gap
        if gap == ones and ones:
            continue
        edge += 1
        if edge >= len(flat):
            return flat.reshape(shape)
        flat[edge] = -1 if signed and bits[at] else 1
        at += signed


SIGNS = arrays.arrays(
    np.int8, arrays.array_shapes(min_dims=3, max_dims=3, max_side=12), elements=st.sampled_from([0, 0, 0, 1, -1])
)


@given(SIGNS)
def test_a_list_of_edges_reads_back_with_its_signs(signs: np.ndarray) -> None:
    np.testing.assert_array_equal(decoded(edge_code(signs, signed=True), signs.shape, signed=True), signs)


@given(SIGNS)
def test_a_list_without_signs_says_which_edges_are_kept(signs: np.ndarray) -> None:
    code = edge_code(signs.astype(np.float32) / 3, signed=False)
    np.testing.assert_array_equal(decoded(code, signs.shape, signed=False), signs != 0)


@pytest.mark.parametrize("density", [0.002, 0.01, 0.05, 0.25, 0.5])
def test_a_list_takes_little_more_than_the_entropy_of_mask_and_signs(density: float) -> None:
    generator = np.random.default_rng(0)
    kept = generator.random(200_000) < density
    signs = np.where(kept, generator.choice([-1, 1], kept.shape), 0).astype(np.int8).reshape(100, 20, 100)
    entropy = -density * math.log2(density) - (1 - density) * math.log2(1 - density)
    least = kept.size * (entropy + density) / 8
    assert least < len(edge_code(signs, signed=True).bytes) < 1.17 * least + 10


def test_signs_alone_are_stored_where_every_edge_is_kept() -> None:
    code = edge_code(np.array([[[1, -1, -1]], [[1, 1, -1]]], np.int8), signed=True)
    assert code.gap_bits == 0
    assert code.bytes[0] == 0b100110  # the lowest bit is the first edge


def test_a_list_of_nothing_reads_back() -> None:
    signs = np.zeros((3, 9, 700), np.int8)
    np.testing.assert_array_equal(decoded(edge_code(signs, signed=True), signs.shape, signed=True), signs)


def test_blocks_read_the_words_that_their_channels_lie_in() -> None:
    # 40 outputs in 4 groups of 10; a group reads 20 channels: 0-19, 20-39, 40-59, 60-79.
    assert blocks_of(40, 4, 20, 32) == [Block(0, 32, 0, 3), Block(32, 8, 1, 2)]
    assert blocks_of(64, 64, 1, 32) == [Block(0, 32, 0, 1), Block(32, 32, 1, 1)]


@given(
    groups=st.integers(1, 3),
    per_group=st.integers(1, 20),
    taps=st.integers(1, 3),
    channels=st.integers(1, 40),
    dense=st.booleans(),
    data=st.data(),
)
def test_a_bit_of_a_plane_is_a_channel_of_an_output(
    groups: int, per_group: int, taps: int, channels: int, dense: bool, data: st.DataObject
) -> None:
    outputs, lanes = groups * per_group, 32
    elements = st.sampled_from([-1, 1] if dense else [-1, 0, 1])
    signs = data.draw(arrays.arrays(np.int8, (outputs, taps, channels), elements=elements))
    planes = bit_planes(signs, groups, lanes, dense=dense).tolist()
    at = 0
    for block in blocks_of(outputs, groups, channels, lanes):
        for tap in range(taps):
            for word in range(block.words):
                rows = [] if dense else [("mask", at)]
                rows.append(("sign", at + (0 if dense else block.outputs)))
                for kind, start in rows:
                    for lane in range(block.outputs):
                        output = block.first + lane
                        first = output // per_group * channels
                        expected = 0
                        for bit in range(32):
                            channel = (block.first_word + word) * 32 + bit - first
                            if 0 <= channel < channels:
                                value = signs[output, tap, channel]
                                expected |= int(value != 0 if kind == "mask" else value > 0) << bit
                        assert planes[start + lane] == expected
                at += block.outputs * (1 if dense else 2)
    assert at == len(planes)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_literal_has_all_bits_of_a_float(value: float) -> None:
    literal = float_literal(value)
    assert re.fullmatch(r"-?0x[01](\.[0-9a-f]+)?p[+-]\d+f", literal)
    assert struct.pack("<f", float.fromhex(literal[:-1])) == struct.pack("<f", value)


def test_a_table_is_an_array_of_literals() -> None:
    table = Table("numbers", "int32_t", np.array([-(2**31), -1, 7]))
    assert table.declaration() == (
        "static const int32_t numbers[3] = {\n    (-2147483647 - 1), -1, 7,\n};\n"  # C has no literal for the lowest
    )
    assert table.bytes == 12
    assert Table("words", "uint32_t", np.array([255], np.uint32)).declaration().splitlines()[1] == "    0x000000ffu,"
    assert Table("bytes", "uint8_t", np.zeros(9, np.uint8)).bytes == 9
    assert Table("shorts", "int16_t", np.zeros(9, np.int16)).bytes == 18
    assert Table("floats", "float", np.zeros(9, np.float32)).bytes == 36


def test_no_line_of_a_table_is_long() -> None:
    text = Table("words", "uint32_t", np.arange(1000, dtype=np.uint32)).declaration()
    assert max(map(len, text.splitlines())) <= 120


def test_integers_are_short_where_they_fit() -> None:
    assert smallest_type([np.array([-32768, 32767])]) == "int16_t"
    assert smallest_type([np.array([0]), np.array([32768])]) == "int32_t"
    assert smallest_type([np.array([-32769])]) == "int32_t"


def test_layers_get_names_that_c_allows() -> None:
    names = Names()
    given_names = ["layer1.0.conv1", "layer1_0.conv1", "0", "größe", "a*/b", "real", "window", "for", "x" * 90]
    taken = [names.take(name) for name in given_names]
    assert len(set(taken)) == len(taken)
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,50}", name) for name in taken)
    assert taken[0] == "layer1_0_conv1"
    assert taken[1] == "layer1_0_conv1_2"
    assert taken[2] == "layer_0"
    assert "real" not in taken  # real_layer is a type of the C source
