"""Tickets known by hand, and a reader and a writer of their files that follow docs/format.md alone.

Files are read and forged by a few lines of ``struct``, ``json`` and ``hashlib``, never by the code under test.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tracemalloc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from strongticket.errors import TicketError
from strongticket.ticket import Ticket, from_bytes, to_bytes
from strongticket.weights import Binary, DrawnTensor, WeightLaw, digest, draw

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

GOLDEN_1 = Path(__file__).parent / "golden" / "ticket-v1.safetensors"
GOLDEN_2 = Path(__file__).parent / "golden" / "ticket-v2.safetensors"
GOLDEN_3 = Path(__file__).parent / "golden" / "ticket-v3.safetensors"
GOLDEN_4 = Path(__file__).parent / "golden" / "ticket-v4.safetensors"
GOLDEN_4_ANS = Path(__file__).parent / "golden" / "ticket-v4-ans.safetensors"
GOLDEN_5_COATS = Path(__file__).parent / "golden" / "ticket-v5-coats.safetensors"
GOLDEN_5_DRAWS = Path(__file__).parent / "golden" / "ticket-v5-draws.safetensors"
GOLDEN_SHA256 = {
    GOLDEN_1: "3e387ef949c24d75de07128cba389bc2fb7702df1f387a629b3379e98350290e",
    GOLDEN_2: "f9e84894e3f9cd62c01bdc5bbb4ef06080924e93de3fde12d4abe19c64aec4e3",
    GOLDEN_3: "86352562a32f483b79ec0dae4a50b87dd11b3f7b9378babc5905fa832455f0fa",
    GOLDEN_4: "1e8053ec49165b28f0a123867620c2d4876784dc74bd493c9eb9e14ede4e43b4",
    GOLDEN_4_ANS: "d3390946b454b36ce688adb2144f66b9d2481ce7581ee1eec7e288b2154ee0e5",
    GOLDEN_5_COATS: "fde2ce7632bc5a59c3fb86b262bcbd614b46b6c625423c1e1a3b711b10b2435a",
    GOLDEN_5_DRAWS: "9e7a42a1ef6b57721cd0ff8a6754ddd11cba7ce1569b80eb9e32ab5756c7d074",
}
FORMAT_PAGE = Path(__file__).parents[1] / "docs" / "format.md"
DIGEST_AT = 55
TABLE = ("tensors", "stored", "trained", "binary", "above")
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.bool: "BOOL", torch.int64: "I64", torch.uint8: "U8"}


def golden_ticket() -> Ticket:
    """A ticket with every codec, a tensor without mask, and stored tensors of several types, all known by hand."""
    law = WeightLaw("signed-constant")
    tensors = {
        "stem.weight": DrawnTensor((2, 1, 2, 2), "float32", 0.7071067811865476),
        "body.weight": DrawnTensor((64, 64), "float32", 0.1767766952966369),
        "tail.weight": DrawnTensor((10, 100), "float16", 0.1414213562373095),
        "head.weight": DrawnTensor((3, 10), "float32", 0.4472135954999579, masked=False),
    }
    few = torch.zeros(1000, dtype=torch.bool)
    few[[0, 255, 256, 999]] = True
    return Ticket(
        seed=2**53 + 1,
        law=law,
        tensors=tensors,
        masks={
            "stem.weight": torch.tensor([1, 0, 0, 0, 1, 1, 0, 1], dtype=torch.bool).reshape(2, 1, 2, 2),
            "body.weight": (torch.arange(4096) % 8 < 3).reshape(64, 64),
            "tail.weight": few.reshape(10, 100),
        },
        weights_digest=digest({name: draw_all(law, 2**53 + 1, name, tensors[name]) for name in tensors}),
        stored={
            "norm.running_mean": torch.tensor([0.5, -0.0, float("nan")]),
            "norm.weight": torch.tensor([1.5, 2.0], dtype=torch.bfloat16),
            "norm.active": torch.tensor([True, False]),
            "steps": torch.tensor(7),
        },
        trained=("norm.weight",),
        search={"rule": "edge-popup", "scope": "layer", "density": 0.5, "floor": 0.0, "bn": "learned"},
        model={"name": "example", "width": 1.0},
        provenance={"note": "größer als 1/3", "third": 1 / 3},
    )


def golden_binary_ticket() -> Ticket:
    """The ticket of a binary network: an embedding with padding row 3, a convolution, a transposed one in two groups.

    Row 3 has edges that are kept, one channel of each convolution has none, and the last layer has no mask.
    """
    law, seed = WeightLaw("kaiming-normal"), 2**64 - 2
    tensors = {
        "embed.weight": DrawnTensor((9, 6), "float16", 0.75),
        "body.conv.weight": DrawnTensor((6, 4, 2, 2), "float32", 0.3535533905932738),
        "up.weight": DrawnTensor((6, 2, 2, 2), "float32", 0.25),
        "head.weight": DrawnTensor((3, 80), "float32", 0.15811388300841897, masked=False),
    }
    drawn = {name: draw_all(law, seed, name, tensors[name]) for name in tensors}
    drawn["embed.weight"][3] = 0
    conv = (torch.arange(96) % 7 < 3).reshape(6, 4, 2, 2)
    conv[5] = False
    up = (torch.arange(48) % 5 < 2).reshape(6, 2, 2, 2)
    up[3:, 0] = False
    return Ticket(
        seed=seed,
        law=law,
        tensors=tensors,
        masks={
            "embed.weight": (torch.arange(54) % 3 > 0).reshape(9, 6),
            "body.conv.weight": conv,
            "up.weight": up,
        },
        weights_digest=digest(drawn),
        stored={
            "body.norm.weight": torch.tensor([1.0, -1.0, 0.5, 2.0, 0.25, 1.0]),
            "body.norm.bias": torch.tensor([0.5, 0.0, -0.5, 0.25, 0.0, -0.25]),
            "body.norm.running_mean": torch.tensor([0.0, 0.5, -0.5, 0.25, 0.125, 0.0]),
            "body.norm.running_var": torch.tensor([1.0, 0.5, 2.0, 0.25, 1.0, 4.0]),
        },
        trained=("body.norm.weight", "body.norm.bias"),
        binary=Binary("channel", {"body.act": "bi-real", "act": "clipped-identity"}),
        search={"rule": "edge-popup", "scope": "global", "density": 0.5, "floor": 0.0, "bn": "learned"},
        model={"name": "example", "width": 1.0},
    )


def golden_coats_ticket() -> Ticket:
    """A ticket whose kept edges are in up to 5 coats, known by hand, one gain to a layer; one tensor has one coat."""
    law, seed = WeightLaw("kaiming-uniform"), 11
    tensors = {
        "stem.weight": DrawnTensor((2, 1, 2, 2), "float32", 0.7071067811865476),
        "body.weight": DrawnTensor((32, 64), "float32", 0.1767766952966369),
        "head.weight": DrawnTensor((3, 10), "float32", 0.4472135954999579, masked=False),
        "tail.weight": DrawnTensor((10, 100), "float16", 0.1414213562373095),
    }
    few = torch.ones(1000, dtype=torch.uint8)
    few[[0, 255, 256, 999]] = torch.tensor([2, 5, 2, 2], dtype=torch.uint8)
    return Ticket(
        seed=seed,
        law=law,
        tensors=tensors,
        masks={
            "stem.weight": torch.tensor([1, 0, 0, 0, 1, 1, 0, 1], dtype=torch.uint8).reshape(2, 1, 2, 2),
            "body.weight": torch.tensor([0, 1, 0, 2, 0, 0, 3, 4], dtype=torch.uint8).repeat(256).reshape(32, 64),
            "tail.weight": few.reshape(10, 100),
        },
        weights_digest=digest({name: draw_all(law, seed, name, tensors[name]) for name in tensors}),
        stored={"steps": torch.tensor(7)},
        binary=Binary("layer"),
        levels="coats",
        search={"rule": "multicoated", "coats": 5, "scope": "layer", "density": 0.5, "floor": 0.0, "bn": "frozen"},
        model={"name": "example", "width": 1.0},
    )


def golden_draws_ticket() -> Ticket:
    """A ticket with up to 6 draws of a weight, in the network of ``golden_binary_ticket``, whose weights are real.

    Edges of padding row 3 were drawn anew, and no kept edge of the transposed convolution was.
    """
    law, seed = WeightLaw("kaiming-normal"), 2**63 + 5
    tensors = {
        "embed.weight": DrawnTensor((9, 6), "float16", 0.75),
        "body.conv.weight": DrawnTensor((6, 4, 2, 2), "float32", 0.3535533905932738),
        "up.weight": DrawnTensor((6, 2, 2, 2), "float32", 0.25),
        "head.weight": DrawnTensor((3, 80), "float32", 0.15811388300841897, masked=False),
    }
    masks = {
        "embed.weight": torch.tensor([0, 1, 3], dtype=torch.uint8).repeat(18).reshape(9, 6),
        "body.conv.weight": (torch.arange(96) % 7).to(torch.uint8).reshape(6, 4, 2, 2),
        "up.weight": (torch.arange(48) % 5 < 2).to(torch.uint8).reshape(6, 2, 2, 2),
    }
    drawn = {name: draw_all(law, seed, name, tensors[name]) for name in tensors}
    for name, mask in masks.items():
        for place in (mask > 1).nonzero().tolist():
            level = int(mask[tuple(place)])
            again = draw_all(law, seed, f"{name}:draw:{level - 1}", tensors[name])
            drawn[name][tuple(place)] = again[tuple(place)]
    drawn["embed.weight"][3] = 0
    return Ticket(
        seed=seed,
        law=law,
        tensors=tensors,
        masks=masks,
        weights_digest=digest(drawn),
        stored=golden_binary_ticket().stored,
        trained=("body.norm.weight", "body.norm.bias"),
        levels="draws",
        search={"rule": "iterand", "redraw_every": 300, "redraw_share": 0.1, "density": 0.5, "bn": "learned"},
        model={"name": "example", "width": 1.0},
    )


def draw_all(law: WeightLaw, seed: int, name: str, tensor: DrawnTensor) -> Tensor:
    return draw(law, seed, name, tensor.shape, scale=tensor.scale).to(getattr(torch, tensor.dtype))


def small_ticket(**changes: Any) -> Ticket:
    ticket = Ticket(
        seed=3,
        law=WeightLaw(),
        tensors={"w": DrawnTensor((2, 3), "float32", 0.5)},
        masks={"w": torch.tensor([[True, False, False], [False, True, False]])},
        weights_digest="a" * 64,
        stored={"mean": torch.tensor([1.0, -2.0])},
    )
    return replace(ticket, **changes)


def equal(one: Ticket, other: Ticket) -> bool:
    """Whether two tickets agree in every bit."""
    return (
        (one.seed, one.law, dict(one.tensors), list(one.tensors), one.weights_digest, one.trained)
        == (other.seed, other.law, dict(other.tensors), list(other.tensors), other.weights_digest, other.trained)
        and (one.binary, one.levels, one.search, one.model, one.provenance)
        == (other.binary, other.levels, other.search, other.model, other.provenance)
        and digest(one.masks) == digest(other.masks)
        and digest(one.stored) == digest(other.stored)
    )


# A reader and a writer of the format by hand.


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data[:DIGEST_AT] + b"0" * 64 + data[DIGEST_AT + 64 :]).hexdigest()


def taken_apart(data: bytes) -> tuple[dict[str, Any], dict[str, tuple[str, list[int], bytes]]]:
    """Return the ticket's JSON and {tensor: (dtype, shape, bytes)} of a file, its digest checked.

    Since version 4 the table is part of the JSON, and no tensor any more.
    """
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    said = json.loads(header.pop("__metadata__")["strongticket"])
    assert said["sha256"] == data[DIGEST_AT : DIGEST_AT + 64].decode() == sha256_of(data)
    body = data[8 + size :]
    tensors = {k: (v["dtype"], v["shape"], body[slice(*v["data_offsets"])]) for k, v in header.items()}
    if said["format"] >= 4:
        said |= json.loads(zstd.decompress(tensors.pop("table")[2]))
    return said, tensors


def apart(ticket: Ticket, version: int = 2) -> tuple[dict[str, Any], dict[str, tuple[str, list[int], bytes]]]:
    """Return the JSON and the tensors of a file in a version before 4, its masks as plain bits, without levels."""
    said, _ = taken_apart(to_bytes(ticket))
    del said["masks_digest"], said["stored"]
    if version == 1:
        del said["binary"]
    tensors = {}
    for name, mask in ticket.masks.items():
        packed = np.packbits(mask.contiguous().numpy().reshape(-1), bitorder="little").tobytes()
        said["tensors"][name]["mask"] |= {"codec": "bits", "sha256": hashlib.sha256(packed).hexdigest()}
        tensors[f"mask:{name}"] = ("U8", [len(packed)], packed)
    for name, value in sorted(ticket.stored.items()):
        data = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        tensors[f"stored:{name}"] = (DTYPES[value.dtype], list(value.shape), data)
    return {**said, "format": version}, tensors


def framed(header: str, body: bytes = b"", *, size: int | None = None) -> bytes:
    """Return a file with this header, of this length or of the ``size`` it claims."""
    text = header.encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + body


def sealed(data: bytes) -> bytes:
    """Return the file with the digest that it ought to have."""
    return data[:DIGEST_AT] + sha256_of(data).encode() + data[DIGEST_AT + 64 :]


def forged(said: Mapping[str, Any], tensors: Mapping[str, tuple[str, list[int], bytes]], **metadata: str) -> bytes:
    """Return a file that says ``said`` and holds ``tensors``, with the digest that it ought to have."""
    said = {"sha256": "0" * 64, **{key: value for key, value in said.items() if key != "sha256"}}
    if said.get("format") in (4, 5):
        table = {key: said.pop(key) for key in TABLE if key in said}
        data = zstd.compress(json.dumps(table, separators=(",", ":")).encode())
        tensors = {"table": ("U8", [len(data)], data), **tensors}
    header: dict[str, Any] = {"__metadata__": {"strongticket": json.dumps(said, separators=(",", ":")), **metadata}}
    body = b""
    for key, (dtype, shape, data) in tensors.items():
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    return sealed(framed(json.dumps(header, separators=(",", ":"), ensure_ascii=False), body))


def literal(path: Path) -> str:
    return re.escape(str(path))


def assert_refused(data: bytes, message: str) -> None:
    with pytest.raises(TicketError, match=rf"^{message}") as caught:
        from_bytes(data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def assert_refused_in_memory(data: bytes, message: str, takes: int) -> None:
    """A file is refused at a peak of ``takes`` bytes at least, and of not much more than twice that."""
    tracemalloc.start()
    try:
        assert_refused(data, message)
        assert takes <= tracemalloc.get_traced_memory()[1] < 2 * takes + 10_000_000
    finally:
        tracemalloc.stop()
