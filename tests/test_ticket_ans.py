"""Masks through an asymmetric numeral system: the code by hand, its size, its limits, and its format version.

The golden file of format version 3 is made by ``PYTHONPATH=.:tests python tests/test_ticket_ans.py``; once released it
never changes again.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_runs import refusal, search
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from single_masks import EncodedMask, decode_mask, encode_mask
from ticket_files import (
    FORMAT_PAGE,
    GOLDEN_1,
    GOLDEN_2,
    GOLDEN_3,
    GOLDEN_4,
    GOLDEN_4_ANS,
    apart,
    assert_refused,
    equal,
    forged,
    small_ticket,
    taken_apart,
)
from torch import Tensor

from strongticket.errors import ConfigError, MissingExtraError, TicketError
from strongticket.ticket import (
    Ticket,
    check_coder,
    coded_masks,
    coder_of,
    from_bytes,
    load,
    mask_bits,
    save,
    to_bytes,
)
from strongticket.ticket.ans import frequencies
from strongticket.ticket.coding import entropy_bits
from strongticket.weights import DrawnTensor, WeightLaw, digest, draw

CODECS_OF_GOLDEN = ("bits", "ans", "ans", "zstd-bits", "zstd-gaps")


@pytest.fixture(autouse=True)
def _the_extra() -> None:
    pytest.importorskip("constriction", reason="the extra 'ans' is not installed")


def golden_ticket() -> Ticket:
    """A ticket with masks of every codec; the edges of the coded ones are drawn by a formula."""
    law, seed = WeightLaw("kaiming-uniform"), 41
    tensors = {
        "stem.weight": DrawnTensor((2, 1, 2, 2), "float32", 1.0),
        "body.weight": DrawnTensor((64, 64), "float32", 0.25),
        "dense.weight": DrawnTensor((50, 61), "float32", 0.25),
        "stripes.weight": DrawnTensor((64, 64), "float32", 0.25),
        "tail.weight": DrawnTensor((10, 1000), "float32", 0.125),
    }
    few = torch.zeros(10_000, dtype=torch.bool)
    few[[0, 255, 256, 9990]] = True
    drawn = {name: draw(law, seed, name, tensor.shape, scale=tensor.scale) for name, tensor in tensors.items()}
    return Ticket(
        seed=seed,
        law=law,
        tensors=tensors,
        masks={
            "stem.weight": torch.tensor([1, 0, 0, 0, 1, 1, 0, 1], dtype=torch.bool).reshape(2, 1, 2, 2),
            "body.weight": torch.from_numpy(scattered(4096, 0.1)).reshape(64, 64),
            "dense.weight": torch.from_numpy(scattered(3050, 0.8)).reshape(50, 61),
            "stripes.weight": (torch.arange(4096) % 8 < 3).reshape(64, 64),
            "tail.weight": few.reshape(10, 1000),
        },
        weights_digest=digest(drawn),
        stored={"norm.running_var": torch.tensor([1.0, 0.5])},
        search={"rule": "edge-popup", "scope": "layer", "density": 0.25, "floor": 0.0, "bn": "frozen"},
    )


def scattered(total: int, density: float) -> NDArray[np.bool_]:
    """About ``density`` of ``total`` edges, from the one stream that numpy promises never to change."""
    return np.random.Philox(key=np.array([3, total], np.uint64)).random_raw(total) < density * 2.0**64


def random_mask(total: int, kept: int, seed: int = 0) -> Tensor:
    mask = np.zeros(total, dtype=np.bool_)
    mask[np.random.default_rng(seed).permutation(total)[:kept]] = True
    return torch.from_numpy(mask)


# The code by hand, in integers of any size, as docs/format.md has it.


def parts_by_hand(count: int, total: int) -> list[int]:
    share = Fraction(count, total)
    of_ones = [max(1, math.floor(2**24 * share**ones * (1 - share) ** (8 - ones))) for ones in range(9)]
    parts = [of_ones[f"{byte:b}".count("1")] for byte in range(256)]
    likely = 0 if share <= Fraction(1, 2) else 255
    parts[likely] = 0
    parts[likely] = 2**24 - sum(parts)
    return parts


def coded_by_hand(masks: list[tuple[bytes, int, int]]) -> bytes:
    """The code of masks: packed bits, how many are 1, how many there are."""
    state, words = 0, []
    for packed, count, total in reversed(masks):
        parts = parts_by_hand(count, total)
        below = [0, *accumulate(parts)]
        for byte in reversed(packed):
            if state >= parts[byte] * 2**40:
                words.append(state % 2**32)
                state //= 2**32
            state = state // parts[byte] * 2**24 + below[byte] + state % parts[byte]
    while state:
        words.append(state % 2**32)
        state //= 2**32
    return b"".join(word.to_bytes(4, "little") for word in words).rstrip(b"\0")


def as_ans(mask: Tensor) -> EncodedMask:
    """The mask in the codec ``ans``, by hand."""
    packed = np.packbits(mask.numpy(), bitorder="little").tobytes()
    count = int(mask.sum())
    data = coded_by_hand([(packed, count, mask.numel())])
    return EncodedMask("ans", count, hashlib.sha256(packed).hexdigest(), data)


def test_the_example_of_the_documentation() -> None:
    parts = parts_by_hand(2, 16)
    assert parts[0x08] == parts[0x10] == 7**7
    assert (sum(parts[:0x08]), sum(parts[:0x10])) == (8605184, 9834496)
    mask = torch.zeros(16, dtype=torch.bool)
    mask[[3, 12]] = True
    assert as_ans(mask).data == bytes.fromhex("63 23 8f 0b")
    assert torch.equal(decode_mask(as_ans(mask), (16,)), mask)


@given(total=st.integers(1, 2**48), share=st.floats(0, 1))
def test_frequencies_are_those_of_exact_arithmetic(total: int, share: float) -> None:
    count = min(total, int(share * total))
    found = frequencies(count, total)
    assert found.tolist() == parts_by_hand(count, total)
    assert found.min() >= 1
    assert found.sum() == 2**24


@given(total=st.integers(1, 4000), share=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_a_mask_coded_by_hand_is_read_and_is_what_is_written(total: int, share: float, seed: int) -> None:
    mask = random_mask(total, round(share * total), seed)
    by_hand = as_ans(mask)
    assert torch.equal(decode_mask(by_hand, (total,)), mask)
    written = encode_mask(mask, coder="ans")
    if 0 < by_hand.count < total:
        assert written == by_hand if written.codec == "ans" else len(written.data) <= len(by_hand.data)


@given(mask=st.lists(st.booleans(), max_size=600).map(lambda edges: torch.tensor(edges, dtype=torch.bool)))
def test_whatever_the_pattern_a_mask_comes_back_as_it_was(mask: Tensor) -> None:
    coded = encode_mask(mask, coder="ans")
    assert len(coded.data) <= len(encode_mask(mask).data)
    assert torch.equal(decode_mask(coded, mask.shape), mask)


@pytest.mark.parametrize("density", [0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.3, 0.45, 0.5, 0.6, 0.9, 0.95, 0.99])
def test_a_random_mask_takes_at_most_a_thousandth_more_than_its_entropy(density: float) -> None:
    total = 1_000_000
    mask = random_mask(total, round(density * total))
    bound = -total * (density * math.log2(density) + (1 - density) * math.log2(1 - density)) / 8
    coded = encode_mask(mask, coder="ans")
    assert bound - 4 < len(coded.data) <= 1.001 * bound
    assert torch.equal(decode_mask(coded, (total,)), mask)


def test_a_mask_of_many_pieces_comes_back_as_it_was() -> None:
    total = 3 * 8 * 2**18 + 5
    mask = random_mask(total, total // 20)
    assert torch.equal(decode_mask(encode_mask(mask, coder="ans"), (total,)), mask)


def test_a_mask_takes_three_bytes_more_than_its_entropy_at_most() -> None:
    masks = [random_mask(1000 + 37 * i, 50 + i, seed=i) for i in range(50)]
    sizes = [len(encode_mask(mask, coder="ans").data) for mask in masks]
    bounds = [entropy_bits(int(mask.sum()), mask.numel()) / 8 for mask in masks]
    assert all(size <= bound + 4 for size, bound in zip(sizes, bounds, strict=True))
    assert sum(sizes) <= sum(bounds) + 3 * len(masks)


def test_masks_with_structure_and_of_one_kind_are_left_to_zstd() -> None:
    assert encode_mask(torch.arange(100_000) % 8 < 3, coder="ans").codec == "zstd-bits"
    assert encode_mask(torch.zeros(10**6, dtype=torch.bool), coder="ans").codec.startswith("zstd")
    assert encode_mask(torch.ones(10**6, dtype=torch.bool), coder="ans").codec.startswith("zstd")


# Limits and damage


def test_a_mask_too_sparse_for_the_limit_of_the_codec_is_left_to_zstd() -> None:
    mask = random_mask(10**6, 50)
    assert len(as_ans(mask).data) < len(encode_mask(mask).data)
    assert encode_mask(mask, coder="ans").codec != "ans"
    with pytest.raises(
        TicketError, match=r"^the mask of m has 1000000 edges in \d+ bytes; the codec 'ans' has at most \d+ in them$"
    ):
        decode_mask(as_ans(mask), (10**6,))


def test_a_state_of_few_bytes_is_not_decoded_at_length() -> None:
    with pytest.raises(TicketError, match=r"^the mask of m has 68719476736 edges in 1 bytes; .* at most 4224 in"):
        decode_mask(EncodedMask("ans", 1, "0" * 64, b"\1"), (2**36,))


MASK = random_mask(1000, 200)
CODED = as_ans(MASK)
DAMAGED = {
    "a byte of zeros behind": (
        replace(CODED, data=CODED.data + b"\0"),
        r"ends in a byte of 0, which its code does not",
    ),
    "a byte behind": (replace(CODED, data=CODED.data + b"\1"), r"(has more data than its edges take|keeps \d+)"),
    "words behind": (replace(CODED, data=CODED.data + bytes(3) + b"\1"), r"(has more data than its|keeps \d+)"),
    "words in front": (
        replace(CODED, data=bytes(8) + CODED.data),
        r"(has more data than its|keeps \d+ edges|decodes to)",
    ),
    "cut": (
        replace(CODED, data=CODED.data[:-9]),
        r"(has more data than its|keeps \d+ edges|decodes to|has bits)",
    ),
    "nothing": (replace(CODED, data=b""), r"keeps 0 edges, its count says 200"),
    "another count": (replace(CODED, count=201), r"(has more data than|keeps \d+ edges|decodes to|has bits behind)"),
    "another digest": (replace(CODED, sha256="0" * 64), r"decodes to bits of another SHA-256"),
}


@pytest.mark.parametrize(("coded", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_state_is_refused_in_one_line(coded: EncodedMask, message: str) -> None:
    with pytest.raises(TicketError, match=rf"^the mask of m {message}"):
        decode_mask(coded, (1000,))


def test_no_bit_of_a_state_can_flip() -> None:
    for bit in range(8 * len(CODED.data)):
        data = bytearray(CODED.data)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(TicketError):
            decode_mask(replace(CODED, data=bytes(data)), (1000,))


@given(data=st.binary(max_size=60), count=st.integers(0, 100))
def test_arbitrary_bytes_end_in_a_ticket_error(data: bytes, count: int) -> None:
    with pytest.raises(TicketError):
        decode_mask(EncodedMask("ans", count, "0" * 64, data), (10, 10))


# Coders and the extra


def test_an_unknown_coder_is_refused() -> None:
    for call in (lambda: check_coder("rans"), lambda: encode_mask(MASK, coder="rans")):
        with pytest.raises(ConfigError, match=r"^coder 'rans' is not known; choose one of zstd, ans$"):
            call()


def test_where_the_extra_is_missing_the_pip_command_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t"
    save(golden_ticket(), path, coder="ans")
    save(golden_ticket(), tmp_path / "plain")
    monkeypatch.setitem(sys.modules, "constriction", None)
    pip = r"masks coded with 'ans' need the package constriction: pip install 'strongticket\[ans\]'$"
    with pytest.raises(MissingExtraError, match=rf"^{re.escape(str(path))}: {pip}"):
        load(path)
    for call in (
        lambda: check_coder("ans"),
        lambda: save(golden_ticket(), tmp_path / "new", coder="ans"),
        lambda: decode_mask(CODED, (1000,)),
    ):
        with pytest.raises(MissingExtraError, match=rf"^{pip}"):
            call()
    assert not (tmp_path / "new").exists()
    assert equal(load(tmp_path / "plain"), golden_ticket())
    assert (coder_of(path), coder_of(tmp_path / "plain")) == ("ans", "zstd")


# The file


def test_the_coder_changes_the_file_and_not_the_ticket(tmp_path: Path) -> None:
    ticket = golden_ticket()
    save(ticket, tmp_path / "ans", coder="ans")
    save(ticket, tmp_path / "zstd", coder="zstd")
    assert equal(load(tmp_path / "ans"), load(tmp_path / "zstd"))
    assert (tmp_path / "zstd").read_bytes() == to_bytes(ticket)
    assert mask_bits(ticket, coder="ans") == 8 * coded_masks(ticket, coder="ans").size < mask_bits(ticket)


def test_a_ticket_that_is_smaller_without_the_codec_does_not_have_it() -> None:
    assert to_bytes(small_ticket(), coder="ans") == to_bytes(small_ticket())
    plain, coded = (taken_apart(to_bytes(golden_ticket(), coder=coder))[1] for coder in ("zstd", "ans"))
    assert coded.keys() - plain.keys() == {"masks.ans"}
    assert plain.keys() - coded.keys() == set()


@pytest.mark.parametrize("version", [1, 2])
def test_a_file_of_an_older_version_does_not_have_the_codec(version: int) -> None:
    said, tensors = taken_apart(GOLDEN_3.read_bytes())
    if version == 1:
        del said["binary"]
    assert_refused(
        forged({**said, "format": version}, tensors),
        rf"tensors\.body\.weight\.mask\.codec is 'ans'; format version {version} has bits, zstd-bits, zstd-gaps$",
    )


def test_a_file_of_version_3_need_not_have_the_codec() -> None:
    assert equal(from_bytes(forged(*apart(golden_ticket(), 3))), golden_ticket())


def test_a_file_of_version_3_says_what_is_binary() -> None:
    said, tensors = taken_apart(GOLDEN_3.read_bytes())
    del said["binary"]
    assert_refused(forged(said, tensors), r"the ticket has no key 'binary'; format version 3 has sha256")


def test_the_golden_file_of_version_3_reads_by_hand() -> None:
    said, tensors = taken_apart(GOLDEN_3.read_bytes())
    masks = {name: mask.numpy().reshape(-1) for name, mask in golden_ticket().masks.items()}
    counts = {name: int(mask.sum()) for name, mask in masks.items()}
    packed = {name: np.packbits(mask, bitorder="little").tobytes() for name, mask in masks.items()}
    codecs = dict(zip(masks, CODECS_OF_GOLDEN, strict=True))
    assert said["format"] == 3
    assert {name: tensor["mask"] for name, tensor in said["tensors"].items()} == {
        name: {"codec": codecs[name], "count": counts[name], "sha256": hashlib.sha256(packed[name]).hexdigest()}
        for name in masks
    }
    for name in ("body.weight", "dense.weight"):
        data = coded_by_hand([(packed[name], counts[name], masks[name].size)])
        assert tensors[f"mask:{name}"] == ("U8", [len(data)], data)


def test_the_golden_file_of_version_4_reads_by_hand() -> None:
    said, tensors = taken_apart(GOLDEN_4_ANS.read_bytes())
    masks = {name: mask.numpy().reshape(-1) for name, mask in golden_ticket().masks.items()}
    packed = {name: np.packbits(mask, bitorder="little").tobytes() for name, mask in masks.items()}
    assert said["format"] == 4
    assert [tensor["mask"]["codec"] for tensor in said["tensors"].values()] == list(CODECS_OF_GOLDEN)
    assert said["masks_digest"] == hashlib.sha256(b"".join(packed.values())).hexdigest()
    data = coded_by_hand([(packed[n], int(masks[n].sum()), masks[n].size) for n in ("body.weight", "dense.weight")])
    assert tensors["masks.ans"] == ("U8", [len(data)], data)


@pytest.mark.parametrize("path", [GOLDEN_3, GOLDEN_4_ANS], ids=lambda path: path.stem)
def test_the_golden_files_load(path: Path) -> None:
    assert equal(load(path), golden_ticket())
    assert coder_of(path) == "ans"
    assert to_bytes(load(path), coder="ans") == to_bytes(golden_ticket(), coder="ans")
    assert {coder_of(GOLDEN_1), coder_of(GOLDEN_2), coder_of(GOLDEN_4)} == {"zstd"}


@pytest.mark.parametrize("path", [GOLDEN_3, GOLDEN_4_ANS], ids=lambda path: path.stem)
def test_the_reader_in_the_documentation_reads_the_golden_files(path: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", FORMAT_PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    reader: dict[str, Any] = {}
    exec(compile(code, "format.md", "exec"), reader)
    _, masks = reader["read_ticket"](path)
    assert digest({name: torch.from_numpy(mask) for name, mask in masks.items()}) == digest(golden_ticket().masks)


# The command line


def test_a_search_writes_its_tickets_with_the_coder_asked_for(tmp_path: Path) -> None:
    run = search(tmp_path / "run", "--density", "0.1", "--coder", "ans")
    for name in ("ticket.safetensors", "ticket-last.safetensors"):
        ticket = load(run / name)
        assert (run / name).read_bytes() == to_bytes(ticket, coder="ans") != to_bytes(ticket)
        assert "coder" not in ticket.provenance["config"]  # it is no part of what a ticket is
    report = json.loads((run / "report.json").read_text("utf-8"))["ticket"]
    ticket = load(run / "ticket.safetensors")
    assert report["file_bytes"] == (run / "ticket.safetensors").stat().st_size
    assert report["bits_per_weight"] == mask_bits(ticket, coder="ans") / ticket.total < mask_bits(ticket) / ticket.total


def test_a_search_that_could_not_write_its_ticket_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "constriction", None)
    message = refusal(capsys, "search", "--coder", "ans", "--out", tmp_path / "run")
    assert message.endswith("need the package constriction: pip install 'strongticket[ans]'\n")
    assert list(tmp_path.iterdir()) == []


if __name__ == "__main__":
    save(golden_ticket(), GOLDEN_4_ANS, coder="ans")
