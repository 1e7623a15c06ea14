"""What a ticket file says of itself: one JSON object, read as strictly as it is written."""

from __future__ import annotations

import json
import math
import reprlib
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, get_args

import torch

from ..errors import ConfigError, TicketError
from ..weights import GRADIENTS, Binary, DrawnTensor, Gain, WeightLaw
from .coding import CODECS, EncodedMask
from .ticket import Ticket

__all__ = ["FORMAT", "Description", "check_format", "check_name", "describe", "edge_count", "parse", "read", "shown"]

FORMAT = 3
_READABLE = (1, 2, 3)  # version 1 knew no binary networks, version 2 no codec 'ans'

_KEYS = (
    "sha256",
    "format",
    "seed",
    "law",
    "weights_digest",
    "stored_digest",
    "kept",
    "total",
    "tensors",
    "trained",
    "binary",
    "search",
    "model",
    "provenance",
)
_EXAMPLES = {"tensor": "conv1.weight", "module": "layer1.relu"}
_VERSIONS = f"versions {_READABLE[0]} to {FORMAT}"
_DEEPEST = 64
_MOST_VALUES = 1 << 18  # what fits a header of honest masks; an empty list takes three bytes of text and 64 of memory
_LONGEST_NAME = 1024
_LARGEST_INTEGER = 2**64
_LARGEST_SHAPE = 2**48
_MOST_DIMENSIONS = 64
_REPR = reprlib.Repr()
_REPR.maxstring, _REPR.maxlist, _REPR.maxdict, _REPR.maxlevel = 60, 8, 2, 1


@dataclass(frozen=True)
class Description:
    """What is read from the JSON: the fields of ``Ticket``, with coded masks (their data still empty) for masks."""

    seed: int
    law: WeightLaw
    tensors: dict[str, DrawnTensor]
    masks: dict[str, EncodedMask]
    weights_digest: str
    stored_digest: str
    trained: tuple[str, ...]
    binary: Binary
    search: dict[str, Any]
    model: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def total(self) -> int:
        """Number of edges that the masks decide over."""
        return sum(math.prod(self.tensors[name].shape) for name in self.masks)


def describe(ticket: Ticket, masks: Mapping[str, EncodedMask], *, stored_digest: str) -> str:
    """Return the JSON of a ticket, its ``sha256`` being 64 zeros; TicketError for what JSON cannot hold.

    Equal tickets give equal text: keys stand in a fixed order, tensors in the order of the ticket. The format
    version is the lowest that has all of it, so that older releases read what they can.
    """
    tensors = {}
    for name, tensor in ticket.tensors.items():
        coded = masks.get(name)
        mask = {"codec": coded.codec, "count": coded.count, "sha256": coded.sha256} if coded else None
        scale = float(tensor.scale)
        tensors[name] = {"shape": list(tensor.shape), "dtype": tensor.dtype, "scale": scale, "mask": mask}
    version = FORMAT if any(coded.codec == "ans" for coded in masks.values()) else 2
    values = (
        "0" * 64,
        version,
        ticket.seed,
        ticket.law.to_dict(),
        ticket.weights_digest,
        stored_digest,
        ticket.kept,
        ticket.total,
        tensors,
        list(ticket.trained),
        {"gain": ticket.binary.gain, "activations": ticket.binary.activations},
        ticket.search,
        ticket.model,
        ticket.provenance,
    )
    description = {key: _json_value(value, key) for key, value in zip(_KEYS, values, strict=True)}
    return json.dumps(description, allow_nan=False, separators=(",", ":"))


def parse(text: str, what: str) -> dict[str, Any]:
    """Return the JSON object in ``text``; TicketError, naming ``what`` it is, for anything else.

    Unlike Python's own reader this refuses NaN, a key that stands twice, nesting that would end in RecursionError,
    and more than 2¹⁸ values.
    """
    if sum(text.count(mark) for mark in ",[{") > _MOST_VALUES:  # at least as many as there are values
        raise TicketError(f"{what} has more values than a ticket's")
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError:
        raise TicketError(f"{what} is nested too deep to be a ticket's") from None
    except ValueError as error:
        raise TicketError(f"{what} is no JSON ({error})") from None
    if not isinstance(value, dict):
        raise TicketError(f"{what} is {shown(value)}; expected a JSON object")
    return value


def check_format(description: Mapping[str, Any]) -> None:
    """Raise TicketError unless this release reads the format version that is named."""
    version = description.get("format")
    if type(version) is not int:
        raise TicketError(f"the ticket names format version {shown(version)}; this release reads {_VERSIONS}")
    if version not in _READABLE:
        newer = "; update strongticket" if version > FORMAT else ""
        raise TicketError(f"the ticket has format version {shown(version)}, this release reads {_VERSIONS}{newer}")


def read(description: Mapping[str, Any]) -> Description:
    """Return what a JSON object of a readable version says; TicketError, naming the place, for whatever is odd."""
    version = description.get("format")
    _keys(description, "the ticket", [key for key in _KEYS if (version, key) != (1, "binary")], version)
    tensors: dict[str, DrawnTensor] = {}
    masks: dict[str, EncodedMask] = {}
    for name, value in _object(description["tensors"], "tensors").items():
        check_name(name)
        tensors[name], coded = _tensor(value, f"tensors.{name}", version)
        if coded is not None:
            masks[name] = coded
    if not masks:
        raise TicketError("the ticket has no mask; expected one tensor with a mask at least")
    found = Description(
        seed=_integer(description["seed"], "seed", most=2**64 - 1),
        law=_law(description["law"], version),
        tensors=tensors,
        masks=masks,
        weights_digest=_digest(description["weights_digest"], "weights_digest"),
        stored_digest=_digest(description["stored_digest"], "stored_digest"),
        trained=_names(description["trained"], "trained"),
        binary=Binary() if version == 1 else _binary(description["binary"], version),
        search=_free(description["search"], "search"),
        model=_free(description["model"], "model"),
        provenance=_free(description["provenance"], "provenance"),
    )
    for key, counted in (("kept", sum(mask.count for mask in masks.values())), ("total", found.total)):
        if _integer(description[key], key, most=_LARGEST_INTEGER) != counted:
            raise TicketError(f"{key} is {description[key]}, the tensors' own numbers add up to {counted}")
    return found


def check_name(name: str, kind: Literal["tensor", "module"] = "tensor") -> None:
    """Raise TicketError unless ``name`` can be one of a tensor or a module: printable parts with dots between them."""
    if not (len(name) <= _LONGEST_NAME and name.isprintable() and not name.startswith("/") and all(name.split("."))):
        raise TicketError(f"{shown(name)} cannot be the name of a {kind}; expected one such as {_EXAMPLES[kind]}")


def edge_count(shape: object, where: str) -> int:
    """Return the number of values of a JSON ``shape``; TicketError if it is none, or none that fits a computer."""
    if not isinstance(shape, list) or len(shape) > _MOST_DIMENSIONS:
        raise TicketError(f"{where} is {shown(shape)}; expected a list of at most {_MOST_DIMENSIONS} sizes")
    extent = 1
    for size in shape:
        # Strides are computed from the other sizes even where one is zero.
        extent *= max(1, _integer(size, where, most=_LARGEST_SHAPE))
        if extent > _LARGEST_SHAPE:
            raise TicketError(f"{where} is {shown(shape)}; expected at most 2**48 values")
    return math.prod(shape)


def shown(value: object) -> str:
    """Return ``value`` for an error message: in one line, in ASCII, and not for long."""
    if isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
        return "an integer beyond ±2**64"
    return _REPR.repr(value).encode("ascii", "backslashreplace").decode()


def _tensor(value: object, where: str, version: object) -> tuple[DrawnTensor, EncodedMask | None]:
    fields = _object(value, where)
    _keys(fields, where, ("shape", "dtype", "scale", "mask"), version)
    total = edge_count(fields["shape"], f"{where}.shape")
    dtype = getattr(torch, fields["dtype"], None) if isinstance(fields["dtype"], str) else None
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point or str(dtype) != f"torch.{fields['dtype']}":
        raise TicketError(f"{where}.dtype is {shown(fields['dtype'])}; expected a floating type such as float32")
    scale = fields["scale"]
    if type(scale) not in (int, float) or not 0 < scale <= sys.float_info.max:
        raise TicketError(f"{where}.scale is {shown(scale)}; expected a positive finite number")
    masked = fields["mask"] is not None
    drawn = DrawnTensor(tuple(fields["shape"]), fields["dtype"], float(scale), masked=masked)
    return drawn, _mask(fields["mask"], total, f"{where}.mask", version) if masked else None


def _mask(value: object, total: int, where: str, version: object) -> EncodedMask:
    fields = _object(value, where)
    _keys(fields, where, ("codec", "count", "sha256"), version)
    known = [codec for codec in CODECS if codec != "ans" or version == FORMAT]
    if not isinstance(fields["codec"], str) or fields["codec"] not in known:
        raise TicketError(f"{where}.codec is {shown(fields['codec'])}; format version {version} has {', '.join(known)}")
    if not total:
        raise TicketError(f"{where} is of a tensor without values; expected null")
    count = _integer(fields["count"], f"{where}.count", most=total)
    return EncodedMask(fields["codec"], count, _digest(fields["sha256"], f"{where}.sha256"), b"")


def _law(value: object, version: object) -> WeightLaw:
    fields = _object(value, "law")
    _keys(fields, "law", tuple(WeightLaw().to_dict()), version)
    for key, inner in fields.items():  # what WeightLaw refuses stands in its error as a whole
        is_long = len(inner) > 60 if isinstance(inner, str) else bool(inner) and isinstance(inner, list | dict)
        if is_long or (isinstance(inner, int) and not _is_bounded(inner)):
            raise TicketError(f"law.{key} is {shown(inner)}; expected a short text, a number, true, false or null")
    try:
        return WeightLaw.from_dict(fields)
    except ConfigError as error:
        raise TicketError(f"law: {error}") from None


def _binary(value: object, version: object) -> Binary:
    fields = _object(value, "binary")
    _keys(fields, "binary", ("gain", "activations"), version)
    gain = fields["gain"]
    if gain is not None and gain not in get_args(Gain):
        raise TicketError(f"binary.gain is {shown(gain)}; expected null, {' or '.join(get_args(Gain))}")
    activations = _object(fields["activations"], "binary.activations")
    for name, gradient in activations.items():
        check_name(name, "module")
        if not isinstance(gradient, str) or gradient not in GRADIENTS:
            raise TicketError(
                f"binary.activations.{name} is {shown(gradient)}; this release reads {', '.join(GRADIENTS)}"
            )
    return Binary(gain, activations)


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TicketError(f"{where} is {shown(value)}; expected a JSON object")
    return value


def _keys(fields: Mapping[str, Any], where: str, expected: Collection[str], version: object) -> None:
    for key in expected:
        if key not in fields:
            raise TicketError(f"{where} has no key {key!r}; format version {version} has {', '.join(expected)}")
    for key in fields:
        if key not in expected:
            raise TicketError(
                f"{where} has an unknown key {shown(key)}; format version {version} has {', '.join(expected)}"
            )


def _integer(value: object, where: str, *, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise TicketError(f"{where} is {shown(value)}; expected an integer from 0 to {most}")
    return value


def _digest(value: object, where: str) -> str:
    if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise TicketError(f"{where} is {shown(value)}; expected a SHA-256 as 64 hexadecimal digits")
    return value


def _names(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value) or len(set(value)) != len(value):
        raise TicketError(f"{where} is {shown(value)}; expected a list of different names")
    return tuple(value)


def _free(value: object, where: str) -> dict[str, Any]:
    fields: dict[str, Any] = _json_value(_object(value, where), where)
    return fields


def _json_value(value: object, where: str, depth: int = 0) -> Any:
    """Return a copy of ``value`` as it would be read back from JSON; TicketError, naming the place, if it would not."""
    if depth > _DEEPEST:
        raise TicketError(f"{where.split('.')[0]} is nested deeper than {_DEEPEST} levels")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TicketError(f"{where} has the key {shown(key)}; expected strings for keys")
        return {key: _json_value(inner, f"{where}.{_plain(key)}", depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [
            inner if _is_plain(inner) else _json_value(inner, f"{where}.{index}", depth + 1)
            for index, inner in enumerate(value)
        ]
    if isinstance(value, int | float) and not _is_bounded(value):
        raise TicketError(f"{where} is {shown(value)}; expected a finite number, or an integer within ±2**64")
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TicketError(f"{where} is of type {type(value).__name__}; expected JSON values only")


def _is_plain(value: object) -> bool:
    """Whether ``value`` is one that JSON gives back as it is, and holds no others: lists of these are long."""
    kind = type(value)
    return kind is str or kind is bool or value is None or (isinstance(value, int | float) and _is_bounded(value))


def _is_bounded(number: float) -> bool:
    return abs(number) <= _LARGEST_INTEGER if isinstance(number, int) else math.isfinite(number)


def _plain(key: str) -> str:
    return key if key.isprintable() and len(key) <= 60 else shown(key)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {shown(twice)} stands twice")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
