"""Fuzz the reader of tickets: ``python benchmarks/fuzz_ticket.py --inputs 200000 --json``.

Every input is a string of bytes that decides how a whole ticket is spoiled: values of its JSON replaced, keys lost and
doubled, shapes, offsets and counts changed, masks cut and exchanged for bombs, bits flipped; most files are sealed with
the digest that they ought to have, so that they get past it. What loads is applied to a network. Allowed are a ticket
and a TicketError in one line; anything else, warnings included, is a finding, printed and kept below ``--findings``.

With atheris installed (``pip install atheris``) the inputs are those of a fuzzer that watches which branches they take;
without it, or with ``--random``, they are random.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import os
import random
import resource
import sys
import time
import traceback
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

try:
    import atheris
except ImportError:
    atheris = None

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DIGEST = slice(55, 119)
TABLE = ("tensors", "stored", "trained", "binary", "above")
TARGETS = ("strongticket.ticket", "strongticket.weights", "strongticket.masks", "strongticket.errors")

HOSTILE: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        3,
        7,
        8,
        9,
        255,
        2**26,
        2**31,
        2**32 - 1,
        2**48,
        2**53 + 1,
        2**63,
        2**64,
        -(2**63),
    ),
    *(10**30, 10**400, 0.5, -0.0, 1e308, 5e-324, float("inf"), float("nan"), 1e-30, 1e30),
    *("", "0", "a", "a" * 2000, "\0", "\n", "\ud800", "../../x", "/etc/passwd", "é", "mask", "zstd-bits", "zstd-gaps"),
    *("bits", "ans", "float32", "float16", "float64", "int8", "bool", "float8_e4m3fn", "Tensor", "U8", "BOOL", "C64"),
    *("kaiming-normal", "unsigned-constant", "layer", "channel", "bi-real", "coats", "draws", "0" * 64, "f" * 64),
    *([], {}, [[]], [0], [1, 2], [2**24, 2**24], [2**48], [0, 2**48], [-1], [1] * 65, {"a": 1}, {"": {}}, [0.5], ["a"]),
]


class Choices:
    """Decisions read from bytes; behind their end, from a generator that they seed."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0
        self._more = random.Random(hashlib.sha256(data).digest())

    def below(self, count: int) -> int:
        """Return an integer from 0 to ``count`` − 1."""
        if count > 256 or self._at >= len(self._data):
            return self._more.randrange(count)
        self._at += 1
        return self._data[self._at - 1] % count

    def one_in(self, count: int) -> bool:
        return self.below(count) == 0

    def of(self, items: Any) -> Any:
        return items[self.below(len(items))]


def network(kind: int) -> nn.Module:
    """Return a small plain network of each kind of layer that a ticket treats in its own way."""
    if kind:
        return nn.Sequential(nn.Embedding(5, 6, padding_idx=1), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3, bias=False))
    body = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 6, 2, groups=2), nn.ReLU()]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(6 * 49, 10))


def whole_tickets() -> list[tuple[int, dict[str, Any], dict[str, Any]]]:
    """Return (kind of network, description, {key: [dtype, shape, bytes]}) of tickets of several kinds."""
    import strongticket as st
    from strongticket.masks import as_rule, edges
    from strongticket.ticket import to_bytes

    coated, drawn = as_rule("multicoated", coats=5), as_rule("iterand", redraw_every=1, redraw_share=0.6)
    found = []
    for kind, density, coder, options in (
        (0, 0.5, "zstd", {"binary": "weights+activations", "gain": "channel", "weights": "kaiming-uniform"}),
        (0, 0.1, "ans", {"bn": "learned", "weights": "kaiming-normal"}),
        (0, 0.05, "zstd", {"weights": "unsigned-constant"}),
        (1, 0.3, "ans", {"binary": "weights", "weights": "xavier-normal"}),
        (1, 1.0, "zstd", {}),
        (0, 0.6, "zstd", {"rule": coated, "binary": "weights", "weights": "kaiming-uniform"}),
        (0, 0.4, "ans", {"rule": drawn, "weights": "kaiming-normal"}),
        (1, 0.5, "ans", {"rule": coated}),
        (1, 0.5, "zstd", {"rule": drawn, "bn": "frozen"}),
    ):
        model = network(kind)
        st.attach(model, density=density, seed=kind, **options)
        for step in range(6 if "rule" in options else 0):
            for edge in edges(model).values():
                edge.scores.data.normal_(generator=torch.Generator().manual_seed(step))
            st.refresh(model)
        ticket = st.extract(model, model_spec={"name": "x:y", "width": 1.0})
        data = to_bytes(ticket, coder=coder)
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        said = json.loads(header.pop("__metadata__")["strongticket"])
        body = data[8 + size :]
        places = {key: [v["dtype"], v["shape"], body[slice(*v["data_offsets"])]] for key, v in header.items()}
        said |= json.loads(zstd.decompress(places.pop("table")[2]))
        found.append((kind, said, places))
        if ticket.levels is None:
            found.append((kind, *in_version_3(said, ticket, coder)))
    return found


def in_version_3(said: dict[str, Any], ticket: Any, coder: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a file of version 3 says of a ticket, and its tensors."""
    from strongticket.ticket import encode_masks

    said, places = copy.deepcopy(said), {}
    for name, mask in ticket.masks.items():
        coded = encode_masks({name: mask}, coder=coder)
        ((data,),) = [coded.streams.values()]
        said["tensors"][name]["mask"] = {**vars(coded.masks[name]), "sha256": coded.sha256}
        places[f"mask:{name}"] = ["U8", [len(data)], data]
    for name, value in ticket.stored.items():
        places[f"stored:{name}"] = ["F32", list(value.shape), value.numpy().tobytes()]
    return {key: said[key] for key in said if key not in ("masks_digest", "stored")} | {"format": 3}, places


def spoil_json(value: Any, choices: Choices, depth: int = 0) -> Any:
    """Return a JSON value in which one thing is another, somewhere inside."""
    if isinstance(value, dict | list) and value and not (depth and choices.one_in(6)):
        changed = copy.copy(value)
        place = choices.of(list(value)) if isinstance(value, dict) else choices.below(len(value))
        action = choices.below(10)
        if action == 0:
            del changed[place]
        elif action == 1 and isinstance(value, dict):
            changed[choices.of([str(item)[:50] for item in HOSTILE])] = choices.of([*HOSTILE, value[place]])
        elif action == 2 and isinstance(value, list):
            changed += [choices.of(HOSTILE)] * choices.of((1, 70, 5000))
        else:
            changed[place] = spoil_json(value[place], choices, depth + 1)
        return changed
    if choices.one_in(3) and isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
        return choices.of((value + 1, value - 1, value * 2, -value, float(value), value * 2**32, str(value)))
    if choices.one_in(20):
        return nested(choices.of((50, 63, 64, 65, 66, 900, 20_000)), choices)
    return choices.of(HOSTILE)


class Raw(str):
    """JSON text that stands in a file as it is."""


def nested(depth: int, choices: Choices) -> Raw:
    """Return JSON that is nested ``depth`` times, deeper than it can be built."""
    return Raw(choices.of(("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth)))


def as_json(value: Any, choices: Choices) -> str:
    """Return JSON in which raw texts stand as they are and sometimes a key stands twice."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        pairs = [f"{json.dumps(key)}:{as_json(inner, choices)}" for key, inner in value.items()]
        if pairs and choices.one_in(300):
            pairs.append(choices.of(pairs))
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(as_json(inner, choices) for inner in value) + "]"
    return json.dumps(value)


def spoil_bytes(data: bytes, choices: Choices) -> bytes:
    """Return the data of a tensor, cut, lengthened, changed or exchanged."""
    action = choices.below(8)
    if action == 0:
        return data[: choices.below(len(data) + 1)]
    if action == 1:
        return data + bytes([choices.below(256)]) * choices.of((1, 3, 4, 100))
    if action == 2:
        return zstd.compress(bytes([choices.of((0, 1, 254, 255))]) * choices.of((1, 100, 10**5, 10**7)))
    if action == 3:
        return choices._more.randbytes(choices.of((0, 1, 4, 9, 1000)))
    if action == 4:
        try:
            return zstd.compress(spoil_bytes(zstd.decompress(data), choices))
        except zstd.ZstdError:
            return b""
    if action == 5:
        return data + data
    changed = bytearray(data)
    for _ in range(1 + choices.below(3)):
        if changed:
            changed[choices.below(len(changed))] ^= 1 << choices.below(8)
    return bytes(changed)


def made(data: bytes, tickets: list[Any]) -> tuple[int, bytes]:
    """Return the kind of network and the file that ``data`` decides."""
    choices = Choices(data)
    kind, said, places = copy.deepcopy(choices.of(tickets))
    for _ in range(1 + choices.below(3)):
        action = choices.below(10)
        if action < 5:
            said = spoil_json(said, choices) if isinstance(said, dict) and said else {"format": choices.of(HOSTILE)}
        elif action < 8 and places:
            place = places[choices.of(list(places))]
            place[2] = spoil_bytes(place[2], choices)
            if choices.one_in(2):
                place[1] = [len(place[2])]
        elif places:
            key = choices.of(list(places))
            place = places.pop(key)
            if choices.one_in(3):
                prefixes = ["mask:", "stored:", "", "other:", "masks.zstd", "levels.bits", "table", "stored"]
                key = choices.of(prefixes) + choices.of([str(item) for item in HOSTILE])
            if choices.one_in(3):
                place[choices.below(2)] = choices.of(HOSTILE)
            if not choices.one_in(4):
                places[key] = place
    return kind, packed(said, places, choices)


def packed(said: Any, places: dict[str, list[Any]], choices: Choices) -> bytes:
    """Return the file of a description and tensors; now and then its frame is wrong as well."""
    if isinstance(said, dict) and not choices.one_in(50):
        said = {"sha256": "0" * 64, **{key: value for key, value in said.items() if key != "sha256"}}
        if not choices.one_in(3):
            with suppress(Exception):  # where something that it is of is spoiled it cannot be known
                follow(said, places)
    if isinstance(said, dict) and said.get("format") in (4, 5) and not choices.one_in(60):
        table = as_json({key: said[key] for key in TABLE if key in said}, choices).encode()
        said = {key: value for key, value in said.items() if key not in TABLE}
        frame = zstd.compress(table) if not choices.one_in(20) else spoil_bytes(zstd.compress(table), choices)
        places = {"table": ["U8", [len(frame)], frame], **places}
    header = [f'"__metadata__":{{"strongticket":{json.dumps(as_json(said, choices))}}}']
    body = b""
    for key, (dtype, shape, data) in places.items():
        offsets: Any = [len(body), len(body) + len(data)]
        if choices.one_in(60):
            offsets = choices.of(([0, len(data)], [offsets[0], offsets[1] + 1], offsets[::-1], choices.of(HOSTILE)))
        body += data
        entry = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        header.append(f"{json.dumps(key)}:{as_json(entry, choices)}")
    if choices.one_in(60):
        header.append(choices.of(header))
    text = ("{" + ",".join(header) + "}").encode()
    length = (
        len(text) if not choices.one_in(100) else choices.of((0, 1, len(text) - 1, len(text) + 1, 2**40, 2**64 - 1))
    )
    file = bytearray(length.to_bytes(8, "little") + text + body)
    if choices.one_in(40):
        file += bytes(choices.below(5))
    if not choices.one_in(10) and len(file) >= DIGEST.stop:
        file[DIGEST] = hashlib.sha256(file[: DIGEST.start] + b"0" * 64 + file[DIGEST.stop :]).hexdigest().encode()
    elif file:
        file[choices._more.randrange(len(file))] ^= 1 << choices.below(8)
    return bytes(file)


def follow(said: dict[str, Any], places: dict[str, list[Any]]) -> None:
    """Let the numbers of a description follow what they are of, so that a reader goes on to what else is spoiled."""
    import safetensors.torch

    from strongticket.weights import digest

    masked = [tensor for tensor in said["tensors"].values() if tensor["mask"] is not None]
    said["kept"] = min(2**70, sum(tensor["mask"]["count"] for tensor in masked))
    said["total"] = min(2**70, sum(math.prod(tensor["shape"]) for tensor in masked))
    if said["format"] >= 4:
        follow_joined(said, places)
        return
    stored = {}
    for key, (dtype, shape, data) in places.items():
        if key.startswith("stored:"):
            entry = json.dumps({"x": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}}).encode()
            file = len(entry).to_bytes(8, "little") + entry + data
            stored[key.removeprefix("stored:")] = safetensors.torch.load(file)["x"]
    said["stored_digest"] = digest(stored)


def follow_joined(said: dict[str, Any], places: dict[str, list[Any]]) -> None:
    """Let the digest of stored tensors follow them in a description of version 4 or 5."""
    from strongticket.weights import digest

    stored, start = {}, 0
    for name, entry in said["stored"].items():
        dtype = getattr(torch, entry["dtype"])
        size = math.prod(entry["shape"]) * dtype.itemsize
        piece = bytearray(places["stored"][2][start : start + size])
        stored[name], start = torch.frombuffer(piece, dtype=dtype).reshape(entry["shape"]), start + size
    said["stored_digest"] = digest(stored)


class Tally:
    """Runs inputs, counts how they end, and keeps those that end as they must not."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.tickets = options, whole_tickets()
        self.outcomes: Counter[str] = Counter()
        self.findings: Counter[str] = Counter()
        self.slowest, self.started = 0.0, time.perf_counter()
        self.memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.how = "atheris" if atheris is not None and not options.random else "random"

    def run(self, data: bytes) -> None:
        from strongticket import apply
        from strongticket.errors import TicketError
        from strongticket.ticket import from_bytes

        kind, file = made(data, self.tickets)
        began = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                outcome = "refused"
                try:
                    ticket = from_bytes(file)
                    outcome = "loaded, but not applied"
                    apply(ticket, network(kind))
                    outcome = "applied"
                except TicketError as error:
                    if len(str(error).splitlines()) != 1 or len(str(error)) > 3000:
                        raise ValueError(
                            f"the message of an error is not one short line: {str(error)[:60]!r}"
                        ) from error
        except Exception as error:
            outcome = "finding"
            self._found(f"{type(error).__name__}: {error}"[:100], file)
        self.slowest = max(self.slowest, time.process_time() - began)
        self.outcomes[outcome] += 1
        if sum(self.outcomes.values()) % 20_000 == 0:
            print(json.dumps(self.result()), file=sys.stderr, flush=True)

    def _found(self, what: str, file: bytes) -> None:
        if not self.findings[what]:
            path = self.options.findings / hashlib.sha256(file).hexdigest()[:16]
            path.write_bytes(file)
            print(f"finding, kept in {path}:", file=sys.stderr)
            traceback.print_exc()
        self.findings[what] += 1

    def result(self) -> dict[str, Any]:
        return {
            "inputs": sum(self.outcomes.values()),
            "by": self.how,
            "outcomes": dict(self.outcomes),
            "findings": dict(self.findings),
            "seconds": round(time.perf_counter() - self.started, 1),
            "slowest_cpu_seconds": round(self.slowest, 3),
            "extra_memory_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self.memory) // 1024,
        }

    def finish(self) -> None:
        result = self.result()
        text = (
            json.dumps(result) if self.options.json else "\n".join(f"{key}: {value}" for key, value in result.items())
        )
        print(text, flush=True)
        sys.stdout.flush()


def main() -> None:
    """Fuzz, then say how the inputs ended; exit code 1 if there was a finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--random", action="store_true", help="random inputs even where atheris is installed")
    parser.add_argument("--findings", type=Path, default=Path("findings"))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.findings.mkdir(parents=True, exist_ok=True)
    if atheris is not None and not options.random:
        with atheris.instrument_imports(include=list(TARGETS)):
            import strongticket.ticket  # noqa: F401
        tally = Tally(options)

        def one(data: bytes) -> None:
            tally.run(data)
            if sum(tally.outcomes.values()) == options.inputs:
                tally.finish()
                os._exit(bool(tally.findings))  # an ordinary exit is a crash to the fuzzer

        arguments = [sys.argv[0], f"-seed={options.seed + 1}", "-max_len=256", "-len_control=0", "-print_final_stats=0"]
        atheris.Setup([*arguments, "-verbosity=0", "-rss_limit_mb=0", f"-artifact_prefix={options.findings}/"], one)
        atheris.Fuzz()
    tally = Tally(options)
    source = random.Random(options.seed)
    for _ in range(options.inputs):
        tally.run(source.randbytes(source.randrange(256)))
    tally.finish()
    sys.exit(bool(tally.findings))


if __name__ == "__main__":
    main()
