"""Masks with levels in tickets and their files: format version 5, by hand, by an independent formula and spoiled."""

from __future__ import annotations

import copy
import hashlib
import math
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ticket_files import (
    FORMAT_PAGE,
    GOLDEN_4,
    assert_refused,
    assert_refused_in_memory,
    equal,
    forged,
    golden_coats_ticket,
    golden_draws_ticket,
    small_ticket,
    taken_apart,
)
from torch import Tensor

from strongticket.errors import TicketError
from strongticket.ticket import (
    Ticket,
    bound_bits,
    coder_of,
    description,
    from_bytes,
    load,
    mask_bits,
    save,
    storage,
    to_bytes,
)
from strongticket.ticket.levels import join, key_of, split
from strongticket.weights import DrawnTensor, digest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

READER: dict[str, Any] = {}
(CODE,) = re.findall(r"^```python\n(.*?)^```$", FORMAT_PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
exec(compile(CODE, "format.md", "exec"), READER)


def levels_of(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.uint8)


def ticket_of(masks: dict[str, Tensor], **changes: Any) -> Ticket:
    tensors = {name: DrawnTensor(tuple(mask.shape), "float32", 0.5) for name, mask in masks.items()}
    return small_ticket(**{"tensors": tensors, "masks": masks, "levels": "coats", **changes})


@st.composite
def masks_with_levels(draw: st.DrawFn) -> Tensor:
    shape = draw(st.lists(st.integers(1, 6), max_size=4))
    among = draw(st.lists(st.integers(0, 255), min_size=1, max_size=6))
    seed = draw(st.integers(0, 2**32))
    values = np.random.default_rng(seed).choice(np.array(among, np.uint8), math.prod(shape))
    return torch.from_numpy(values).reshape(shape)


# Levels as masks


def test_levels_are_masks_over_what_the_mask_below_keeps() -> None:
    kept, above = split({"w": levels_of(1, 0, 0, 0, 2, 1, 0, 4), "even": levels_of(0, 1, 1), "none": levels_of(0, 0)})
    assert {name: mask.tolist() for name, mask in kept.items()} == {
        "w": [True, False, False, False, True, True, False, True],
        "even": [False, True, True],
        "none": [False, False],
    }
    assert {key: mask.tolist() for key, mask in above.items()} == {
        "level 2 of w": [False, True, False, True],
        "level 3 of w": [False, True],
        "level 4 of w": [True],
    }
    assert all(mask.dtype is torch.bool for mask in (*kept.values(), *above.values()))


def test_no_two_levels_have_one_key() -> None:
    assert len({key_of(name, level) for name in ("w", "2 of w", "level 2 of w", "2") for level in (2, 3, 22)}) == 12


@given(masks=st.lists(masks_with_levels(), max_size=3))
def test_masks_come_back_from_their_levels(masks: list[Tensor]) -> None:
    named = {str(number): mask for number, mask in enumerate(masks)}
    again = join(*split(named))
    assert list(again) == list(named)
    assert digest(again) == digest(named)


def test_every_level_comes_back() -> None:
    mask = torch.arange(256).to(torch.uint8)
    kept, above = split({"w": mask})
    assert (len(above), [one.numel() for one in above.values()]) == (254, list(range(255, 1, -1)))
    assert join(kept, above)["w"].tolist() == mask.tolist()


def test_memory_format_leaves_no_trace() -> None:
    mask = (torch.arange(96) % 5).to(torch.uint8).reshape(2, 3, 4, 4)
    strided = mask.to(memory_format=torch.channels_last)
    assert join(*split({"w": strided}))["w"].tolist() == mask.tolist()
    assert to_bytes(ticket_of({"w": strided})) == to_bytes(ticket_of({"w": mask}))


# What they take


def entropy_of_shares(mask: Tensor) -> float:
    """n·H of how often each level stands in a mask, by NumPy."""
    _, counts = np.unique(mask.numpy(), return_counts=True)
    shares = counts / counts.sum()
    return float(-(counts * np.log2(shares)).sum())


@given(mask=masks_with_levels())
def test_the_bound_is_the_entropy_of_the_shares_of_levels(mask: Tensor) -> None:
    assert bound_bits(mask) == pytest.approx(entropy_of_shares(mask), rel=1e-12, abs=1e-9)


def test_the_bound_by_hand() -> None:
    assert bound_bits(levels_of(0, 1, 2, 3)) == pytest.approx(8)
    assert bound_bits(levels_of(0, 0, 7, 7)) == pytest.approx(4)
    assert bound_bits(levels_of(9, 9, 9)) == 0
    assert bound_bits(torch.tensor([True, False, True, False])) == pytest.approx(4)


@pytest.mark.parametrize(
    "shares",
    [[0.9, *[0.1 / 3] * 3], [0.5, 0.3, 0.1, 0.06, 0.03, 0.01], [0.99, 0.005, 0.004, 0.001]],
    ids=["coats", "draws", "few"],
)
def test_random_levels_of_a_million_edges_take_little_more_than_the_bound(shares: list[float]) -> None:
    values = np.random.default_rng(1).choice(len(shares), 10**6, p=shares).astype(np.uint8)
    ticket = ticket_of({"w": torch.from_numpy(values).reshape(1000, 1000)})
    bound = entropy_of_shares(ticket.masks["w"])
    for coder, most in (("zstd", 1.02), ("ans", 1.005)):
        bits = mask_bits(ticket, coder=coder)
        assert 0.999 * bound < bits <= most * bound
        _, tensors = taken_apart(to_bytes(ticket, coder=coder))
        assert bits == 8 * sum(len(data) for key, (_, _, data) in tensors.items() if key != "stored")


# The file


def test_the_file_is_that_of_the_page() -> None:
    masks = {
        "none": levels_of(0),
        "w": levels_of(1, 0, 0, 0, 2, 1, 0, 4),
        "even": levels_of(1, 1),
        "v": levels_of(0, 2),
    }
    ticket = ticket_of(masks, levels="draws")
    said, tensors = taken_apart(to_bytes(ticket))
    plain, _ = taken_apart(to_bytes(replace(ticket, levels=None, masks={n: m > 0 for n, m in masks.items()})))
    above = {
        "w": [{"codec": "bits", "count": 2}, {"codec": "bits", "count": 1}, {"codec": "bits", "count": 1}],
        "v": [{"codec": "bits", "count": 1}],
    }
    bits = bytes.fromhex("0a 02 01 01")
    assert said.pop("above") == above
    assert list(above) == ["w", "v"]
    assert said.pop("levels_digest") == hashlib.sha256(bits).hexdigest()
    assert said.pop("levels") == "draws"
    assert {**said, "sha256": "", "format": 4} == {**plain, "sha256": ""}
    assert said["format"] == 5
    assert tensors["levels.bits"] == ("U8", [4], bits)
    assert tensors.keys() == {"masks.bits", "levels.bits", "stored"}
    assert tensors["masks.bits"] == ("U8", [4], bytes.fromhex("00 b1 03 02"))


def test_the_golden_files_read_by_hand() -> None:
    said, tensors = taken_apart((GOLDEN_4.parent / "ticket-v5-coats.safetensors").read_bytes())
    body = [b"\xee" * 128, b"\xb6\x6d\xdb" * 32, b"\xaa" * 64]  # 0111, then 011, then 01, over and over
    few = sum(1 << edge for edge in (0, 255, 256, 999)).to_bytes(125, "little")
    assert said["above"] == {
        "body.weight": [{"codec": "zstd-bits", "count": count} for count in (768, 512, 256)],
        "tail.weight": [{"codec": "zstd-gaps", "count": 4}, *[{"codec": "bits", "count": 1}] * 3],
    }
    assert said["levels_digest"] == hashlib.sha256(b"".join(body) + few + b"\x02\x01\x01").hexdigest()
    assert (said["levels"], said["binary"]["gain"], said["kept"], said["total"]) == ("coats", "layer", 2028, 3056)
    assert tensors["levels.bits"] == ("U8", [3], b"\x02\x01\x01")
    assert zstd.decompress(tensors["levels.zstd"][2]) == b"".join([*body, bytes([0, 254, 0, 255, 255, 232])])
    assert zstd.decompress(tensors["masks.zstd"][2]) == b"\xca" * 256

    said, tensors = taken_apart((GOLDEN_4.parent / "ticket-v5-draws.safetensors").read_bytes())
    assert (said["levels"], said["binary"]["gain"], list(said["above"])) == (
        "draws",
        None,
        ["embed.weight", "body.conv.weight"],
    )
    assert [entry["count"] for entry in said["above"]["body.conv.weight"]] == [68, 54, 40, 26, 13]
    assert [entry["count"] for entry in said["above"]["embed.weight"]] == [18, 18]
    assert hashlib.sha256(tensors["levels.bits"][2]).hexdigest() == said["levels_digest"]
    assert tensors["levels.bits"][2][:8] == b"\xaa\xaa\xaa\xaa\x0a\xff\xff\x03"


def random_ticket(levels: str, seed: int = 0, edges: int = 5000) -> Ticket:
    random = np.random.default_rng(seed)
    masks = {
        "a": random.choice(8, edges, p=[0.6, 0.2, 0.08, 0.05, 0.03, 0.02, 0.01, 0.01]),
        "b": random.choice(3, edges, p=[0.02, 0.9, 0.08]),
        "c": np.arange(256),
        "d": random.choice(2, 77),
        "e": np.zeros(9),
    }
    return ticket_of({name: torch.from_numpy(mask.astype(np.uint8)) for name, mask in masks.items()}, levels=levels)


@pytest.mark.parametrize("coder", ["zstd", "ans"])
@settings(max_examples=25)
@given(masks=st.lists(masks_with_levels(), min_size=1, max_size=4), levels=st.sampled_from(["coats", "draws"]))
def test_a_ticket_with_levels_comes_back_as_it_was(coder: str, masks: list[Tensor], levels: str) -> None:
    ticket = ticket_of({str(number): mask for number, mask in enumerate(masks)}, levels=levels)
    again = from_bytes(to_bytes(ticket, coder=coder))
    assert equal(again, ticket)
    assert (again.levels, again.kept) == (levels, sum(int((mask > 0).sum()) for mask in masks))


@pytest.mark.parametrize("coder", ["zstd", "ans"])
@pytest.mark.parametrize(
    "ticket", [golden_coats_ticket(), golden_draws_ticket(), random_ticket("coats"), random_ticket("draws", edges=70)]
)
def test_a_ticket_with_levels_comes_back_from_a_file_by_the_page_too(
    tmp_path: Path, ticket: Ticket, coder: str
) -> None:
    save(ticket, tmp_path / "t", coder=coder)
    assert equal(load(tmp_path / "t"), ticket)
    _, tensors = taken_apart((tmp_path / "t").read_bytes())
    assert coder_of(tmp_path / "t") == ("ans" if {"levels.ans", "masks.ans"} & tensors.keys() else "zstd")
    description, masks = READER["read_ticket"](tmp_path / "t")
    assert description["levels"] == ticket.levels
    assert digest({name: torch.from_numpy(mask) for name, mask in masks.items()}) == digest(ticket.masks)


def test_a_coder_may_be_in_levels_alone(tmp_path: Path) -> None:
    flat = torch.ones(5000, dtype=torch.uint8)
    flat[torch.from_numpy(np.random.default_rng(0).random(5000) < 0.2)] = 2
    save(ticket_of({"w": flat}), tmp_path / "t", coder="ans")
    assert taken_apart((tmp_path / "t").read_bytes())[1].keys() == {"masks.zstd", "levels.ans", "stored"}
    assert coder_of(tmp_path / "t") == "ans"
    assert from_bytes((tmp_path / "t").read_bytes()).masks["w"].tolist() == flat.tolist()


def test_what_a_level_says_is_part_of_a_ticket() -> None:
    ticket = random_ticket("coats")
    again = from_bytes(to_bytes(replace(ticket, levels="draws")))
    assert not equal(again, ticket)
    assert equal(replace(again, levels="coats"), ticket)


def test_levels_of_one_are_no_reason_to_leave_them_out() -> None:
    ticket = ticket_of({"w": levels_of(0, 1, 1)})
    said, tensors = taken_apart(to_bytes(ticket))
    assert (said["format"], said["above"]) == (5, {})
    assert said["levels_digest"] == hashlib.sha256(b"").hexdigest()
    assert tensors.keys() == {"masks.bits", "stored"}
    assert equal(from_bytes(to_bytes(ticket)), ticket)


# Files that are not as they should be, with the digest of the file that they ought to have

SAID, TENSORS = taken_apart(to_bytes(ticket_of({"w": levels_of(1, 0, 0, 0, 2, 1, 0, 4), "v": levels_of(2, 1, 2)})))
BITS = b"\x0a\x02\x01\x05"
EMPTY = hashlib.sha256(b"").hexdigest()


def mask_of(count: object, codec: object = "bits") -> dict[str, object]:
    return {"codec": codec, "count": count}


GOOD = (mask_of(2), mask_of(1), mask_of(1))


def above(*w: object, v: object = None) -> dict[str, Any]:
    return {"above": {"w": list(w or GOOD), "v": [mask_of(2)] if v is None else v}}


ODD: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "levels of another name": ({"levels": "layers"}, {}, r"levels is 'layers'; expected 'coats' or 'draws'$"),
    "levels of null": ({"levels": None}, {}, r"levels is None; expected 'coats' or 'draws'$"),
    "levels of a list": ({"levels": ["coats"]}, {}, r"levels is \['coats'\]; expected 'coats' or 'draws'$"),
    "another levels digest": (
        {"levels_digest": "0" * 64},
        {},
        r"the code of all levels decodes to bits of another SHA-256 than the file says; the file is damaged$",
    ),
    "a levels digest of null": ({"levels_digest": None}, {}, r"levels_digest is None; expected a SHA-256"),
    "above of a list": ({"above": []}, {}, r"above is \[\]; expected a JSON object$"),
    "above of no tensor": ({"above": {"x": [*GOOD]}}, {}, r"above\.'x' is of no tensor with a mask$"),
    "above of a line": ({"above": {"a\nb": [*GOOD]}}, {}, r"above\.'a\\nb' is of no tensor with a mask$"),
    "above of a long name": ({"above": {"x" * 9999: []}}, {}, r"above\.'x+\.\.\.x+' is of no tensor with a mask$"),
    "above in another order": (
        {"above": {"v": [mask_of(2)], "w": [*GOOD]}},
        {},
        r"above has tensors in another order than their masks; expected the same$",
    ),
    "an empty list": (above(v=[]), {}, r"above\.v is \[\]; expected a list of 1 to 254 masks$"),
    "no list": (above(v=mask_of(2)), {}, r"above\.v is \{.*\}; expected a list of 1 to 254 masks$"),
    "255 entries": (above(v=[mask_of(2)] * 255), {}, r"above\.v is \[.*\]; expected a list of 1 to 254 masks$"),
    "254 entries": (above(v=[mask_of(2)] * 254), {}, r"the code of all levels ends before the last edge"),
    "an entry of null": (above(v=[None]), {}, r"above\.v\.2 is None; expected a JSON object$"),
    "an entry without codec": (above(v=[{"count": 2}]), {}, r"above\.v\.2 has no key 'codec'; format version 5 has"),
    "an entry with more": (
        above(v=[{**mask_of(2), "sha256": EMPTY}]),
        {},
        r"above\.v\.2 has an unknown key 'sha256'; format version 5 has codec, count$",
    ),
    "a count of 0": (above(v=[mask_of(0)]), {}, r"above\.v\.2 keeps no edge; expected no entry$"),
    "a later count of 0": (above(mask_of(2), mask_of(0)), {}, r"above\.w\.3 keeps no edge; expected no entry$"),
    "a count above the kept edges": (
        above(v=[mask_of(4)]),
        {},
        r"above\.v\.2\.count is 4; expected an integer from 0 to 3$",
    ),
    "a count above the one below": (
        above(mask_of(2), mask_of(3)),
        {},
        r"above\.w\.3\.count is 3; expected an integer from 0 to 2$",
    ),
    "a huge count": (above(mask_of(2**64)), {}, r"above\.w\.2\.count is 18446744073709551616; expected an integer"),
    "a count of a float": (above(mask_of(2.0)), {}, r"above\.w\.2\.count is 2\.0; expected an integer from 0 to 4$"),
    "an unknown codec": (
        above(mask_of(2, "gzip")),
        {},
        r"above\.w\.2\.codec is 'gzip'; format version 5 has bits, zstd-bits, zstd-gaps, ans$",
    ),
    "a codec of a list": (above(mask_of(2, ["bits"])), {}, r"above\.w\.2\.codec is \['bits'\]; format version 5 has"),
    "fewer levels than bits": (above(*GOOD[:2]), {}, r"the mask of level 2 of v keeps 1 edges, its count says 2; the"),
    "a codec without its stream": (
        above(mask_of(2, "ans"), *GOOD[1:]),
        {},
        r"the tensor 'levels\.ans' is described but not in the file$",
    ),
    "no stream": ({}, {"levels.bits": None}, r"the tensor 'levels\.bits' is described but not in the file$"),
    "a stream too many": (
        {},
        {"levels.zstd": zstd.compress(b"")},
        r"the tensor 'levels\.zstd' is in the file but not described$",
    ),
    "a stream of no levels": (
        {"above": {}, "levels_digest": EMPTY},
        {},
        r"the tensor 'levels\.bits' is in the file but not described$",
    ),
    "a stream of another name": ({}, {"levels": b"\0"}, r"the file has a tensor 'levels'; a ticket has table, masks\."),
    "no levels, another digest": (
        {"above": {}},
        {"levels.bits": None},
        r"the code of all levels decodes to bits of another SHA-256",
    ),
    "bits of another count": ({}, {"levels.bits": b"\x0e\x02\x01\x05"}, r"the mask of level 2 of w keeps 3 edges, its"),
    "bits behind the last edge": (
        {},
        {"levels.bits": b"\x0a\x06\x01\x05"},
        r"the mask of level 3 of w has bits behind",
    ),
    "other bits": ({}, {"levels.bits": b"\x0a\x02\x01\x06"}, r"the code of all levels decodes to bits of another SHA"),
    "a stream too short": ({}, {"levels.bits": BITS[:-1]}, r"the code of all levels ends before the last edge"),
    "a stream too long": (
        {},
        {"levels.bits": BITS + b"\0"},
        r"the code of all levels has 1 bytes behind the last edge",
    ),
    "no edge for levels": (
        {
            "tensors": {**SAID["tensors"], "v": {**SAID["tensors"]["v"], "mask": mask_of(0)}},
            "kept": 4,
        },
        {},
        r"above\.v is of a mask that keeps no edge; expected no list$",
    ),
    "levels of a tensor without a mask": (
        {
            "tensors": {**SAID["tensors"], "v": {**SAID["tensors"]["v"], "mask": None}},
            "kept": 4,
            "total": 8,
        },
        {},
        r"above\.'v' is of no tensor with a mask$",
    ),
    "levels in version 4": (
        {"format": 4},
        {},
        r"the file has a tensor 'levels\.bits'; a ticket has table, masks\.bits,",
    ),
    "keys of levels in version 4": (
        {"format": 4},
        {"levels.bits": None},
        r"the ticket has an unknown key 'levels'; format version 4 has sha256",
    ),
    "2**48 edges of levels": (
        {
            "tensors": {"w": {**SAID["tensors"]["w"], "shape": [2**26], "mask": mask_of(2**26, "zstd-gaps")}},
            "kept": 2**26,
            "total": 2**26,
            "above": {"w": [mask_of(2**26, "zstd-gaps")] * 254},
        },
        {"masks.bits": None, "levels.bits": None, "masks.zstd": b"", "levels.zstd": b""},
        r"the masks claim 17112760320 edges in a file of \d+ bytes; expected at most \d+, that is 2\*\*26 and 1024",
    ),
    "a bomb for few edges": (
        above(*GOOD, v=[mask_of(2, "zstd-bits")]),
        {"levels.bits": BITS[:-1], "levels.zstd": zstd.compress(bytes(50_000_000))},
        r"the mask of level 2 of v keeps 0 edges, its count says 2",
    ),
}


@pytest.mark.parametrize(("changes", "tensors", "message"), ODD.values(), ids=ODD)
def test_whatever_is_odd_is_refused_by_its_place(
    changes: dict[str, Any], tensors: dict[str, bytes | None], message: str
) -> None:
    held: dict[str, Any] = {key: ("U8", [len(data)], data) for key, data in tensors.items() if data is not None}
    kept = {key: entry for key, entry in TENSORS.items() if key not in tensors}
    assert_refused(forged({**SAID, **changes}, kept | held), message)


def test_what_is_spoiled_here_is_whole_before() -> None:
    assert TENSORS["levels.bits"] == ("U8", [4], BITS)
    assert from_bytes(forged(SAID, TENSORS)).masks["w"].tolist() == [1, 0, 0, 0, 2, 1, 0, 4]


@pytest.mark.parametrize("key", ["levels", "levels_digest", "above", "masks_digest", "binary"])
def test_every_key_has_to_be_there(key: str) -> None:
    said = {name: value for name, value in SAID.items() if name != key}
    where = "table" if key in ("above", "binary") else "ticket"
    assert_refused(forged(said, TENSORS), rf"the {where} has no key '{key}'; format version 5 has ")


@pytest.mark.parametrize("key", ["levels", "levels_digest", "above"])
def test_a_file_of_version_4_has_no_key_of_levels(key: str) -> None:
    said, tensors = taken_apart(to_bytes(small_ticket()))
    where = "table" if key == "above" else "ticket"
    assert_refused(
        forged({**said, key: SAID[key]}, tensors), rf"the {where} has an unknown key '{key}'; format version 4 has "
    )


def test_there_are_not_more_masks_of_levels_than_can_be_read_in_a_moment() -> None:
    tensor = {"shape": [1], "dtype": "float32", "scale": 1, "mask": mask_of(1)}
    digests = {"masks_digest": hashlib.sha256(b"\1" * 4096).hexdigest(), "levels_digest": "0" * 64}
    for more, message in (
        (0, "the code of all levels decodes to bits of another SHA-256"),
        (1, "the ticket has 8193 tensors and masks of levels; expected at most 8192$"),
    ):
        names = [f"t{number}" for number in range(4096)]
        said = {**SAID, **digests, "tensors": dict.fromkeys(names, tensor), "kept": 4096, "total": 4096}
        said["above"] = {name: [mask_of(1)] * (1 + (more and name == "t9")) for name in names}
        streams = {"masks.bits": ("U8", [4096], b"\1" * 4096), "levels.bits": ("U8", [4096], b"\1" * 4096)}
        assert_refused(forged(said, {**TENSORS, **streams}), message)


def test_all_levels_of_a_large_ticket_are_checked_before_a_mask_takes_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    edges, empty = 2**24, zstd.compress(b"")
    tensor = {"shape": [edges], "dtype": "float32", "scale": 1, "mask": mask_of(edges, "zstd-gaps")}
    said = {
        **copy.deepcopy(SAID),
        "masks_digest": hashlib.sha256(b"\xff" * (edges // 8)).hexdigest(),
        "tensors": {"w": tensor},
        "kept": edges,
        "total": edges,
        "above": {"w": [mask_of(edges, "zstd-gaps")]},
        "levels_digest": "0" * 64,
        "provenance": {"padding": "x" * (2 * edges // 1024)},
    }
    streams = {key: ("U8", [len(empty)], empty) for key in ("masks.zstd", "levels.zstd")}
    data = forged(said, {**streams, "stored": TENSORS["stored"]})
    for free, takes in ((2**26, 2 * edges), (1000, 0)):
        monkeypatch.setattr(storage, "_FREE_EDGES", free)
        assert_refused_in_memory(data, r"the mask of level 2 of w decodes to bits of another SHA-256", takes)


# Saving


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ticket_of({"w": levels_of(1, 0) > 0}),
            r"the mask of w is bool; expected uint8, levels being 'coats'$",
        ),
        (
            lambda: ticket_of({"w": levels_of(1, 2)}, levels=None),
            r"the mask of w is uint8; expected bool, levels being none$",
        ),
        (
            lambda: ticket_of({"w": levels_of(1, 2).int()}, levels="draws"),
            r"the mask of w is int32; expected uint8, levels being 'draws'$",
        ),
        (
            lambda: ticket_of({"w": levels_of(1, 2)}, levels="layers"),
            r"this ticket cannot be saved: levels is 'layers'; expected 'coats' or 'draws'$",
        ),
    ],
)
def test_a_ticket_that_could_not_be_loaded_is_not_saved(
    tmp_path: Path, make: Callable[[], Ticket], message: str
) -> None:
    with pytest.raises(TicketError, match=rf"^{message}"):
        save(make(), tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_more_levels_than_a_file_may_have_are_not_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = {"w": levels_of(0, 3), "v": levels_of(4, 1)}
    monkeypatch.setattr(description, "_MOST_TENSORS", 7)
    to_bytes(ticket_of(masks))
    monkeypatch.setattr(description, "_MOST_TENSORS", 6)
    message = r"^this ticket cannot be saved: the ticket has 7 tensors and masks of levels; expected at most 6$"
    with pytest.raises(TicketError, match=message):
        to_bytes(ticket_of(masks))
