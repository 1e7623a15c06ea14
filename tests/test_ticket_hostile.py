"""Tickets made to harm: whatever stands in a file, it ends in a TicketError in one line, for little memory.

The digest of every file here is the one that it ought to have, so that a reader goes on behind it.
``benchmarks/fuzz_ticket.py`` tries many more of them.
"""

from __future__ import annotations

import copy
import hashlib
import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ticket_files import TABLE, apart, forged, framed, sealed, small_ticket, taken_apart
from torch import Tensor, nn

import strongticket
from strongticket.cli import assembly, inspect, main
from strongticket.errors import TicketError
from strongticket.masks import as_rule, edges
from strongticket.models import build
from strongticket.ticket import ans, from_bytes, to_bytes
from strongticket.weights import digest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Tensors = dict[str, tuple[str, list[int], bytes]]

HOSTILE: list[Any] = [
    *(None, True, 0, 1, -1, 2**26, 2**48, 2**63, 2**64, 10**30, 10**400, 0.5, -0.0, 1e308, 5e-324, 1e30, 1e-30),
    *("", "0", "a" * 2000, "\0", "\n", "\ud800", "../../etc/passwd", "/etc/passwd", "bits", "zstd-bits", "zstd-gaps"),
    *("float64", "int8", "Tensor", "channel", "0" * 64, [], {}, [[]], [2**24, 2**24], [0, 2**48], [1] * 65, {"a": 1}),
]
json_values = st.recursive(
    st.sampled_from(HOSTILE) | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)


def network() -> nn.Module:
    """A network of three kinds of layer, with batch norm and an activation that may be binary."""
    body = [nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)]
    return nn.Sequential(*body, nn.Embedding(3, 4, padding_idx=1))


def whole_tickets() -> list[tuple[dict[str, Any], Tensors]]:
    """Descriptions and tensors: a ticket of ±1 and one of real weights, in versions 4 and 3 each; two with levels."""
    found = []
    for options in ({"binary": "weights+activations", "gain": "channel"}, {"bn": "learned", "density": 0.1}):
        model = network()
        strongticket.attach(model, weights="kaiming-normal", **options)
        ticket = strongticket.extract(model)
        found += [taken_apart(to_bytes(ticket)), apart(ticket, 3)]
    for rule in (as_rule("multicoated", coats=4), as_rule("iterand", redraw_every=1, redraw_share=0.5)):
        model = network()
        strongticket.attach(model, weights="kaiming-normal", rule=rule)
        for _ in range(3):
            for edge in edges(model).values():
                edge.scores.data.neg_()
            strongticket.refresh(model)
        found.append(taken_apart(to_bytes(strongticket.extract(model))))
    return found


TICKETS = whole_tickets()


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inner:
        yield (*path, key)
        yield from paths(below, (*path, key))


def spoiled(said: dict[str, Any], path: tuple[Any, ...], action: str, value: Any) -> dict[str, Any]:
    """A copy of a description in which one value is replaced, gone, or has a neighbour."""
    said = copy.deepcopy(said)
    owner: Any = said
    for key in path[:-1]:
        owner = owner[key]
    if action == "replace":
        owner[path[-1]] = value
    elif action == "remove":
        del owner[path[-1]]
    elif isinstance(owner, list):
        owner.append(value)
    else:
        owner[str(value)[:40]] = owner[path[-1]]
    return said


def assert_harmless(data: bytes) -> None:
    """Read a file and apply it: all goes well, or there is a TicketError of one short line, and no warning."""
    message = ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            strongticket.apply(from_bytes(data), network())
        except TicketError as error:
            message = str(error)
    assert len(message.splitlines()) <= 1
    assert len(message) < 3000


def test_what_is_spoiled_here_is_whole_before() -> None:
    for said, tensors in TICKETS:
        whole = from_bytes(forged(said, tensors))
        live = strongticket.extract(strongticket.apply(whole, network()))
        assert all(torch.equal(live.masks[name], mask) for name, mask in whole.masks.items())
        assert (live.seed, live.law, list(live.masks)) == (whole.seed, whole.law, list(whole.masks))


@given(data=st.data(), ticket=st.sampled_from(TICKETS), action=st.sampled_from(["replace", "remove", "add"]))
def test_a_spoiled_description_is_harmless(data: st.DataObject, ticket: tuple[Any, Tensors], action: str) -> None:
    said, tensors = ticket
    path = data.draw(st.sampled_from(list(paths(said))))
    assert_harmless(forged(spoiled(said, path, action, data.draw(json_values)), tensors))


@given(
    data=st.data(),
    ticket=st.sampled_from(TICKETS),
    content=st.binary(max_size=40),
    packed=st.booleans(),
    dtype=st.sampled_from(["U8", "BOOL", "F32", "I64", "C64", "F16", "F4"]),
    shape=st.none() | st.lists(st.sampled_from([0, 1, 2, 3, 40, 2**24, 2**48]), max_size=3),
)
def test_a_spoiled_tensor_is_harmless(
    data: st.DataObject,
    ticket: tuple[dict[str, Any], Tensors],
    content: bytes,
    packed: bool,
    dtype: str,
    shape: list[int] | None,
) -> None:
    said, tensors = ticket
    key = data.draw(
        st.sampled_from([*tensors, "mask:x", "stored:x", "stored:../x", "table", "masks.ans", "levels.ans", "other"])
    )
    content = zstd.compress(content) if packed else content
    assert_harmless(forged(said, {**tensors, key: (dtype, [len(content)] if shape is None else shape, content)}))


@given(data=st.data(), dtype=st.sampled_from([torch.float32, torch.float64, torch.int64, torch.complex64, torch.bool]))
def test_stored_tensors_that_do_not_fit_the_network_are_harmless(data: st.DataObject, dtype: torch.dtype) -> None:
    said, tensors = TICKETS[data.draw(st.sampled_from([0, 1, 4]))]
    stored = {"1.running_mean": torch.zeros(2), "1.running_var": torch.ones(2)}
    name = data.draw(st.sampled_from(["1.running_mean", "1.running_var", "0.weight", "4.bias", "1.x", "x"]))
    shape = data.draw(st.lists(st.integers(0, 3), max_size=3))
    stored[name] = torch.ones(shape, dtype=dtype)
    assert_harmless(forged(*storing(stored, said, tensors)))


def storing(stored: dict[str, Tensor], said: dict[str, Any], tensors: Tensors) -> tuple[dict[str, Any], Tensors]:
    """The same ticket with other stored tensors."""
    said = {**said, "stored_digest": digest(stored)}
    tensors = {key: entry for key, entry in tensors.items() if key.startswith(("mask", "levels"))}
    if said["format"] >= 4:
        said["stored"] = {key: {"dtype": str(v.dtype)[6:], "shape": list(v.shape)} for key, v in stored.items()}
        content = b"".join(content_of(value) for value in stored.values())
        return said, tensors | {"stored": ("U8", [len(content)], content)}
    codes = {"float32": "F32", "float64": "F64", "int64": "I64", "complex64": "C64", "bool": "BOOL"}
    entries: Tensors = {
        f"stored:{key}": (codes[str(value.dtype)[6:]], list(value.shape), content_of(value))
        for key, value in stored.items()
    }
    return said, tensors | entries


def content_of(value: Tensor) -> bytes:
    content: bytes = value.numpy().tobytes()
    return content


def test_a_stored_tensor_of_another_dtype_is_not_converted_in_silence() -> None:
    model = network()
    strongticket.attach(model)
    ticket = strongticket.extract(model)
    ticket.stored["1.running_mean"] = ticket.stored["1.running_mean"].double()  # type: ignore[index]
    message = r"^1\.running_mean is torch\.float64 in the ticket and torch\.float32 in the model; convert it$"
    with pytest.raises(TicketError, match=message):
        strongticket.apply(ticket, network())


def test_weights_that_cannot_be_drawn_are_a_fault_of_the_ticket() -> None:
    said, tensors = TICKETS[2]
    said = copy.deepcopy(said)
    said["tensors"]["4.weight"]["scale"] = 1e300
    message = r"^the weights of this ticket cannot be drawn: weights of scale 1e\+300 do not fit float32"
    with pytest.raises(TicketError, match=message):
        strongticket.apply(from_bytes(forged(said, tensors)), network())


@pytest.mark.parametrize("number", [0, 1], ids=["4", "3"])
def test_names_are_not_listed_at_length(number: int) -> None:
    said, tensors = TICKETS[number]
    stored = {f"trained{index}": torch.zeros(0) for index in range(1000)}
    said, tensors = storing(stored, said, tensors)
    data = forged({**said, "trained": list(stored)}, tensors)
    with pytest.raises(
        TicketError, match=r"^this ticket is of another network: trained besides scores are trained0, .{,60}$"
    ):
        strongticket.apply(from_bytes(data), network())


def test_a_law_is_not_quoted_at_length() -> None:
    said, tensors = TICKETS[0]
    for kind in ({"a": ["b"] * 10_000}, "kaiming-normal" * 10_000):
        with pytest.raises(
            TicketError, match=r"^law\.kind is .{1,150}; expected a short text, a number, true, false or"
        ):
            from_bytes(forged({**said, "law": {**said["law"], "kind": kind}}, tensors))


# The command line


@pytest.mark.parametrize(
    ("spec", "devices"),
    [
        ({}, ["meta", "cpu"]),
        ({"width": 1e5}, ["meta"]),
        ({"width": 1e300}, ["meta"]),
        ({"input_shape": [3, 10**6, 10**6]}, ["meta"]),
        ({"name": "cifar-resnet20", "input_shape": [3, 4000, 4000]}, ["meta"]),  # small but for what flows through it
        ({"input_shape": "abc"}, ["meta"]),
        ({"classes": 5}, ["meta"]),
        ({"name": "os:abort"}, []),
    ],
)
def test_a_network_too_large_for_the_file_that_names_it_is_not_built_to_inspect_it(
    spec: dict[str, Any],
    devices: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = build("conv2", input_shape=(3, 16, 16), classes=10, width=0.1)
    strongticket.attach(model)
    classes = [str(number) for number in range(10)]
    how = {
        "name": "conv2",
        "width": 0.1,
        "norm": None,
        "activation": None,
        "input_shape": [3, 16, 16],
        "classes": classes,
    }
    strongticket.save(strongticket.extract(model, model_spec={**how, **spec}), tmp_path / "t")
    built = []

    def network_of(spec: dict[str, Any]) -> nn.Module:
        built.append(torch.empty(0).device.type)
        return assembly.network_of(spec)

    monkeypatch.setattr(inspect, "network_of", network_of)
    assert main(["inspect", str(tmp_path / "t"), "--json"]) == 0
    assert built == devices
    seen = {layer["inputs"] for layer in json.loads(capsys.readouterr().out)["layers"]}
    assert seen == ({"real"} if "cpu" in devices else {"not seen"})


# Memory: each file is read by a process of its own kind, which says how much it took at most.

SAID, TENSORS = apart(small_ticket(), 3)
JOINED = taken_apart(to_bytes(small_ticket()))
LEVELLED = taken_apart(to_bytes(small_ticket(masks={"w": torch.tensor([[0, 1, 2]] * 2).byte()}, levels="coats")))
MOST_VALUES = (1 << 18) - 2000
LARGEST_HEADER = 4 << 20


def filled(item: str, *, least: int = 1) -> str:
    """A JSON list of as many ``item`` as a text of a ticket may hold."""
    marks = 1 + sum(item.count(mark) for mark in ",[{")
    return "[" + ",".join([item] * min((LARGEST_HEADER - 2000) // (len(item) + least), MOST_VALUES // marks)) + "]"


def with_provenance(text: str) -> bytes:
    """A sealed ticket whose provenance holds ``text``, a JSON value, as it stands."""
    said = json.dumps({"sha256": "0" * 64, **SAID, "provenance": {"a": "?"}}, separators=(",", ":"))
    header, body = {"__metadata__": {"strongticket": said.replace('"?"', text)}}, b""
    entries: dict[str, Any] = {}
    for key, (dtype, shape, data) in TENSORS.items():
        entries[key] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    return sealed(framed(json.dumps({**header, **entries}, separators=(",", ":")), body))


def claiming(codec: str, kept: int, shape: list[int], data: bytes, *, beside: int = 0) -> bytes:
    """A sealed ticket with one mask of that claim, and ``beside`` bytes of stored zeros that pay for it."""
    said, total = copy.deepcopy(SAID), int(np.prod(shape, dtype=object))
    stored = torch.zeros(beside, dtype=torch.uint8)
    said |= {"kept": kept, "total": total, "stored_digest": digest({"mean": stored})}
    said["tensors"]["w"] |= {"shape": shape, "mask": {"codec": codec, "count": kept, "sha256": "0" * 64}}
    return forged(said, {"mask:w": ("U8", [len(data)], data), "stored:mean": ("U8", [beside], bytes(beside))})


def joined(stream: str, masks: dict[str, tuple[str, int, list[int]]], data: bytes, *, beside: int = 0) -> bytes:
    """The same in version 4: {name: (codec, kept, shape)} in one stream."""
    said = copy.deepcopy(JOINED[0])
    stored = torch.zeros(beside, dtype=torch.uint8)
    totals = [int(np.prod(shape, dtype=object)) for _, _, shape in masks.values()]
    said |= {"kept": sum(kept for _, kept, _ in masks.values()), "total": sum(totals)}
    said |= {"stored_digest": digest({"mean": stored}), "stored": {"mean": {"dtype": "uint8", "shape": [beside]}}}
    said["tensors"] = {
        name: {"shape": shape, "dtype": "float32", "scale": 1, "mask": {"codec": codec, "count": kept}}
        for name, (codec, kept, shape) in masks.items()
    }
    return forged(said, {f"masks.{stream}": ("U8", [len(data)], data), "stored": ("U8", [beside], bytes(beside))})


def levelled(
    masks: dict[str, tuple[str, int, list[int]]],
    levels: dict[str, list[tuple[str, int]]],
    streams: dict[str, bytes],
    *,
    packed: bytes,
    packed_levels: bytes = b"",
) -> bytes:
    """The same in version 5: {name: (codec, kept, shape)}, {name: [(codec, kept) of each level]}, the bits of both."""
    said, stored = copy.deepcopy(LEVELLED[0]), torch.zeros(0, dtype=torch.uint8)
    totals = [int(np.prod(shape, dtype=object)) for _, _, shape in masks.values()]
    said |= {"kept": sum(kept for _, kept, _ in masks.values()), "total": sum(totals)}
    said |= {"stored_digest": digest({"mean": stored}), "stored": {"mean": {"dtype": "uint8", "shape": [0]}}}
    said |= {
        "masks_digest": hashlib.sha256(packed).hexdigest(),
        "levels_digest": hashlib.sha256(packed_levels).hexdigest(),
    }
    said["tensors"] = {
        name: {"shape": shape, "dtype": "float32", "scale": 1, "mask": {"codec": codec, "count": kept}}
        for name, (codec, kept, shape) in masks.items()
    }
    said["above"] = {
        name: [{"codec": codec, "count": kept} for codec, kept in entries] for name, entries in levels.items()
    }
    return forged(
        said, {"stored": ("U8", [0], b"")} | {key: ("U8", [len(data)], data) for key, data in streams.items()}
    )


def in_every_state(edges: int) -> bytes:
    """A ticket of as many masks and levels as there may be, all in the codec ``ans`` and right but for one digest."""
    names = [f"t{number}" for number in range(4096)]
    below = int(2 ** (edges - 1) - 1).to_bytes(-(-edges // 8), "little")  # all edges but one
    above = int(2 ** (edges - 2) - 1).to_bytes(-(-(edges - 1) // 8), "little")
    streams = {
        "masks.ans": ans.coded([(below, edges - 1, edges)] * 4096),
        "levels.ans": ans.coded([(above, edges - 2, edges - 1)] * 4096),
    }
    masks, levels = {n: ("ans", edges - 1, [edges]) for n in names}, {n: [("ans", edges - 2)] for n in names}
    return levelled(masks, levels, streams, packed=below * 4096)


def with_table(text: bytes) -> bytes:
    """A sealed ticket whose table is this text."""
    said = {"sha256": "0" * 64, **{key: value for key, value in JOINED[0].items() if key not in TABLE}}
    data = zstd.compress(text)
    entry = {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}
    header = {"__metadata__": {"strongticket": json.dumps(said, separators=(",", ":"))}, "table": entry}
    return sealed(framed(json.dumps(header, separators=(",", ":")), data))


def many_tensors(count: int) -> bytes:
    said = copy.deepcopy(SAID)
    tensor = {"shape": [1], "dtype": "float32", "scale": 1, "mask": {"codec": "bits", "count": 1, "sha256": "0" * 64}}
    said |= {"kept": count, "total": count, "tensors": {f"t{index}": tensor for index in range(count)}}
    return forged(
        said, {f"mask:t{index}": ("U8", [1], b"\1") for index in range(count)} | {"stored:mean": TENSORS["stored:mean"]}
    )


NO_GAPS = {"masks.zstd": zstd.compress(b""), "levels.zstd": zstd.compress(b"")}
NOISE = np.random.default_rng(0).integers(1, 255, 1 << 20, dtype=np.uint8).tobytes()
HARMFUL: dict[str, Callable[[], bytes]] = {
    "a header of lists": lambda: framed('{"a":' + filled("[]") + "}"),
    "a header of more lists": lambda: framed('{"a":[' + "[]," * 1_300_000 + "0]}"),
    "a header of objects": lambda: framed('{"a":' + filled('{"a":0}') + "}"),
    "a header of strings": lambda: framed('{"a":' + filled('"aaaaaaaaa"') + "}"),
    "a header of wide text": lambda: framed('{"a":"' + "x" * 4_000_000 + '\U0001f600"}'),
    "a header of digits": lambda: framed('{"a":' + "9" * 4_000_000 + "}"),
    "a deep header": lambda: framed('{"a":' * 250_000),
    "provenance of lists": lambda: with_provenance(filled("[[]]")),
    "provenance of objects": lambda: with_provenance(filled('{"a":0}', least=5)),
    "provenance of numbers": lambda: with_provenance(filled("1e9")),
    "a long name": lambda: forged(SAID, {**TENSORS, "stored:" + "a" * 4_000_000: ("U8", [0], b"")}),
    "many masks": lambda: many_tensors(9000),
    "many names": lambda: forged({**SAID, "trained": [f"{index:x}" for index in range(200_000)]}, TENSORS),
    "gaps of no end": lambda: claiming("zstd-gaps", 0, [2**26], zstd.compress(b"")),
    "gaps of many edges": lambda: claiming("zstd-gaps", 2**24, [2**26], zstd.compress(b"\1" * 2**24)),
    "gaps of escapes": lambda: claiming("zstd-gaps", 2**25, [2**26], zstd.compress(b"\xff" * 2**25)),
    "a bomb for few edges": lambda: claiming("zstd-bits", 2, [2, 3], zstd.compress(bytes(200_000_000))),
    "a bomb that is paid for": lambda: claiming(
        "zstd-bits", 2, [130 << 23], zstd.compress(bytes(130 << 20)), beside=2**20
    ),
    "a mebibyte of gaps": lambda: claiming("zstd-gaps", 2**20, [2**30], zstd.compress(NOISE)),
    "a mebibyte of state": lambda: claiming("ans", 2**20, [2**27], NOISE),
    "a bomb of a table": lambda: with_table(b" " * 200_000_000),
    "a table of lists": lambda: with_table(('{"a":' + filled("[]") + "}").encode()),
    "a table of objects": lambda: with_table(('{"a":' + filled('{"a":0}') + "}").encode()),
    "a table of digits": lambda: with_table(b'{"a":' + b"9" * 4_000_000 + b"}"),
    "a table of no text": lambda: with_table(b"\xff" * 4_000_000),
    "many joined masks": lambda: joined("bits", {f"t{n}": ("bits", 1, [1]) for n in range(8192)}, b"\1" * 8191),
    "many joined gaps": lambda: joined(
        "zstd", {f"t{n}": ("zstd-gaps", 1, [2**9]) for n in range(8192)}, zstd.compress(b"\xff\0" * 8191)
    ),
    "many joined states": lambda: joined(
        "ans", {f"t{n}": ("ans", 1 + n % 7, [16 + n]) for n in range(8192)}, NOISE[: 1 << 18]
    ),
    "joined gaps of no end": lambda: joined("zstd", {"w": ("zstd-gaps", 0, [2**26])}, zstd.compress(b"")),
    "joined gaps of escapes": lambda: joined(
        "zstd", {"w": ("zstd-gaps", 1, [2**26]), "v": ("zstd-gaps", 1, [9])}, zstd.compress(b"\xff" * 2**18 + b"\0")
    ),
    "joined bombs": lambda: joined(
        "zstd", {"w": ("zstd-bits", 2, [9]), "v": ("zstd-gaps", 1, [9])}, zstd.compress(bytes(200_000_000))
    ),
    "levels of no end": lambda: levelled(
        {"w": ("zstd-gaps", 2**26, [2**26])}, {"w": [("zstd-gaps", 2**26)] * 254}, NO_GAPS, packed=b""
    ),
    "levels of all edges": lambda: levelled(
        {"w": ("zstd-gaps", 2**18, [2**18])}, {"w": [("zstd-gaps", 2**18)] * 254}, NO_GAPS, packed=b"\xff" * 2**15
    ),
    "levels as they should be": lambda: levelled(
        {"w": ("zstd-gaps", 2**18, [2**18])},
        {"w": [("zstd-gaps", 2**18)] * 254},
        NO_GAPS,
        packed=b"\xff" * 2**15,
        packed_levels=b"\xff" * 2**15 * 254,
    ),
    "one level as it should be": lambda: levelled(
        {"w": ("zstd-gaps", 2**25, [2**25])},
        {"w": [("zstd-gaps", 2**25)]},
        NO_GAPS,
        packed=b"\xff" * 2**22,
        packed_levels=b"\xff" * 2**22,
    ),
    "many levels": lambda: levelled(
        {f"t{n}": ("zstd-gaps", 1, [512]) for n in range(4096)},
        {f"t{n}": [("zstd-gaps", 1)] for n in range(4096)},
        {"masks.zstd": zstd.compress(b"\xff\0" * 4096), "levels.zstd": zstd.compress(b"")},
        packed=(b"\0" * 31 + b"\x80" + b"\0" * 32) * 4096,
    ),
    "more levels": lambda: levelled(
        {f"t{n}": ("zstd-gaps", 9, [9]) for n in range(320)},
        {f"t{n}": [("zstd-gaps", 9)] * 254 for n in range(320)},
        NO_GAPS,
        packed=b"",
    ),
    "many levels in a state": lambda: in_every_state(120),
    "long levels in a state": lambda: in_every_state(4096),
    "a bomb of levels": lambda: levelled(
        {"w": ("bits", 4, [4])},
        {"w": [("zstd-bits", 2)]},
        {"masks.bits": b"\x0f", "levels.zstd": zstd.compress(bytes(200_000_000))},
        packed=b"\x0f",
    ),
    "a joined state": lambda: joined("ans", {"w": ("ans", 2**20, [2**26]), "v": ("ans", 1, [9])}, NOISE),
    "stored tensors without end": lambda: forged(
        {**JOINED[0], "stored": {f"t{n}": {"dtype": "float32", "shape": [2**48]} for n in range(20_000)}}, JOINED[1]
    ),
    "two dimensions": lambda: claiming("zstd-gaps", 0, [2**20, 2**20], zstd.compress(b"")),
}
READER = """
import json, sys, time
from strongticket.errors import MissingExtraError, TicketError
from strongticket.ticket import load

def memory(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) // 1024

for path in sys.argv[1:]:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins anew
    before = memory("VmRSS")
    began = time.process_time()
    try:
        load(path)
        end = "loaded"
    except (TicketError, MissingExtraError) as error:
        end = str(error)
    print(json.dumps([path, memory("VmHWM") - before, time.process_time() - began, end]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="this system does not tell the peak of memory")
def test_a_file_made_to_harm_takes_less_than_200_mb(tmp_path: Path) -> None:
    for name, make in HARMFUL.items():
        (tmp_path / name).write_bytes(make())
    honest = tmp_path / "0 honest"  # what is imported late is not counted
    honest.write_bytes(to_bytes(small_ticket()))
    files = [str(honest), *(str(tmp_path / name) for name in HARMFUL)]
    done = subprocess.run([sys.executable, "-c", READER, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {Path(path).name: rest for path, *rest in map(json.loads, done.stdout.splitlines())}
    assert found.keys() == {"0 honest", *HARMFUL}
    for name, (megabytes, _, end) in found.items():
        assert megabytes < 200, (name, megabytes, end)
        assert "\n" not in end
        loads = name == "0 honest" or name.startswith("provenance") or name.endswith("should be")
        assert (end == "loaded") == loads, (name, end)
