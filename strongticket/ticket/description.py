"""What a ticket file says of itself: one JSON object, read as strictly as it is written."""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from ..errors import ConfigError, TicketError
from ..masks import MOST_LEVELS, Levels
from ..weights import GRADIENTS, Binary, DrawnTensor, Gain, WeightLaw
from .coding import CODECS, STREAM_OF, CodedMask, CodedMasks
from .levels import key_of
from .strict import (
    LARGEST_INTEGER,
    as_json,
    check_keys,
    digest_in,
    integer_in,
    is_bounded,
    object_in,
    shown,
)

__all__ = [
    "FORMAT",
    "JOINED",
    "LEVELLED",
    "STORED_DTYPES",
    "TABLE",
    "Description",
    "StoredTensor",
    "check_format",
    "check_name",
    "dtype_name",
    "edge_count",
    "read",
]

FORMAT = 5
JOINED = 4  # the version from which on masks share streams, and what grows with the network is a table
LEVELLED = 5  # what only tickets with levels are written in: earlier releases read all others
_READABLE = (1, 2, 3, 4, 5)  # 1 knew no binary networks, 2 no codec 'ans', and 3 held every tensor by itself

_DESCRIPTION = (
    "sha256",
    "format",
    "seed",
    "law",
    "weights_digest",
    "stored_digest",
    "masks_digest",
    "levels",
    "levels_digest",
    "kept",
    "total",
    "search",
    "model",
    "provenance",
)
# What grows with the network; part of the description before 4.
TABLE = ("tensors", "stored", "trained", "binary", "above")
_SINCE = {"binary": 2, "masks_digest": 4, "stored": 4, "levels": 5, "levels_digest": 5, "above": 5}
STORED_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
}
"""The dtypes that a stored tensor may have, by their names in the file."""
_NOTHING_ABOVE = CodedMasks({}, hashlib.sha256().hexdigest(), {}, "levels")
_EXAMPLES = {"tensor": "conv1.weight", "module": "layer1.relu"}
_VERSIONS = f"versions {_READABLE[0]} to {FORMAT}"
_LONGEST_NAME = 1024
_MOST_TENSORS = 1 << 13  # of a table, with the masks of levels: where one takes few bytes, each takes time to read
_LARGEST_SHAPE = 2**48
_MOST_DIMENSIONS = 64


@dataclass(frozen=True)
class StoredTensor:
    """How one stored tensor stands among the others."""

    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Description:
    """What is read from the JSON: the fields of ``Ticket``, with coded masks for masks.

    ``coded`` has the masks in groups that share their bytes, which are still missing: all in one group, or one by one
    in versions before 4. ``above`` has those of ``levels``, without masks where there are none. ``stored`` says how
    stored tensors stand behind each other, None in versions before 4.
    """

    seed: int
    law: WeightLaw
    tensors: dict[str, DrawnTensor]
    coded: tuple[CodedMasks, ...]
    levels: Levels | None
    above: CodedMasks
    weights_digest: str
    stored_digest: str
    stored: dict[str, StoredTensor] | None
    trained: tuple[str, ...]
    binary: Binary
    search: dict[str, Any]
    model: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def masks(self) -> dict[str, CodedMask]:
        """How each mask is coded, by the name of its tensor."""
        return {name: mask for group in self.coded for name, mask in group.masks.items()}

    @property
    def total(self) -> int:
        """Number of edges that the masks decide over."""
        return sum(math.prod(self.tensors[name].shape) for name in self.masks)

    @property
    def shapes_above(self) -> dict[str, tuple[int]]:
        """Shapes of the masks of levels: each is over the edges that have the level below."""
        shapes = {}
        for name, mask in self.masks.items():
            level, below = 2, mask.count
            while (key := key_of(name, level)) in self.above.masks:
                shapes[key] = (below,)
                level, below = level + 1, self.above.masks[key].count
        return shapes

    @property
    def claimed(self) -> int:
        """Number of edges of all masks, those of levels counted again."""
        return self.total + sum(size for (size,) in self.shapes_above.values())


def check_format(description: Mapping[str, Any]) -> None:
    """Raise TicketError unless this release reads the format version that is named."""
    version = description.get("format")
    if type(version) is not int:
        raise TicketError(f"the ticket names format version {shown(version)}; this release reads {_VERSIONS}")
    if version not in _READABLE:
        newer = "; update strongticket" if version > FORMAT else ""
        raise TicketError(f"the ticket has format version {shown(version)}, this release reads {_VERSIONS}{newer}")


def read(said: Mapping[str, Any], table: Mapping[str, Any] | None = None) -> Description:
    """Return what the JSON objects of a readable version say; TicketError, naming the place, for whatever is odd.

    ``table`` is for version 4 and those behind it.
    """
    version: int = said["format"]
    expected = [key for key in (*_DESCRIPTION, *TABLE) if _SINCE.get(key, 1) <= version]
    if table is not None:
        check_keys(said, "the ticket", [key for key in expected if key in _DESCRIPTION], version)
        check_keys(table, "the table", [key for key in expected if key in TABLE], version)
        if (count := len(object_in(table["tensors"], "tensors"))) > _MOST_TENSORS:
            raise TicketError(f"the ticket has {count} tensors; expected at most {_MOST_TENSORS}")
        said = {**said, **table}
    else:
        check_keys(said, "the ticket", expected, version)
    tensors: dict[str, DrawnTensor] = {}
    masks: dict[str, CodedMask] = {}
    digests: dict[str, str] = {}
    for name, value in object_in(said["tensors"], "tensors").items():
        check_name(name)
        where = f"tensors.{name}"
        fields = object_in(value, where)
        tensors[name] = _tensor(fields, where, version)
        if tensors[name].masked:
            total = math.prod(tensors[name].shape)
            masks[name] = _mask(fields["mask"], total, f"{where}.mask", version)
            if version < JOINED:
                digests[name] = digest_in(fields["mask"]["sha256"], f"{where}.mask.sha256")
    if not masks:
        raise TicketError("the ticket has no mask; expected one tensor with a mask at least")
    if version >= JOINED:
        coded = [_coded(masks, digest_in(said["masks_digest"], "masks_digest"))]
    else:
        coded = [_coded({name: mask}, digests[name]) for name, mask in masks.items()]
    found = Description(
        seed=integer_in(said["seed"], "seed", most=2**64 - 1),
        law=_law(said["law"], version),
        tensors=tensors,
        coded=tuple(coded),
        levels=_levels(said["levels"]) if version >= LEVELLED else None,
        above=_above(said, masks, version) if version >= LEVELLED else _NOTHING_ABOVE,
        weights_digest=digest_in(said["weights_digest"], "weights_digest"),
        stored_digest=digest_in(said["stored_digest"], "stored_digest"),
        stored=_stored(said["stored"], version) if version >= JOINED else None,
        trained=_names(said["trained"], "trained"),
        binary=Binary() if version == 1 else _binary(said["binary"], version),
        search=_free(said["search"], "search"),
        model=_free(said["model"], "model"),
        provenance=_free(said["provenance"], "provenance"),
    )
    for key, counted in (("kept", sum(mask.count for mask in masks.values())), ("total", found.total)):
        if integer_in(said[key], key, most=LARGEST_INTEGER) != counted:
            raise TicketError(f"{key} is {said[key]}, the tensors' own numbers add up to {counted}")
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
        extent *= max(1, integer_in(size, where, most=_LARGEST_SHAPE))
        if extent > _LARGEST_SHAPE:
            raise TicketError(f"{where} is {shown(shape)}; expected at most 2**48 values")
    return math.prod(shape)


def _tensor(fields: Mapping[str, Any], where: str, version: object) -> DrawnTensor:
    check_keys(fields, where, ("shape", "dtype", "scale", "mask"), version)
    edge_count(fields["shape"], f"{where}.shape")
    dtype = _dtype(fields["dtype"])
    if dtype is None or not dtype.is_floating_point:
        raise TicketError(f"{where}.dtype is {shown(fields['dtype'])}; expected a floating type such as float32")
    scale = fields["scale"]
    if type(scale) not in (int, float) or not 0 < scale <= sys.float_info.max:
        raise TicketError(f"{where}.scale is {shown(scale)}; expected a positive finite number")
    return DrawnTensor(tuple(fields["shape"]), fields["dtype"], float(scale), masked=fields["mask"] is not None)


def _mask(value: object, total: int, where: str, version: int) -> CodedMask:
    fields = object_in(value, where)
    check_keys(fields, where, ("codec", "count") if version >= JOINED else ("codec", "count", "sha256"), version)
    known = [codec for codec in CODECS if codec != "ans" or version >= 3]
    if not isinstance(fields["codec"], str) or fields["codec"] not in known:
        raise TicketError(f"{where}.codec is {shown(fields['codec'])}; format version {version} has {', '.join(known)}")
    if not total:
        raise TicketError(f"{where} is of a tensor without values; expected null")
    return CodedMask(fields["codec"], integer_in(fields["count"], f"{where}.count", most=total))


def _levels(value: object) -> Levels:
    for levels in get_args(Levels):
        if value == levels:
            return levels  # type: ignore[no-any-return]
    raise TicketError(f"levels is {shown(value)}; expected {' or '.join(map(repr, get_args(Levels)))}")


def _above(said: Mapping[str, Any], masks: Mapping[str, CodedMask], version: int) -> CodedMasks:
    """Return the masks of levels, by key, out of a list for each tensor that has one."""
    lists, found = object_in(said["above"], "above"), {}
    for name, entries in lists.items():
        if name not in masks:
            raise TicketError(f"above.{shown(name)} is of no tensor with a mask")
        if not isinstance(entries, list) or not 0 < len(entries) < MOST_LEVELS:
            raise TicketError(f"above.{name} is {shown(entries)}; expected a list of 1 to {MOST_LEVELS - 1} masks")
    if (count := len(said["tensors"]) + sum(map(len, lists.values()))) > _MOST_TENSORS:
        raise TicketError(f"the ticket has {count} tensors and masks of levels; expected at most {_MOST_TENSORS}")
    if list(lists) != [name for name in masks if name in lists]:
        raise TicketError("above has tensors in another order than their masks; expected the same")
    for name, entries in lists.items():
        if not (below := masks[name].count):
            raise TicketError(f"above.{name} is of a mask that keeps no edge; expected no list")
        for level, entry in enumerate(entries, start=2):
            mask = _mask(entry, below, f"above.{name}.{level}", version)
            if not mask.count:
                raise TicketError(f"above.{name}.{level} keeps no edge; expected no entry")
            found[key_of(name, level)], below = mask, mask.count
    return _coded(found, digest_in(said["levels_digest"], "levels_digest"), "levels")


def _coded(masks: dict[str, CodedMask], sha256: str, kind: str = "masks") -> CodedMasks:
    return CodedMasks(masks, sha256, {STREAM_OF[mask.codec]: b"" for mask in masks.values()}, kind)


def _stored(value: object, version: object) -> dict[str, StoredTensor]:
    found = {}
    for name, entry in object_in(value, "stored").items():
        check_name(name)
        where = f"stored.{name}"
        fields = object_in(entry, where)
        check_keys(fields, where, ("dtype", "shape"), version)
        edge_count(fields["shape"], f"{where}.shape")
        dtype = _dtype(fields["dtype"])
        if dtype is None or dtype not in STORED_DTYPES.values():
            raise TicketError(f"{where}.dtype is {shown(fields['dtype'])}; expected a type of torch such as float32")
        found[name] = StoredTensor(dtype, tuple(fields["shape"]))
    return found


def _dtype(name: object) -> torch.dtype | None:
    """Return torch's type of that name, None if there is none."""
    dtype = getattr(torch, name, None) if isinstance(name, str) else None
    return dtype if isinstance(dtype, torch.dtype) and dtype_name(dtype) == name else None


def dtype_name(dtype: torch.dtype) -> str:
    """Return what torch's type is called in a file."""
    return str(dtype).removeprefix("torch.")


def _law(value: object, version: object) -> WeightLaw:
    fields = object_in(value, "law")
    check_keys(fields, "law", tuple(WeightLaw().to_dict()), version)
    for key, inner in fields.items():  # what WeightLaw refuses stands in its error as a whole
        is_long = len(inner) > 60 if isinstance(inner, str) else bool(inner) and isinstance(inner, list | dict)
        if is_long or (isinstance(inner, int) and not is_bounded(inner)):
            raise TicketError(f"law.{key} is {shown(inner)}; expected a short text, a number, true, false or null")
    try:
        return WeightLaw.from_dict(fields)
    except ConfigError as error:
        raise TicketError(f"law: {error}") from None


def _binary(value: object, version: object) -> Binary:
    fields = object_in(value, "binary")
    check_keys(fields, "binary", ("gain", "activations"), version)
    gain = fields["gain"]
    if gain is not None and gain not in get_args(Gain):
        raise TicketError(f"binary.gain is {shown(gain)}; expected null, {' or '.join(get_args(Gain))}")
    activations = object_in(fields["activations"], "binary.activations")
    for name, gradient in activations.items():
        check_name(name, "module")
        if not isinstance(gradient, str) or gradient not in GRADIENTS:
            raise TicketError(
                f"binary.activations.{name} is {shown(gradient)}; this release reads {', '.join(GRADIENTS)}"
            )
    return Binary(gain, activations)


def _names(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value) or len(set(value)) != len(value):
        raise TicketError(f"{where} is {shown(value)}; expected a list of different names")
    return tuple(value)


def _free(value: object, where: str) -> dict[str, Any]:
    fields: dict[str, Any] = as_json(object_in(value, where), where)
    return fields
