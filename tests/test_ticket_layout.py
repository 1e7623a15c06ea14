"""strongticket.ticket.layout: where masks and stored tensors stand in a file, since version 4 and before it."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ticket_files import TABLE, apart, assert_refused, equal, forged, framed, golden_ticket, sealed, small_ticket
from ticket_files import taken_apart as taken

from strongticket import attach, extract
from strongticket.models import build
from strongticket.ticket import entropy_bits, from_bytes, mask_bits, to_bytes

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Tensors = dict[str, tuple[str, list[int], bytes]]
SAID, TENSORS = taken(to_bytes(small_ticket()))
MEAN = TENSORS["stored"][2]


def without(said: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in said.items() if key not in keys}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"masks.bits": None}, r"the tensor 'masks\.bits' is described but not in the file"),
        ({"stored": None}, r"the tensor 'stored' is described but not in the file"),
        ({"masks.zstd": ("U8", [1], b"\0")}, r"the tensor 'masks\.zstd' is in the file but not described"),
        ({"masks.ans": ("U8", [0], b"")}, r"the tensor 'masks\.ans' is in the file but not described"),
        (
            {"masks": ("U8", [1], b"\0")},
            r"the file has a tensor 'masks'; a ticket has table, masks\.bits, masks\.zstd, ",
        ),
        ({"mask:w": ("U8", [1], b"\x11")}, r"the file has a tensor 'mask:w'; a ticket has table, masks\.bits"),
        ({"masks.bits": ("I8", [1], b"\x11")}, r"masks\.bits has 'I8' \[1\]; expected U8 in one dimension of 1$"),
        ({"masks.bits": ("U8", [1, 1], b"\x11")}, r"masks\.bits has 'U8' \[1, 1\]; expected U8 in one dimension of 1$"),
        ({"masks.bits": ("U8", [2], b"\x11")}, r"masks\.bits has 'U8' \[2\]; expected U8 in one dimension of 1$"),
        ({"masks.bits": (["U8"], [1], b"\x11")}, r"masks\.bits has \['U8'\] \[1\]; expected U8"),
        (
            {"masks.bits": ("U8", [2**62], b"\x11")},
            r"the shape of masks\.bits is 4611686018427387904; expec",
        ),
        ({"masks.bits": ("U8", [1], b"\x51")}, r"the mask of w has bits behind its last edge"),
        ({"masks.bits": ("U8", [1], b"\x21")}, r"the mask of w decodes to bits of another SHA-256"),
        ({"masks.bits": ("U8", [1], b"\x31")}, r"the mask of w keeps 3 edges, its count says 2"),
        ({"masks.bits": ("U8", [2], b"\x11\0")}, r"the mask of w has 1 bytes behind the last edge"),
        ({"masks.bits": ("U8", [0], b"")}, r"the mask of w ends before the last edge"),
        ({"stored": ("U8", [7], MEAN[:7])}, r"the stored tensors take 8 bytes, the file has 7$"),
        ({"stored": ("U8", [9], MEAN + b"\0")}, r"the stored tensors take 8 bytes, the file has 9$"),
        ({"stored": ("F32", [2], MEAN)}, r"stored has 'F32' \[2\]; expected U8 in one dimension of 8$"),
        ({"stored": ("U8", [8], bytes(8))}, r"the stored tensors have another digest than stored_digest says"),
    ],
)
def test_odd_tensors_are_refused(tensors: dict[str, Any], message: str) -> None:
    changed = {key: value for key, value in {**TENSORS, **tensors}.items() if value is not None}
    assert_refused(forged(SAID, changed), message)


STORED = {"mean": {"dtype": "float32", "shape": [2]}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 3}, r"the file has a tensor 'masks\.bits'; a ticket has mask:NAME and stored:NAME only"),
        ({"format": 5}, r"the ticket has no key 'levels'; format version 5 has sha256"),
        ({"format": 6}, r"the ticket has format version 6, this release reads versions 1 to 5; update strongticket$"),
        ({"extra": 1}, r"the ticket has an unknown key 'extra'; format version 4 has sha256"),
        ({"stored": {}}, r"the tensor 'stored' is in the file but not described"),
        (
            {"stored": {"mean": {"dtype": "float32", "shape": [3]}}},
            r"the stored tensors take 12 bytes, the file has",
        ),
        (
            {"stored": {"mean": {"dtype": "int32", "shape": [2]}}},
            r"the stored tensors have another digest than",
        ),
        ({"stored": {"mean": {"dtype": "float32", "shape": [1, 2]}}}, r"the stored tensors have another digest than"),
        ({"stored": {"mean": {"dtype": "bool", "shape": [8]}}}, r"stored:mean has bytes over 1 for booleans"),
        (
            {"stored": {"mean": {"dtype": "F32", "shape": [2]}}},
            r"stored\.mean\.dtype is 'F32'; expected a type",
        ),
        ({"stored": {"mean": {"dtype": "int8", "shape": [2**48]}}}, r"the stored tensors take 281474976710656 bytes, "),
        ({"stored": {"w": STORED["mean"]}}, r"w is both stored and drawn from the seed"),
        ({"stored": {"a/../b": STORED["mean"]}}, r"'a/\.\./b' cannot be the name of a tensor"),
        ({"trained": ["w"]}, r"'w' is named as trained but is not stored"),
        ({"masks_digest": "0" * 64}, r"the mask of w decodes to bits of another SHA-256"),
        ({"stored_digest": "0" * 64}, r"the stored tensors have another digest than stored_digest says"),
        ({"kept": 3}, r"kept is 3, the tensors' own numbers add up to 2"),
    ],
)
def test_an_odd_description_is_refused(changes: dict[str, Any], message: str) -> None:
    assert_refused(forged({**SAID, **changes}, TENSORS), message)


@pytest.mark.parametrize("key", sorted({*SAID} - {"sha256", "format"}))
def test_every_key_has_to_be_there(key: str) -> None:
    where = "table" if key in TABLE else "ticket"
    assert_refused(forged(without(SAID, key), TENSORS), rf"the {where} has no key '{key}'; format version 4 has ")


def by_hand(table: bytes | None, *, entries: str = "", text: str = "", body: bytes = b"") -> bytes:
    """A sealed file of the small ticket, with these bytes for a table."""
    said = {"sha256": "0" * 64, **without(SAID, "sha256", *TABLE)}
    description = json.dumps(text or json.dumps(said, separators=(",", ":")))
    size = 0 if table is None else len(table)
    entry = f',"table":{{"dtype":"U8","shape":[{size}],"data_offsets":[0,{size}]}}' if table is not None else ""
    return sealed(framed(f'{{"__metadata__":{{"strongticket":{description}}}{entry}{entries}}}', (table or b"") + body))


TABLE_TEXT = json.dumps({key: SAID[key] for key in TABLE if key in SAID}).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: by_hand(None), r"the file has no tensor 'table', which says what is in it"),
        (lambda: by_hand(b""), r"the table has an unfinished zstd frame"),
        (lambda: by_hand(TABLE_TEXT), r"the table is no zstd data \("),
        (lambda: by_hand(zstd.compress(TABLE_TEXT) + b"\0"), r"the table has 1 bytes behind its zstd frame"),
        (lambda: by_hand(zstd.compress(TABLE_TEXT)[:-9]), r"the table has an unfinished zstd frame"),
        (lambda: by_hand(zstd.compress(b"\xff")), r"the table is no text; the file is damaged"),
        (lambda: by_hand(zstd.compress(b"[]")), r"the table is \[\]; expected a JSON object"),
        (lambda: by_hand(zstd.compress(TABLE_TEXT[:-1])), r"the table is no JSON \("),
        (lambda: by_hand(zstd.compress(b'{"a":1,"a":1}')), r"the table is no JSON \(key 'a' stands twice\)"),
        (lambda: by_hand(zstd.compress(b" " * ((4 << 20) + 1))), r"the table decompresses to more than it may hold"),
        (lambda: by_hand(zstd.compress(b" " * (4 << 20))), r"the table is no JSON \(Expecting value"),
    ],
)
def test_an_odd_table_is_refused(data: Callable[[], bytes], message: str) -> None:
    assert_refused(data(), message)


def test_there_are_not_more_tensors_than_can_be_read_in_a_moment() -> None:
    tensor = {"shape": [1], "dtype": "float32", "scale": 1, "mask": {"codec": "bits", "count": 1}}
    for count, message in (
        (2**13, "the mask of t0 has bits behind its last edge"),
        (2**13 + 1, "the ticket has 8193 tensors; expected at most 8192$"),
    ):
        tensors = {f"t{number}": tensor for number in range(count)}
        assert_refused(forged({**SAID, "tensors": tensors, "kept": count, "total": count}, TENSORS), message)


def test_tensors_fill_the_file_without_gap_or_overlap() -> None:
    table = zstd.compress(TABLE_TEXT)
    end = len(table)

    def entry(key: str, first: int, behind: int) -> str:
        return f',"{key}":{{"dtype":"U8","shape":[{behind - first}],"data_offsets":[{first},{behind}]}}'

    whole = entry("masks.bits", end, end + 1) + entry("stored", end + 1, end + 9)
    assert equal(from_bytes(by_hand(table, entries=whole, body=b"\x11" + MEAN)), small_ticket())
    gap = entry("masks.bits", end, end + 1) + entry("stored", end + 2, end + 10)
    assert_refused(
        by_hand(table, entries=gap, body=b"\x11\0" + MEAN),
        rf"stored begins at byte {end + 2}, the tensor before it ends at {end + 1}$",
    )
    overlap = entry("masks.bits", end, end + 1) + entry("stored", end, end + 8)
    assert_refused(
        by_hand(table, entries=overlap, body=MEAN), r"stored begins at byte \d+, the tensor before it ends at"
    )
    hidden = entry("masks.bits", end + 8, end + 9) + entry("stored", end, end + 8)
    assert equal(from_bytes(by_hand(table, entries=hidden, body=MEAN + b"\x11")), small_ticket())


@pytest.mark.parametrize("version", [1, 2, 3])
def test_versions_before_4_have_no_table(version: int) -> None:
    said, tensors = apart(small_ticket(), version)
    assert equal(from_bytes(forged(said, tensors)), small_ticket())
    for key in ("table", "masks.bits"):
        assert_refused(
            forged(said, {**tensors, key: ("U8", [1], b"\0")}),
            rf"the file has a tensor '{key}'; a ticket has mask:NAME and stored:NAME only",
        )


def test_stored_tensors_may_be_empty_or_absent() -> None:
    for stored in ({}, {"a": torch.empty(0, 3)}, {"a": torch.empty(0), "b": torch.tensor(3.0)}):
        ticket = small_ticket(stored=stored)
        data = to_bytes(ticket)
        assert equal(from_bytes(data), ticket)
        assert ("stored" in taken(data)[1]) == bool(stored)


def test_the_order_of_a_table_is_that_of_its_bytes() -> None:
    said, tensors = copy.deepcopy(taken(to_bytes(golden_ticket())))
    sizes = {"norm.active": 2, "norm.running_mean": 12, "norm.weight": 4, "steps": 8}
    parts, start = {}, 0
    for name, size in sizes.items():
        parts[name] = tensors["stored"][2][start : start + size]
        start += size
    said["stored"] = {name: said["stored"][name] for name in reversed(sizes)}
    tensors["stored"] = ("U8", [start], b"".join(parts[name] for name in said["stored"]))
    assert equal(from_bytes(forged(said, tensors)), golden_ticket())


@pytest.mark.parametrize("density", [0.01, 0.05, 0.2, 0.5])
def test_a_file_takes_two_percent_more_than_entropy_and_what_is_stored_at_most(density: float) -> None:
    model = build("cifar-resnet18", input_shape=(3, 32, 32), classes=10)
    attach(model, density=density)
    ticket = extract(model, model_spec={"name": "cifar-resnet18"}, provenance={"command": "strongticket search"})
    stored = sum(value.numel() * value.element_size() for value in ticket.stored.values())
    entropy = entropy_bits(ticket.kept, ticket.total) / 8
    size = len(to_bytes(ticket))
    assert size - stored <= 1.02 * entropy
    assert size - stored - mask_bits(ticket) / 8 < 2000
