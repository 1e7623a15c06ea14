"""The coding of masks: exact, close to the entropy, and safe against data made to harm."""

from __future__ import annotations

import hashlib
import math
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from single_masks import EncodedMask, check_mask, decode_mask, encode_mask
from torch import Tensor

from strongticket.errors import TicketError
from strongticket.ticket.coding import CODERS, STREAM_OF, check_masks, decode_masks, encode_masks, entropy_bits

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def random_mask(total: int, kept: int, seed: int = 0) -> Tensor:
    mask = np.zeros(total, dtype=np.bool_)
    mask[np.random.default_rng(seed).permutation(total)[:kept]] = True
    return torch.from_numpy(mask)


def mask_of(*positions: int, total: int) -> Tensor:
    mask = torch.zeros(total, dtype=torch.bool)
    mask[list(positions)] = True
    return mask


def packed(mask: Tensor) -> bytes:
    """The packed bits by arithmetic: edge i is worth 2 to the power of i."""
    edges = mask.flatten().tolist()
    return sum(1 << i for i, kept in enumerate(edges) if kept).to_bytes(math.ceil(len(edges) / 8), "little")


def encoded(mask: Tensor, codec: str, data: bytes) -> EncodedMask:
    return EncodedMask(codec, int(mask.sum()), hashlib.sha256(packed(mask)).hexdigest(), data)


@given(
    total=st.integers(1, 5000),
    density=st.floats(0.005, 1) | st.just(1.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_mask_comes_back_as_it_was(total: int, density: float, seed: int) -> None:
    mask = random_mask(total, max(1, round(density * total)), seed)
    coded = encode_mask(mask)
    assert coded.count == int(mask.sum())
    assert coded.sha256 == hashlib.sha256(packed(mask)).hexdigest()
    assert len(coded.data) <= math.ceil(total / 8)
    decoded = decode_mask(coded, (total,))
    assert decoded.dtype is torch.bool
    assert torch.equal(decoded, mask)


@given(mask=st.lists(st.booleans(), max_size=600).map(lambda edges: torch.tensor(edges, dtype=torch.bool)))
def test_whatever_the_pattern_a_mask_comes_back_as_it_was(mask: Tensor) -> None:
    assert torch.equal(decode_mask(encode_mask(mask), mask.shape), mask)


@pytest.mark.parametrize("total", [1, 7, 8, 9, 255, 256, 300_000])
@pytest.mark.parametrize("kept", [True, False])
def test_a_mask_of_one_kind_comes_back_as_it_was(total: int, kept: bool) -> None:
    mask = torch.full((total,), kept)
    coded = encode_mask(mask)
    assert len(coded.data) <= 9
    assert torch.equal(decode_mask(coded, (total,)), mask)


def test_shape_and_memory_format_are_those_of_c_order() -> None:
    mask = random_mask(2 * 3 * 4 * 5, 40).reshape(2, 3, 4, 5)
    strided = mask.to(memory_format=torch.channels_last)
    assert not strided.is_contiguous()
    assert encode_mask(strided) == encode_mask(mask)
    decoded = decode_mask(encode_mask(strided), (2, 3, 4, 5))
    assert torch.equal(decoded, mask)
    assert decoded.is_contiguous()


def test_a_scalar_mask_is_one_bit() -> None:
    coded = encode_mask(torch.tensor(True))
    assert (coded.codec, coded.data) == ("bits", b"\x01")
    assert decode_mask(coded, ()).shape == ()


def test_bits_by_hand() -> None:
    mask = torch.tensor([[True, False, False, False, True], [True, False, True, False, True]])
    coded = encode_mask(mask)
    assert (coded.codec, coded.count, coded.data) == ("bits", 5, bytes([0b10110001, 0b10]))


def test_gaps_by_hand() -> None:
    mask = mask_of(0, 255, 256, 999, total=10_000)
    coded = encode_mask(mask)
    assert coded.codec == "zstd-gaps"
    # 0 edges before the first; 254; 0; then 742 = 255 + 255 + 232.
    assert zstd.decompress(coded.data) == bytes([0, 254, 0, 255, 255, 232])


def test_a_gap_of_255_is_an_escape_and_nothing() -> None:
    mask = mask_of(255, total=10_000)
    assert zstd.decompress(encode_mask(mask).data) == bytes([255, 0])
    assert torch.equal(decode_mask(encode_mask(mask), mask.shape), mask)


def test_gaps_run_between_dropped_edges_where_these_are_fewer() -> None:
    mask = ~mask_of(3, 8, total=10_000)
    coded = encode_mask(mask)
    assert (coded.codec, coded.count) == ("zstd-gaps", 9998)
    assert zstd.decompress(coded.data) == bytes([3, 4])


def test_with_as_many_kept_as_dropped_gaps_run_between_the_kept() -> None:
    mask = torch.tensor([False, True, True, False])
    assert torch.equal(decode_mask(encoded(mask, "zstd-gaps", zstd.compress(bytes([1, 0]))), (4,)), mask)


def test_packed_bits_under_zstd_by_hand() -> None:
    mask = torch.tensor([True, False, False, True, True, False, True, False] * 1000)
    coded = encode_mask(mask)
    assert coded.codec == "zstd-bits"
    assert zstd.decompress(coded.data) == bytes([0b01011001]) * 1000


@pytest.mark.parametrize("codec", CODERS["zstd"])
def test_each_codec_is_chosen_for_some_mask(codec: str) -> None:
    chosen = {encode_mask(random_mask(200_000, kept)).codec for kept in (2000, 60_000, 100_000)}
    assert codec in chosen


@pytest.mark.parametrize("density", [0.005, 0.01, 0.05, 0.1, 0.2, 0.25, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99, 0.995])
def test_a_random_mask_takes_at_most_two_percent_more_than_its_entropy(density: float) -> None:
    total = 1_000_000
    kept = round(density * total)
    bound = -total * (density * math.log2(density) + (1 - density) * math.log2(1 - density)) / 8
    size = len(encode_mask(random_mask(total, kept)).data)
    # A typical mask cannot be coded below the entropy of its count by more than a few bytes.
    assert bound - 4 < size <= 1.02 * bound


@pytest.mark.parametrize("coded_edges", [2**18, 2**21 - 1, 2**21, 2**21 + 8, 5_000_003])
@pytest.mark.parametrize("density", [0.002, 0.03, 0.3])
def test_a_mask_longer_than_a_piece_comes_back_as_it_was(coded_edges: int, density: float) -> None:
    mask = random_mask(coded_edges, round(density * coded_edges))
    for each in (mask, ~mask):
        assert torch.equal(decode_mask(encode_mask(each), each.shape), each)


@given(
    positions=st.sets(st.integers(0, 3_000_000), max_size=6),
    behind=st.integers(1, 300_000),
    rarer=st.booleans(),
)
def test_gaps_of_any_length_come_back_as_they_were(positions: set[int], behind: int, rarer: bool) -> None:
    mask = mask_of(*positions, total=max(positions, default=0) + behind)
    mask = mask if rarer else ~mask
    assert torch.equal(decode_mask(encode_mask(mask), mask.shape), mask)


def test_a_mask_at_half_density_takes_one_bit_an_edge() -> None:
    assert len(encode_mask(random_mask(100_000, 50_000)).data) == 12_500


def test_runs_take_less_than_the_entropy_of_their_count() -> None:
    mask = torch.arange(100_000) % 20_000 < 10_000
    assert len(encode_mask(mask).data) < 200


# Several masks one behind the other


@given(
    masks=st.lists(
        st.tuples(st.integers(0, 3000), st.sampled_from([0.0, 0.001, 0.01, 0.1, 0.4, 0.5, 0.9, 0.999, 1.0])), max_size=9
    ),
    coder=st.sampled_from(["zstd", "ans"]),
)
def test_masks_come_back_as_they_were(masks: list[tuple[int, float]], coder: str) -> None:
    if coder == "ans":
        pytest.importorskip("constriction", reason="the extra 'ans' is not installed")
    ones = {f"m{n}": random_mask(size, round(density * size), seed=n) for n, (size, density) in enumerate(masks)}
    coded = encode_masks(ones, coder=coder)
    shapes = {name: (mask.numel(),) for name, mask in ones.items()}
    assert coded.sha256 == hashlib.sha256(b"".join(map(packed, ones.values()))).hexdigest()
    assert coded.streams.keys() == {STREAM_OF[mask.codec] for mask in coded.masks.values()}
    check_masks(coded, shapes)
    found = decode_masks(coded, shapes)
    assert list(found) == list(ones)
    assert all(torch.equal(found[name], mask) for name, mask in ones.items())


def test_pieces_of_one_mask_may_end_anywhere_in_those_of_the_next() -> None:
    sizes = [300_001, 7, 2**18, 1, 700_003]
    ones = {f"m{n}": random_mask(size, -(-size // 30), seed=n) for n, size in enumerate(sizes)}
    coded = encode_masks(ones)
    assert {mask.codec for name, mask in coded.masks.items() if name in ("m0", "m2", "m4")} == {"zstd-gaps"}
    found = decode_masks(coded, {name: mask.shape for name, mask in ones.items()})
    assert all(torch.equal(found[name], mask) for name, mask in ones.items())


def test_masks_of_one_density_share_what_a_frame_says_of_it() -> None:
    ones = {f"m{n}": random_mask(20_000, 1000, seed=n) for n in range(30)}
    apart = sum(encode_masks({name: mask}).size for name, mask in ones.items())
    bound = 30 * entropy_bits(1000, 20_000) / 8
    assert encode_masks(ones).size < 1.02 * bound < 1.04 * bound < apart


def test_masks_of_different_densities_do_not_spoil_each_other() -> None:
    densities = [0.002, 0.3, 0.02, 0.97, 0.1, 0.5]
    ones = {f"m{n}": random_mask(200_000, round(d * 200_000), seed=n) for n, d in enumerate(densities)}
    apart = sum(encode_masks({name: mask}).size for name, mask in ones.items())
    assert encode_masks(ones).size <= apart


def test_masks_exchanged_in_their_stream_are_refused() -> None:
    ones = {"a": mask_of(1, total=9), "b": mask_of(2, total=9)}
    coded = encode_masks(ones)
    assert coded.streams == {"bits": b"\2\0\4\0"}
    shapes = {"a": (9,), "b": (9,)}
    for data, message in (
        (b"\4\0\2\0", "decodes to bits of another SHA-256 than the file says"),
        (b"\2\0\4\0\0", "has 1 bytes behind the last edge"),
        (b"\2\0\4", "ends before the last edge"),
    ):
        for call in (decode_masks, check_masks):
            with pytest.raises(TicketError, match=f"^the code of all masks {message}; the file is damaged$"):
                call(replace(coded, streams={"bits": data}), shapes)


def test_entropy_by_hand() -> None:
    assert entropy_bits(1, 2) == 2.0
    assert entropy_bits(1, 4) == pytest.approx(2 + 3 * math.log2(4 / 3), abs=1e-12)
    assert entropy_bits(25, 100) == pytest.approx(81.12781244591328, rel=1e-12)
    assert entropy_bits(30, 100) == entropy_bits(70, 100)
    assert entropy_bits(0, 10) == entropy_bits(10, 10) == entropy_bits(0, 0) == 0.0


def test_a_mask_that_is_not_bool_is_refused() -> None:
    with pytest.raises(TicketError, match=r"^the mask of fc\.weight is float32; expected bool$"):
        encode_masks({"fc.weight": torch.ones(3)})


HALF = torch.tensor([True, False] * 10)
HALF_BITS = packed(HALF)
FEW = mask_of(3, 300, total=1000)  # gaps 3, 255, 41
FEW_GAPS = bytes([3, 255, 41])
MALFORMED = {
    "unknown codec": (encoded(HALF, "rans", HALF_BITS), r"has codec 'rans'; this release reads bits, zstd-bits"),
    "negative count": (replace(encoded(HALF, "bits", HALF_BITS), count=-1), r"claims -1 kept edges of 20"),
    "count over total": (replace(encoded(HALF, "bits", HALF_BITS), count=21), r"claims 21 kept edges of 20"),
    "wrong count": (replace(encoded(HALF, "bits", HALF_BITS), count=9), r"keeps 10 edges, its count says 9"),
    "wrong digest": (replace(encoded(HALF, "bits", HALF_BITS), sha256="0" * 64), r"decodes to bits of another SHA-256"),
    "exchanged edges": (encoded(HALF, "bits", packed(~HALF)), r"decodes to bits of another SHA-256"),
    "too few bits": (encoded(HALF, "bits", HALF_BITS[:-1]), r"ends before the last edge"),
    "too many bits": (encoded(HALF, "bits", HALF_BITS + b"\0"), r"has 1 bytes behind the last edge"),
    "no bits": (encoded(HALF, "bits", b""), r"ends before the last edge"),
    "bits behind the end": (encoded(HALF, "bits", HALF_BITS[:-1] + b"\x15"), r"has bits behind its last edge"),
    "too few under zstd": (encoded(HALF, "zstd-bits", zstd.compress(b"\x55")), r"ends before the last edge"),
    "too many under zstd": (
        encoded(HALF, "zstd-bits", zstd.compress(HALF_BITS + b"\0")),
        r"decompresses to more than it may hold",
    ),
    "bits behind the end under zstd": (
        encoded(HALF, "zstd-bits", zstd.compress(b"\x55\x55\xf5")),
        r"has bits behind its last edge",
    ),
    "no zstd": (encoded(HALF, "zstd-bits", b"\0" * 20), r"is no zstd data \(Unknown frame descriptor\)"),
    "empty": (encoded(HALF, "zstd-bits", b""), r"has an unfinished zstd frame"),
    "cut": (encoded(FEW, "zstd-gaps", zstd.compress(FEW_GAPS)[:-1]), r"has an unfinished zstd frame"),
    "trailing": (encoded(FEW, "zstd-gaps", zstd.compress(FEW_GAPS) + b"\0"), r"has 1 bytes behind its zstd frame"),
    "two frames": (encoded(FEW, "zstd-gaps", zstd.compress(FEW_GAPS) * 2), r"has 12 bytes behind its zstd frame"),
    "skippable frame": (
        encoded(FEW, "zstd-gaps", bytes.fromhex("502a4d1800000000") + zstd.compress(FEW_GAPS)),
        r"ends before the last edge",
    ),
    "window of 64 MiB": (encoded(FEW, "zstd-gaps", bytes.fromhex("28b52ffd0080010000")), r"is no zstd data"),
    "gap beyond the end": (
        encoded(FEW, "zstd-gaps", zstd.compress(bytes([254, 255, 255, 255]) + b"\0")),
        r"has gaps that go beyond its 1000 edges",
    ),
    "edge just beyond the end": (
        encoded(FEW, "zstd-gaps", zstd.compress(bytes([255, 255, 255, 234, 0]))),
        r"has gaps that go beyond its 1000 edges",
    ),
    "ends in an escape": (
        encoded(FEW, "zstd-gaps", zstd.compress(bytes([3, 41, 255]))),
        r"decompresses to more than it may",
    ),
    "too few gaps": (encoded(FEW, "zstd-gaps", zstd.compress(bytes([3]))), r"ends before the last edge"),
    "no gaps": (encoded(FEW, "zstd-gaps", zstd.compress(b"")), r"ends before the last edge"),
    "too many gaps": (
        encoded(FEW, "zstd-gaps", zstd.compress(bytes([3, 4, 5]))),
        r"decompresses to more than it may hold",
    ),
    "far too many gaps": (
        encoded(FEW, "zstd-gaps", zstd.compress(bytes(6))),
        r"decompresses to more than it may hold",
    ),
    "moved edge": (
        encoded(FEW, "zstd-gaps", zstd.compress(bytes([4, 255, 40]))),
        r"decodes to bits of another SHA-256",
    ),
}


def test_the_well_formed_neighbours_of_the_malformed_masks_decode() -> None:
    for codec, data in (("bits", HALF_BITS), ("zstd-bits", zstd.compress(HALF_BITS))):
        assert torch.equal(decode_mask(encoded(HALF, codec, data), (20,)), HALF)
    assert torch.equal(decode_mask(encoded(FEW, "zstd-gaps", zstd.compress(FEW_GAPS)), (1000,)), FEW)
    last = mask_of(998, 999, total=1000)
    assert torch.equal(decode_mask(encoded(last, "zstd-gaps", zstd.compress(b"\xff\xff\xff\xe9\0")), (1000,)), last)


@pytest.mark.parametrize(("coded", "message"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_mask_is_refused_in_one_line(coded: EncodedMask, message: str) -> None:
    shape = (1000,) if coded.codec == "zstd-gaps" else (20,)
    with pytest.raises(TicketError, match=rf"^the mask of m {message}") as caught:
        decode_mask(coded, shape)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("codec", ["zstd-bits", "zstd-gaps"])
def test_a_bomb_is_not_decompressed(codec: str) -> None:
    bomb = encoded(HALF, codec, zstd.compress(bytes(100_000_000), level=19))
    assert len(bomb.data) < 20_000
    tracemalloc.start()
    try:
        with pytest.raises(TicketError, match=r"(decompresses to more than it may hold|keeps 0 edges)"):
            decode_mask(bomb, (20,))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("coded", "message"), MALFORMED.values(), ids=MALFORMED)
def test_a_mask_is_checked_as_it_is_decoded(coded: EncodedMask, message: str) -> None:
    with pytest.raises(TicketError, match=rf"^the mask of m {message}"):
        check_mask(coded, 1000 if coded.codec == "zstd-gaps" else 20)


@pytest.mark.parametrize("codec", ["zstd-bits", "zstd-gaps"])
@pytest.mark.parametrize("kept", [False, True])
def test_a_mask_of_any_size_is_checked_in_little_memory(codec: str, kept: bool) -> None:
    total = 2**28
    bits, data = (255 if kept else 0, {"zstd-bits": bytes([255 * kept]) * (total // 8), "zstd-gaps": b""}[codec])
    sha256 = hashlib.sha256(bytes([bits]) * (total // 8)).hexdigest()
    coded = EncodedMask(codec, total if kept else 0, sha256, zstd.compress(data))
    tracemalloc.start()
    try:
        check_mask(coded, total)
        with pytest.raises(TicketError, match=r"decodes to bits of another SHA-256"):
            check_mask(replace(coded, sha256="0" * 64), total)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@given(data=st.binary(max_size=60), codec=st.sampled_from(CODERS["zstd"]), count=st.integers(0, 100))
def test_arbitrary_bytes_end_in_a_ticket_error(data: bytes, codec: str, count: int) -> None:
    with pytest.raises(TicketError):
        decode_mask(EncodedMask(codec, count, "0" * 64, data), (10, 10))


@given(gaps=st.binary(max_size=60), codec=st.sampled_from(["zstd-bits", "zstd-gaps"]), count=st.integers(0, 100))
def test_arbitrary_bytes_under_zstd_end_in_a_ticket_error(gaps: bytes, codec: str, count: int) -> None:
    with pytest.raises(TicketError):
        decode_mask(EncodedMask(codec, count, "0" * 64, zstd.compress(gaps)), (10, 10))


@pytest.mark.parametrize("coder", ["zstd", "ans"])
def test_a_codec_without_its_stream_is_refused(coder: str) -> None:
    masks = {"a": random_mask(50, 20), "b": random_mask(5000, 500), "c": random_mask(5000, 5)}
    coded = encode_masks(masks, coder=coder)
    assert len(coded.streams) == (3 if coder == "ans" else 2)
    for stream in coded.streams:
        left = replace(coded, streams={key: data for key, data in coded.streams.items() if key != stream})
        (name, codec) = next((name, m.codec) for name, m in coded.masks.items() if STREAM_OF[m.codec] == stream)
        for read in (decode_masks, check_masks):
            with pytest.raises(
                TicketError, match=rf"^the mask of {name} has codec '{codec}', but the stream '{stream}' is missing$"
            ):
                read(left, {name: tuple(mask.shape) for name, mask in masks.items()})
