"""The ticket file: its bytes by hand, every bit of it guarded, every way it can be wrong refused in one line.

The golden files of format version 5 were made by ``PYTHONPATH=. python tests/test_ticket_storage.py``, the one of
version 3 by ``tests/test_ticket_ans.py``; those of released versions never change again.
"""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import os
import re
import stat
import struct
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ticket_files import (
    DIGEST_AT,
    FORMAT_PAGE,
    GOLDEN_1,
    GOLDEN_2,
    GOLDEN_4,
    GOLDEN_5_COATS,
    GOLDEN_5_DRAWS,
    GOLDEN_SHA256,
    apart,
    assert_refused,
    assert_refused_in_memory,
    equal,
    forged,
    framed,
    golden_binary_ticket,
    golden_coats_ticket,
    golden_draws_ticket,
    golden_ticket,
    literal,
    sealed,
    small_ticket,
    taken_apart,
)

from strongticket.errors import TicketError
from strongticket.ticket import Ticket, coded_masks, from_bytes, load, mask_bits, save, storage, to_bytes
from strongticket.weights import Binary, DrawnTensor, digest, source

GOLDEN = {
    GOLDEN_1: golden_ticket(),
    GOLDEN_2: golden_binary_ticket(),
    GOLDEN_4: golden_ticket(),
    GOLDEN_5_COATS: golden_coats_ticket(),
    GOLDEN_5_DRAWS: golden_draws_ticket(),
}
if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Round trips


@given(
    sizes=st.lists(st.integers(1, 9), min_size=0, max_size=4),
    density=st.floats(0.005, 1) | st.just(1.0),
    seed=st.integers(0, 2**64 - 1),
    scale=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    dtype=st.sampled_from([torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]),
)
def test_a_ticket_comes_back_as_it_was(
    sizes: list[int], density: float, seed: int, scale: float, dtype: torch.dtype
) -> None:
    noise = torch.rand(sizes, generator=torch.Generator().manual_seed(seed % 2**63))
    ticket = small_ticket(
        seed=seed,
        tensors={
            "b": DrawnTensor(tuple(sizes), "float32", scale),
            "a": DrawnTensor((0,), "float16", scale, masked=False),
        },
        masks={"b": noise < density},
        stored={"noise": (noise * 9).to(dtype), "nothing": torch.empty(0, 3)},
    )
    again = from_bytes(to_bytes(ticket))
    assert equal(again, ticket)
    assert again.tensors["b"].scale.hex() == scale.hex()
    assert (again.kept, again.total) == (ticket.kept, ticket.total)


@pytest.mark.parametrize("ticket", GOLDEN.values(), ids=[path.stem for path in GOLDEN])
def test_a_ticket_comes_back_from_a_file(tmp_path: Path, ticket: Ticket) -> None:
    for path in (tmp_path / "ticket.safetensors", tmp_path / "näme with spaces"):
        save(ticket, path)
        assert equal(load(path), ticket)
        assert equal(load(str(path)), ticket)


def test_what_is_binary_is_part_of_a_ticket() -> None:
    one = golden_binary_ticket()
    for binary in (Binary(), Binary("layer", one.binary.activations), Binary("channel", {"act": "bi-real"})):
        assert not equal(from_bytes(to_bytes(replace(one, binary=binary))), one)


def test_memory_format_and_sharing_leave_no_trace() -> None:
    mask = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    mean = torch.arange(48.0).reshape(1, 3, 4, 4)
    plain = small_ticket(
        tensors={"w": DrawnTensor((2, 3, 4, 4), "float32", 0.5)},
        masks={"w": mask},
        stored={"mean": mean, "same": mean.clone()},
    )
    strided = mean.to(memory_format=torch.channels_last).requires_grad_()
    odd = replace(
        plain,
        masks={"w": mask.to(memory_format=torch.channels_last)},
        stored={"same": strided, "mean": strided},
    )
    assert to_bytes(odd) == to_bytes(plain)


def test_what_is_loaded_may_be_written_to() -> None:
    ticket = from_bytes(to_bytes(golden_ticket()))
    ticket.stored["norm.running_mean"].zero_()
    ticket.masks["stem.weight"].logical_not_()
    assert equal(from_bytes(to_bytes(golden_ticket())), golden_ticket())


def test_equal_tickets_give_equal_bytes() -> None:
    one = golden_ticket()
    other = replace(one, masks=dict(reversed(list(one.masks.items()))), stored=dict(reversed(list(one.stored.items()))))
    assert to_bytes(one) == to_bytes(other) == to_bytes(from_bytes(to_bytes(one)))


def test_the_file_has_the_bytes_of_to_bytes_and_ordinary_permissions(tmp_path: Path) -> None:
    save(small_ticket(), tmp_path / "t")
    assert (tmp_path / "t").read_bytes() == to_bytes(small_ticket())
    (tmp_path / "ordinary").touch()
    assert stat.S_IMODE((tmp_path / "t").stat().st_mode) == stat.S_IMODE((tmp_path / "ordinary").stat().st_mode)


def test_mask_bits_are_those_of_the_coded_masks() -> None:
    coded = coded_masks(golden_ticket())
    _, tensors = taken_apart(to_bytes(golden_ticket()))
    assert {f"masks.{stream}": ("U8", [len(data)], data) for stream, data in coded.streams.items()} == {
        key: value for key, value in tensors.items() if key.startswith("masks.")
    }
    assert mask_bits(golden_ticket()) == 8 * (len(tensors["masks.bits"][2]) + len(tensors["masks.zstd"][2]))


# The format by hand


@pytest.mark.parametrize("path", GOLDEN_SHA256, ids=lambda path: path.stem)
def test_a_golden_file_is_as_it_was_released(path: Path) -> None:
    assert hashlib.sha256(path.read_bytes()).hexdigest() == GOLDEN_SHA256[path]


def test_the_golden_file_of_version_1_reads_by_hand() -> None:
    said, tensors = taken_apart(GOLDEN_1.read_bytes())
    few = ["0"] * 1000
    for position in (0, 255, 256, 999):
        few[position] = "1"
    few_packed = int("".join(reversed(few)), 2).to_bytes(125, "little")
    sha = {
        "stem.weight": hashlib.sha256(b"\xb1").hexdigest(),
        "body.weight": hashlib.sha256(b"\x07" * 512).hexdigest(),
        "tail.weight": hashlib.sha256(few_packed).hexdigest(),
    }
    assert list(said)[:2] == ["sha256", "format"]
    del said["sha256"]
    assert said == {
        "format": 1,
        "seed": 9007199254740993,
        "law": {"kind": "signed-constant", "gain": None, "fan": "in", "scale_by_density": False},
        "weights_digest": "e74a3a56e8ecf80d7e5321583a1b6948e21ecb613cd03035fc97b3090ac1a340",
        "stored_digest": "756b4d3db88ee14d48f2cb11686694930716dafd661265500ab718d8a20e8221",
        "kept": 4 + 1536 + 4,
        "total": 8 + 4096 + 1000,
        "tensors": {
            "stem.weight": {
                "shape": [2, 1, 2, 2],
                "dtype": "float32",
                "scale": 0.7071067811865476,
                "mask": {"codec": "bits", "count": 4, "sha256": sha["stem.weight"]},
            },
            "body.weight": {
                "shape": [64, 64],
                "dtype": "float32",
                "scale": 0.1767766952966369,
                "mask": {"codec": "zstd-bits", "count": 1536, "sha256": sha["body.weight"]},
            },
            "tail.weight": {
                "shape": [10, 100],
                "dtype": "float16",
                "scale": 0.1414213562373095,
                "mask": {"codec": "zstd-gaps", "count": 4, "sha256": sha["tail.weight"]},
            },
            "head.weight": {"shape": [3, 10], "dtype": "float32", "scale": 0.4472135954999579, "mask": None},
        },
        "trained": ["norm.weight"],
        "search": {"rule": "edge-popup", "scope": "layer", "density": 0.5, "floor": 0.0, "bn": "learned"},
        "model": {"name": "example", "width": 1.0},
        "provenance": {"note": "größer als 1/3", "third": 0.3333333333333333},
    }
    by_hand = {key: (dtype, shape, data) for key, (dtype, shape, data) in tensors.items() if key.startswith("stored:")}
    assert by_hand == {
        "stored:norm.running_mean": ("F32", [3], bytes.fromhex("0000003f 00000080 0000c07f")),
        "stored:norm.weight": ("BF16", [2], bytes.fromhex("c03f 0040")),
        "stored:norm.active": ("BOOL", [2], bytes.fromhex("01 00")),
        "stored:steps": ("I64", [], bytes.fromhex("07 00 00 00 00 00 00 00")),
    }
    coded = {key: data for key, (dtype, shape, data) in tensors.items() if key.startswith("mask:")}
    assert all(tensors[key][:2] == ("U8", [len(data)]) for key, data in coded.items())
    assert coded["mask:stem.weight"] == b"\xb1"
    assert zstd.decompress(coded["mask:body.weight"]) == b"\x07" * 512
    assert zstd.decompress(coded["mask:tail.weight"]) == bytes([0, 254, 0, 255, 255, 232])


def packed(count: int, kept: Callable[[int], bool]) -> bytes:
    return sum(1 << edge for edge in range(count) if kept(edge)).to_bytes(-(-count // 8), "little")


def test_the_golden_file_of_version_2_reads_by_hand() -> None:
    said, tensors = taken_apart(GOLDEN_2.read_bytes())
    masks = {
        "embed.weight": packed(54, lambda edge: edge % 3 > 0),
        "body.conv.weight": packed(96, lambda edge: edge % 7 < 3 and edge < 80),
        "up.weight": packed(48, lambda edge: edge % 5 < 2 and not (edge >= 24 and edge % 8 < 4)),
    }
    sha = {name: hashlib.sha256(data).hexdigest() for name, data in masks.items()}
    assert list(said)[:2] == ["sha256", "format"]
    assert list(said)[9:11] == ["trained", "binary"]
    del said["sha256"]
    assert said == {
        "format": 2,
        "seed": 18446744073709551614,
        "law": {"kind": "kaiming-normal", "gain": None, "fan": "in", "scale_by_density": False},
        "weights_digest": "a0e3bee2cbc9d2b6ab3391952cb2313f83d182ca5b8e42bc385aae67251304f9",
        "stored_digest": "201563cee353e0aefec58dabb44fe2725518e4458a9e66dd6947093523d3fa4f",
        "kept": 36 + 36 + 15,
        "total": 54 + 96 + 48,
        "tensors": {
            "embed.weight": {
                "shape": [9, 6],
                "dtype": "float16",
                "scale": 0.75,
                "mask": {"codec": "bits", "count": 36, "sha256": sha["embed.weight"]},
            },
            "body.conv.weight": {
                "shape": [6, 4, 2, 2],
                "dtype": "float32",
                "scale": 0.3535533905932738,
                "mask": {"codec": "bits", "count": 36, "sha256": sha["body.conv.weight"]},
            },
            "up.weight": {
                "shape": [6, 2, 2, 2],
                "dtype": "float32",
                "scale": 0.25,
                "mask": {"codec": "bits", "count": 15, "sha256": sha["up.weight"]},
            },
            "head.weight": {"shape": [3, 80], "dtype": "float32", "scale": 0.15811388300841897, "mask": None},
        },
        "trained": ["body.norm.weight", "body.norm.bias"],
        "binary": {"gain": "channel", "activations": {"body.act": "bi-real", "act": "clipped-identity"}},
        "search": {"rule": "edge-popup", "scope": "global", "density": 0.5, "floor": 0.0, "bn": "learned"},
        "model": {"name": "example", "width": 1.0},
        "provenance": {},
    }
    stored = {
        "body.norm.weight": (1.0, -1.0, 0.5, 2.0, 0.25, 1.0),
        "body.norm.bias": (0.5, 0.0, -0.5, 0.25, 0.0, -0.25),
        "body.norm.running_mean": (0.0, 0.5, -0.5, 0.25, 0.125, 0.0),
        "body.norm.running_var": (1.0, 0.5, 2.0, 0.25, 1.0, 4.0),
    }
    assert tensors == {
        **{f"mask:{name}": ("U8", [len(data)], data) for name, data in masks.items()},
        **{f"stored:{name}": ("F32", [6], struct.pack("<6f", *values)) for name, values in stored.items()},
    }


def test_the_golden_file_of_version_4_reads_by_hand() -> None:
    old, separate = taken_apart(GOLDEN_1.read_bytes())
    said, tensors = taken_apart(GOLDEN_4.read_bytes())
    masks = {name: tensor["mask"] for name, tensor in old["tensors"].items() if tensor["mask"]}
    few = ["0"] * 1000
    for position in (0, 255, 256, 999):
        few[position] = "1"
    bits = b"\xb1" + b"\x07" * 512 + int("".join(reversed(few)), 2).to_bytes(125, "little")
    for mask in masks.values():
        del mask["sha256"]
    assert {**said, "sha256": ""} == {
        **old,
        "sha256": "",
        "format": 4,
        "masks_digest": hashlib.sha256(bits).hexdigest(),
        "stored": {
            "norm.active": {"dtype": "bool", "shape": [2]},
            "norm.running_mean": {"dtype": "float32", "shape": [3]},
            "norm.weight": {"dtype": "bfloat16", "shape": [2]},
            "steps": {"dtype": "int64", "shape": []},
        },
        "binary": {"gain": None, "activations": {}},
    }
    assert tensors.keys() == {"masks.bits", "masks.zstd", "stored"}
    assert tensors["masks.bits"] == ("U8", [1], b"\xb1")
    dtype, shape, frame = tensors["masks.zstd"]
    assert (dtype, shape) == ("U8", [len(frame)])
    assert zstd.decompress(frame) == b"\x07" * 512 + bytes([0, 254, 0, 255, 255, 232])
    held = b"".join(separate[f"stored:{name}"][2] for name in said["stored"])
    assert tensors["stored"] == ("U8", [len(held)], held)


def test_the_golden_files_load() -> None:
    for path, ticket in GOLDEN.items():
        assert equal(load(path), ticket)


@pytest.mark.parametrize("path", [GOLDEN_4, GOLDEN_5_COATS, GOLDEN_5_DRAWS], ids=lambda path: path.stem)
def test_the_latest_golden_files_are_what_is_written_whatever_zstd_makes_of_it(path: Path) -> None:
    written, tensors = taken_apart(to_bytes(GOLDEN[path]))
    said, golden = taken_apart(path.read_bytes())
    assert {**written, "sha256": ""} == {**said, "sha256": ""}
    for key in [key for key in golden if key.endswith(".zstd")]:
        assert zstd.decompress(tensors.pop(key)[2]) == zstd.decompress(golden.pop(key)[2])
    assert tensors == golden


@pytest.mark.parametrize("path", [GOLDEN_1, GOLDEN_2], ids=lambda path: path.stem)
def test_a_ticket_of_an_older_version_is_written_in_the_latest_without_levels(path: Path) -> None:
    data = to_bytes(load(path))
    assert taken_apart(data)[0]["format"] == 4
    assert data == to_bytes(GOLDEN[path])


def test_a_file_made_by_hand_loads() -> None:
    for path, ticket in GOLDEN.items():
        assert equal(from_bytes(forged(*taken_apart(path.read_bytes()))), ticket)
    for version in (1, 2, 3):
        assert equal(from_bytes(forged(*apart(golden_ticket(), version))), golden_ticket())


@pytest.mark.parametrize(("path", "expected"), GOLDEN.items(), ids=lambda value: getattr(value, "stem", ""))
def test_the_reader_in_the_documentation_reads_the_golden_files(path: Path, expected: Ticket) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", FORMAT_PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    reader: dict[str, Any] = {}
    exec(compile(code, "format.md", "exec"), reader)
    description, masks = reader["read_ticket"](path)
    assert description["binary"] == {"gain": expected.binary.gain, "activations": expected.binary.activations}
    assert digest({name: torch.from_numpy(mask) for name, mask in masks.items()}) == digest(expected.masks)
    table = np.load(Path(source.__file__).parent / "normal_quantiles.npy")
    weights = {
        name: reader["frozen_weights"](
            description, name, table, padding=3 if name == "embed.weight" else None, mask=masks.get(name)
        )
        for name in expected.tensors
    }
    assert digest({name: torch.from_numpy(weight) for name, weight in weights.items()}) == description["weights_digest"]


def test_the_documentation_gives_the_first_bytes_of_every_file() -> None:
    (start,) = re.findall(r"^```text\n(.*?)\n```$", FORMAT_PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert len(start) == DIGEST_AT - 8
    for path in GOLDEN_SHA256:
        assert path.read_bytes().startswith(start.encode(), 8)


# Damage


def flips(data: bytes) -> Iterator[bytes]:
    changed = bytearray(data)
    for bit in range(8 * len(data)):
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)
        changed[bit // 8] ^= 1 << bit % 8


def test_no_bit_of_a_file_can_flip() -> None:
    data = to_bytes(small_ticket())
    assert len(data) < 1200
    for damaged in flips(data):
        with pytest.raises(TicketError):
            from_bytes(damaged)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_no_byte_of_a_golden_file_can_change(path: Path) -> None:
    data = path.read_bytes()
    for index in range(len(data)):
        with pytest.raises(TicketError):
            from_bytes(data[:index] + bytes([data[index] ^ 0x55]) + data[index + 1 :])


def test_a_file_cut_anywhere_is_refused() -> None:
    data = to_bytes(small_ticket())
    for size in range(len(data)):
        with pytest.raises(
            TicketError, match=r"^(the file is truncated|the file is \d bytes long|the header would be)"
        ):
            from_bytes(data[:size])


def test_bytes_behind_the_end_are_refused() -> None:
    data = to_bytes(small_ticket())
    assert_refused(data + b"\0", r"the file has 1 bytes behind its end; fetch it again")
    assert_refused(data + data, rf"the file has {len(data)} bytes behind its end; fetch it again")


def test_exchanged_pieces_are_refused() -> None:
    one, other = to_bytes(small_ticket()), to_bytes(small_ticket(stored={"mean": torch.tensor([1.0, 2.0])}))
    assert len(one) == len(other)
    mixed = {one[:cut] + other[cut:] for cut in range(len(one))} - {one, other}
    assert len(mixed) > 64
    for data in mixed:
        with pytest.raises(TicketError, match=r"^(the file is damaged: its SHA-256 is|the ticket's SHA-256 does not)"):
            from_bytes(data)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ticket.safetensors"
    path.write_bytes(to_bytes(small_ticket())[:-1])
    with pytest.raises(
        TicketError, match=rf"^{literal(path)}: the file is truncated: 1 of \d+ bytes are missing; fetch it again$"
    ):
        load(path)


# What is no ticket


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TicketError, match=rf"^{literal(tmp_path)}/absent cannot be read: no such file or directory$"):
        load(tmp_path / "absent")


def test_a_folder_is_no_ticket(tmp_path: Path) -> None:
    with pytest.raises(
        TicketError,
        match=rf"^{literal(tmp_path)}: this is a folder; name the file in it, such as {literal(tmp_path)}/t",
    ):
        load(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TicketError, match=r"/pipe: this is a device or a pipe; expected a ticket file$"):
        load(tmp_path / "pipe")


def test_a_path_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(TicketError, match=r"cannot be read: .*null byte"):
        load("a\0b")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"the file is 0 bytes long; this is no ticket, or the start of one"),
        (b"PK\x03\x04" + bytes(200), r"the header would be 67324752 bytes long, the file has 196: truncated, or no"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), r"the header would be \d+ bytes long"),
        (b"\xff" * 100, r"the header would be 18446744073709551615 bytes long, the file has 92"),
        (bytes(100), r"the safetensors header is no JSON \(Expecting value"),
        (framed("[1, 2]"), r"the safetensors header is \[1, 2\]; expected a JSON object"),
        (framed("{}"), r"this is a safetensors file but no ticket: its metadata have no key 'strongticket'"),
        (framed('{"__metadata__":[]}'), r"this is a safetensors file but no ticket"),
        (framed('{"__metadata__":{"format":"pt"}}'), r"this is a safetensors file but no ticket"),
        (framed('{"__metadata__":{"strongticket":1}}'), r"this is a safetensors file but no ticket"),
        (framed('{"__metadata__":{"strongticket":"x"}}'), r"the ticket's description is no JSON \(Expecting value"),
        (framed('{"__metadata__":{"strongticket":"[]"}}'), r"the ticket's description is \[\]; expected a JSON object"),
        (framed('{"__metadata__":{"strongticket":"{}"}}'), r"the ticket names format version None; this release reads"),
        (
            framed('{"__metadata__":{},"__metadata__":{}}'),
            r"the safetensors header is no JSON \(key '__metadata__' stands",
        ),
        (b"\x02\0\0\0\0\0\0\0\xff\xfe", r"this is no safetensors file: its header is no text"),
    ],
)
def test_what_is_no_ticket_is_refused(data: bytes, message: str) -> None:
    assert_refused(data, message)


def test_another_format_version_is_refused_before_anything_else() -> None:
    header = '{"__metadata__":{"strongticket":"{\\"format\\":6,\\"new\\":[]}"},"other":{}}'
    assert_refused(
        framed(header), r"the ticket has format version 6, this release reads versions 1 to 5; update strongticket$"
    )


# Files made to harm, with the digest that they ought to have

SAID, TENSORS = apart(small_ticket())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"mask:w": None}, r"the mask of w is described but not in the file"),
        ({"mask:v": ("U8", [1], b"\0")}, r"the mask of v is in the file but not described"),
        ({"mask:w": ("I8", [1], b"\x11")}, r"mask:w has 'I8' \[1\]; expected U8 in one dimension"),
        ({"mask:w": ("U8", [1, 1], b"\x11")}, r"mask:w has 'U8' \[1, 1\]; expected U8 in one dimension"),
        ({"mask:w": ("U8", [1], b"\x51")}, r"the mask of w has bits behind its last edge"),
        ({"mask:w": ("U8", [1], b"\x21")}, r"the mask of w decodes to bits of another SHA-256"),
        ({"mask:w": ("U8", [1], b"\x31")}, r"the mask of w keeps 3 edges, its count says 2"),
        ({"mask:w": ("U8", [2], b"\x11\0")}, r"the mask of w has 1 bytes behind the last edge"),
        ({"mask:w": ("U8", [2], b"\x11")}, r"this is no valid safetensors file \("),
        ({"stored:mean": None}, r"the stored tensors have another digest than stored_digest says"),
        ({"stored:more": ("F32", [1], bytes(4))}, r"the stored tensors have another digest than stored_digest says"),
        ({"stored:mean": ("F32", [2], bytes(8))}, r"the stored tensors have another digest than stored_digest says"),
        ({"stored:mean": ("F32", [1, 2], TENSORS["stored:mean"][2])}, r"the stored tensors have another digest"),
        ({"stored:mean": ("I32", [2], TENSORS["stored:mean"][2])}, r"the stored tensors have another digest"),
        ({"stored:mean": ("BOOL", [2], b"\x01\x02")}, r"stored:mean has bytes over 1 for booleans"),
        ({"stored:mean": ("F4", [2], b"\0")}, r"stored:mean has dtype 'F4'; expected one of BOOL, U8"),
        ({"stored:mean": (["F32"], [2], bytes(8))}, r"stored:mean has dtype \['F32'\]; expected one of BOOL"),
        ({"stored:w": ("F32", [1], bytes(4))}, r"w is both stored and drawn from the seed"),
        ({"weight": ("F32", [1], bytes(4))}, r"the file has a tensor 'weight'; a ticket has mask:NAME and stored:NAME"),
        ({"stored:/etc/x": ("F32", [1], bytes(4))}, r"'/etc/x' cannot be the name of a tensor"),
        ({"stored:": ("F32", [1], bytes(4))}, r"'' cannot be the name of a tensor"),
        ({"stored:mean": ("F32", [2**62], bytes(8))}, r"the shape of stored:mean is 4611686018427387904; expected"),
        (
            {"stored:mean": ("F32", [2**40, 2**40], bytes(8))},
            r"the shape of stored:mean is \[.*\]; expected at most 2\*\*48",
        ),
        (
            {"stored:mean": ("F32", [0, 2**40, 2**40], b"")},
            r"the shape of stored:mean is \[.*\]; expected at most 2\*\*48",
        ),
        ({"stored:mean": ("F32", [2**20, 2**20], bytes(8))}, r"this is no valid safetensors file \("),
        ({"stored:mean": ("F32", [-2], bytes(8))}, r"the shape of stored:mean is -2; expected an integer from 0"),
        (
            {"stored:mean": ("F32", [True, 2], bytes(8))},
            r"the shape of stored:mean is True; expected an integer from 0",
        ),
        (
            {"stored:mean": ("F32", [1] * 1000, bytes(4))},
            r"the shape of stored:mean is \[1, .*\]; expected a list of at",
        ),
    ],
)
def test_odd_tensors_are_refused(tensors: dict[str, tuple[str, list[int], bytes] | None], message: str) -> None:
    changed = {key: value for key, value in {**TENSORS, **tensors}.items() if value is not None}
    assert_refused(forged(SAID, changed), message)


def test_odd_entries_of_the_header_are_refused() -> None:
    description = json.dumps(json.dumps(SAID | {"sha256": "0" * 64}, separators=(",", ":")))

    def header(entry: str) -> bytes:
        return sealed(framed(f'{{"__metadata__":{{"strongticket":{description}}},"mask:w":{entry}}}', bytes(9)))

    assert_refused(header("1"), r"the header's entry of mask:w is 1; expected dtype, shape, data_offsets")
    assert_refused(header('{"dtype":"U8","shape":[9]}'), r"the header's entry of mask:w is \{.*\}; expected dtype")
    for offsets, message in {
        "[0]": r"\[0\]; expected two integers",
        "[0,true]": r"\[0, True\]; expected two integers",
        "[0,9.0]": r"\[0, 9\.0\]; expected two integers",
        "null": r"None; expected two integers",
        "[9,0]": r"\[9, 0\]; expected a range",
        "[-9,0]": r"\[-9, 0\]; expected a range",
    }.items():
        entry = f'{{"dtype":"U8","shape":[9],"data_offsets":{offsets}}}'
        assert_refused(header(entry), rf"the offsets of mask:w are {message}")
    assert_refused(header('{"dtype":"U8","shape":[8],"data_offsets":[1,9]}'), r"this is no valid safetensors file \(")
    assert_refused(
        header('{"dtype":"U8","shape":[9],"data_offsets":[0,1099511627776]}'),
        r"the file is truncated: \d+ of \d+ bytes are missing; fetch it again",
    )
    twice = '{"dtype":"U8","shape":[9],"data_offsets":[0,9]},"mask:w":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}'
    assert_refused(header(twice), r"the safetensors header is no JSON \(key 'mask:w' stands twice\)")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 6}, r"the ticket has format version 6, this release reads versions 1 to 5; update strongticket$"),
        ({"format": 1}, r"the ticket has an unknown key 'binary'; format version 1 has sha256"),
        ({"extra": 1}, r"the ticket has an unknown key 'extra'; format version 2 has sha256"),
        ({"binary": {"gain": None}}, r"binary has no key 'activations'; format version 2 has gain, activations$"),
        ({"binary": {"gain": 3, "activations": {}}}, r"binary\.gain is 3; expected null, layer or channel$"),
        ({"stored_digest": "0" * 64}, r"the stored tensors have another digest than stored_digest says"),
        ({"trained": ["w"]}, r"'w' is named as trained but is not stored"),
        ({"kept": 3}, r"kept is 3, the tensors' own numbers add up to 2"),
    ],
)
def test_an_odd_description_is_refused(changes: dict[str, Any], message: str) -> None:
    assert_refused(forged({**SAID, **changes}, TENSORS), message)


def test_a_file_of_version_2_says_what_is_binary() -> None:
    without = {key: value for key, value in SAID.items() if key != "binary"}
    assert_refused(forged(without, TENSORS), r"the ticket has no key 'binary'; format version 2 has sha256")
    assert from_bytes(forged({**without, "format": 1}, TENSORS)).binary == Binary()


@pytest.mark.parametrize("version", [1, 2])
def test_unknown_metadata_are_refused(version: int) -> None:
    assert_refused(
        forged({**SAID, "format": version}, TENSORS, extra="x"),
        rf"the metadata have unknown keys; format version {version} has 'strongticket' only",
    )


def test_the_digest_stands_in_one_place_only() -> None:
    text = json.dumps(SAID, separators=(",", ":"))
    later = json.dumps({"format": 2, **SAID}, separators=(",", ":"))
    assert later.startswith('{"format":2,"sha256":')
    longer = text.replace(SAID["sha256"], "0" * 65)
    for odd in (later, longer, text.replace('{"sha256"', '{ "sha256"')):
        assert_refused(
            framed(json.dumps({"__metadata__": {"strongticket": odd}})), r"the ticket's SHA-256 does not stand where it"
        )
    other = json.dumps({"__metadata__": {"other": "", "strongticket": text}}, separators=(",", ":"))
    assert_refused(
        framed(other), r"the ticket's SHA-256 does not stand where it should; the file is damaged, fetch it again"
    )


def huge(codec: str, kept: int, shape: list[int], data: bytes) -> bytes:
    said = copy.deepcopy(SAID)
    total = 1
    for size in shape:
        total *= size
    said |= {"kept": kept, "total": total}
    said["tensors"]["w"] |= {"shape": shape, "mask": {"codec": codec, "count": kept, "sha256": "0" * 64}}
    return forged(said, TENSORS | {"mask:w": ("U8", [len(data)], data)})


HARMFUL: dict[str, tuple[Callable[[], bytes], str]] = {
    "header of 2**40 bytes": (lambda: framed("{}", size=2**40), r"the header would be 1099511627776 bytes long"),
    "header of 5 MiB": (
        lambda: framed(" " * (5 << 20) + "{}"),
        r"the header is 5242882 bytes long; a ticket's takes at",
    ),
    "deep header": (
        lambda: framed('{"a":' + "[" * 200_000 + "]" * 200_000 + "}"),
        r"the safetensors header is nested too deep to be a ticket's",
    ),
    "deep description": (
        lambda: framed(json.dumps({"__metadata__": {"strongticket": '{"a":' * 200_000 + "1" + "}" * 200_000}})),
        r"the ticket's description is nested too deep to be a ticket's",
    ),
    "2**40 edges, none kept": (
        lambda: huge("zstd-gaps", 0, [2**20, 2**20], zstd.compress(b"")),
        r"the masks claim 1099511627776 edges in a file of \d+ bytes; expected at most \d+, that is 2\*\*26 and 1024",
    ),
    "2**40 edges, all kept": (
        lambda: huge("zstd-gaps", 2**40, [2**40], zstd.compress(b"")),
        r"the masks claim 1099511627776 edges in a file of \d+ bytes",
    ),
    "2**27 edges": (
        lambda: huge("zstd-gaps", 0, [2**27], zstd.compress(b"")),
        r"the masks claim 134217728 edges in a file of \d+ bytes",
    ),
    "2**26 edges": (
        lambda: huge("zstd-gaps", 0, [2**26], zstd.compress(b"")),
        r"the mask of w decodes to bits of another SHA-256",
    ),
    "2**26 edges as bits": (
        lambda: huge("zstd-bits", 2**26, [2**26], zstd.compress(bytes(2**23))),
        r"the mask of w keeps 0 edges, its count says 67108864",
    ),
    "200 MB of zeros for 6 edges": (
        lambda: huge("zstd-bits", 2, [2, 3], zstd.compress(bytes(200_000_000))),
        r"the mask of w keeps 0 edges, its count says 2",
    ),
    "window of 128 MiB": (
        lambda: huge("zstd-gaps", 2, [2, 3], bytes.fromhex("28b52ffd0088010000")),
        r"the mask of w is no zstd data",
    ),
}


@pytest.mark.parametrize(("make", "message"), HARMFUL.values(), ids=HARMFUL)
def test_a_file_made_to_harm_is_refused_within_little_memory(make: Callable[[], bytes], message: str) -> None:
    data = make()
    tracemalloc.start()
    try:
        assert_refused(data, message)
        assert tracemalloc.get_traced_memory()[1] < 200_000_000
    finally:
        tracemalloc.stop()


def test_all_masks_of_a_large_ticket_are_checked_before_one_takes_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    said, tensors = copy.deepcopy(SAID), dict(TENSORS)
    edges = 2**24
    sha256 = {"v": hashlib.sha256(bytes(edges // 8)).hexdigest(), "w": "0" * 64}
    for name in ("v", "w"):
        mask = {"codec": "zstd-gaps", "count": 0, "sha256": sha256[name]}
        said["tensors"][name] = {"shape": [edges], "dtype": "float32", "scale": 1, "mask": mask}
        data = zstd.compress(b"")
        tensors[f"mask:{name}"] = ("U8", [len(data)], data)
    said |= {"kept": 0, "total": 2 * edges, "provenance": {"padding": "x" * (2 * edges // 1024)}}
    data = forged({**said, "tensors": {name: said["tensors"][name] for name in ("v", "w")}}, tensors)
    for free, takes in ((2**26, edges), (1000, 0)):
        monkeypatch.setattr(storage, "_FREE_EDGES", free)
        assert_refused_in_memory(data, r"the mask of w decodes to bits of another SHA-256", takes)


def test_json_of_empty_objects_takes_memory_in_proportion_to_a_header_within_bounds() -> None:
    data = framed('{"__metadata__":{"strongticket":"[' + "{}," * 70_000 + '0]"}}')
    tracemalloc.start()
    try:
        assert_refused(data, r"the ticket's description is \[\{\}, .*\]; expected a JSON object")
        assert tracemalloc.get_traced_memory()[1] < 200_000_000 * len(data) / (4 << 20)
    finally:
        tracemalloc.stop()


def test_a_large_file_that_is_no_ticket_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.write((2).to_bytes(8, "little") + b"{}")
        file.truncate(1 << 40)  # takes no space: the file is one hole
    with pytest.raises(TicketError, match=r"^.*/large: this is a safetensors file but no ticket"):
        load(path)
    with path.open("r+b") as file:
        file.write(to_bytes(small_ticket()))
    with pytest.raises(TicketError, match=r"^.*/large: the file has \d+ bytes behind its end"):
        load(path)


@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_end_in_a_ticket_error(data: bytes) -> None:
    with pytest.raises(TicketError):
        from_bytes(data)


# Saving


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masks": {}}, r"this ticket is inconsistent: the mask of w has shape None, the masked tensor \(2, 3\)"),
        (
            {"masks": {"w": torch.ones(3, 2, dtype=torch.bool)}},
            r"this ticket is inconsistent: the mask of w has shape \(3, 2\), the masked tensor \(2, 3\)",
        ),
        ({"tensors": {}}, r"this ticket is inconsistent: the mask of w has shape \(2, 3\), the masked tensor None"),
        ({"tensors": {}, "masks": {}}, r"this ticket cannot be saved: the ticket has no mask"),
        ({"masks": {"w": torch.ones(2, 3)}}, r"the mask of w is float32; expected bool"),
        (
            {"tensors": {"w": DrawnTensor((0,), "float32", 1.0)}, "masks": {"w": torch.ones(0, dtype=torch.bool)}},
            r"this ticket is inconsistent: w has shape \(0,\), there is nothing to mask",
        ),
        ({"seed": -1}, r"this ticket cannot be saved: seed is -1; expected an integer from 0 to"),
        ({"weights_digest": "none"}, r"this ticket cannot be saved: weights_digest is 'none'; expected a SHA-256"),
        (
            {"tensors": {"w": DrawnTensor((2, 3), "float32", float("nan"))}},
            r"this ticket cannot be saved: tensors\.w\.scale is nan; expected a finite number",
        ),
        (
            {"tensors": {"w": DrawnTensor((2, 3), "int8", 1.0)}},
            r"this ticket cannot be saved: tensors\.w\.dtype is 'int8'; expected a floating type",
        ),
        ({"binary": Binary("tensor")}, r"this ticket cannot be saved: binary\.gain is 'tensor'; expected null, layer"),  # type: ignore[arg-type]
        (
            {"binary": Binary("layer", {"act": "step"})},
            r"this ticket cannot be saved: binary\.activations\.act is 'step'; this release reads bi-real",
        ),
        (
            {"binary": Binary(None, {"": "bi-real"})},
            r"this ticket cannot be saved: '' cannot be the name of a module; expected one such as layer1\.relu$",
        ),
        ({"trained": ("mean", "bn")}, r"this ticket cannot be saved: 'bn' is named as trained but is not stored"),
        ({"stored": {"w": torch.ones(1)}}, r"this ticket cannot be saved: w is both stored and drawn from the seed"),
        ({"stored": {"/w": torch.ones(1)}}, r"this ticket cannot be saved: '/w' cannot be the name of a tensor"),
        (
            {"stored": {"s": torch.ones(2).to_sparse()}},
            r"this ticket cannot be saved: s is no dense tensor with values",
        ),
        (
            {"stored": {"s": torch.ones(2, device="meta")}},
            r"this ticket cannot be saved: s is no dense tensor with values",
        ),
        (
            {"stored": {"s": torch.ones(2, dtype=torch.complex128)}},
            r"this ticket cannot be saved: s is torch\.complex128, which a ticket file cannot hold",
        ),
        (
            {"provenance": {"at": Path("x")}},
            r"this ticket cannot be saved: provenance\.at is of type \w+Path; expected",
        ),
        (
            {"provenance": {"log": "x" * (4 << 20)}},
            r"this ticket cannot be saved: the header is \d+ bytes long; a ticket's takes at most 4194304",
        ),
    ],
)
def test_a_ticket_that_could_not_be_loaded_is_not_saved(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TicketError, match=rf"^{message}") as caught:
        save(small_ticket(**changes), tmp_path / "t")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_masks_too_sparse_to_be_told_from_a_bomb_are_not_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_FREE_EDGES", 1000)
    shape = (2**11, 2**12)
    tensors = {"w": DrawnTensor(shape, "float32", 0.5)}
    with pytest.raises(TicketError, match=r"^this ticket cannot be saved: the masks claim 8388608 edges in a file of"):
        to_bytes(small_ticket(tensors=tensors, masks={"w": torch.zeros(shape, dtype=torch.bool)}))
    few = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.001
    to_bytes(small_ticket(tensors=tensors, masks={"w": few}))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_after_a_failure_the_old_file_stands_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "ticket.safetensors"
    save(small_ticket(), path)

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    reason = os.strerror(number).lower()
    with pytest.raises(TicketError, match=rf"^the ticket cannot be written to {literal(path)}: {reason}$"):
        save(golden_ticket(), path)
    assert list(tmp_path.iterdir()) == [path]
    assert equal(load(path), small_ticket())


def test_a_save_replaces_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "t"
    save(small_ticket(), path)
    save(golden_ticket(), path)
    assert list(tmp_path.iterdir()) == [path]
    assert equal(load(path), golden_ticket())


def test_a_missing_folder_is_named_and_not_made(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "t"
    with pytest.raises(
        TicketError,
        match=rf"^the ticket cannot be written to {literal(path)}: there is no folder {literal(path.parent)}$",
    ):
        save(small_ticket(), path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    with pytest.raises(TicketError, match=rf"^the ticket cannot be written to {literal(tmp_path)}/t: is a directory$"):
        save(small_ticket(), tmp_path / "t")
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "t").touch()
    with pytest.raises(
        TicketError, match=rf"^the ticket cannot be written to {literal(tmp_path)}/t/u: not a directory$"
    ):
        save(small_ticket(), tmp_path / "t" / "u")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(
        TicketError, match=rf"^the ticket cannot be written to {literal(tmp_path)}/t: permission denied$"
    ):
        save(small_ticket(), tmp_path / "t")


if __name__ == "__main__":
    for path in (GOLDEN_4, GOLDEN_5_COATS, GOLDEN_5_DRAWS):
        save(GOLDEN[path], path)
