"""The JSON of a ticket: what is written is read back, and whatever is odd is refused by its place."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strongticket.errors import TicketError
from strongticket.ticket.coding import CodedMask, CodedMasks
from strongticket.ticket.describing import describe
from strongticket.ticket.description import (
    Description,
    StoredTensor,
    check_format,
    check_name,
    edge_count,
    read,
)
from strongticket.ticket.ticket import Ticket
from strongticket.weights import Binary, DrawnTensor, WeightLaw

A, B, C = "a" * 64, "b" * 64, "c" * 64
TICKET = Ticket(
    seed=2**64 - 1,
    law=WeightLaw(gain=0.1),
    tensors={
        "fc.weight": DrawnTensor((2, 3), "float32", 0.1),
        "head": DrawnTensor((1, 2), "bfloat16", 3.0, masked=False),
    },
    masks={"fc.weight": torch.tensor([[True, False, True], [False, False, False]])},
    weights_digest=A,
    stored={"norm.var": torch.ones(3), "act": torch.ones(2, 2, dtype=torch.bool)},
    trained=("norm.var",),
    binary=Binary("channel", {"body.act": "bi-real", "0": "clipped-identity"}),
    search={"rule": "edge-popup", "density": {"fc*": 1 / 3}, "floor": 0.0},
    model={"name": "mlp", "width": None},
    provenance={"command": ["strongticket", "search"], "note": "µ\n\ud800"},
)
MASKS = CodedMasks({"fc.weight": CodedMask("bits", 2)}, B, {"bits": b"\x05"})
SAID: dict[str, Any] = {
    "sha256": "0" * 64,
    "format": 4,
    "seed": 18446744073709551615,
    "law": {"kind": "signed-constant", "gain": 0.1, "fan": "in", "scale_by_density": False},
    "weights_digest": A,
    "stored_digest": C,
    "masks_digest": B,
    "kept": 2,
    "total": 6,
    "search": {"rule": "edge-popup", "density": {"fc*": 1 / 3}, "floor": 0.0},
    "model": {"name": "mlp", "width": None},
    "provenance": {"command": ["strongticket", "search"], "note": "µ\n\ud800"},
}
TABLE: dict[str, Any] = {
    "tensors": {
        "fc.weight": {"shape": [2, 3], "dtype": "float32", "scale": 0.1, "mask": {"codec": "bits", "count": 2}},
        "head": {"shape": [1, 2], "dtype": "bfloat16", "scale": 3.0, "mask": None},
    },
    "stored": {"act": {"dtype": "bool", "shape": [2, 2]}, "norm.var": {"dtype": "float32", "shape": [3]}},
    "trained": ["norm.var"],
    "binary": {"gain": "channel", "activations": {"body.act": "bi-real", "0": "clipped-identity"}},
}


def described(**changes: Any) -> tuple[str, str]:
    return describe(replace(TICKET, **changes), MASKS, stored_digest=C)


def read_again(**changes: Any) -> Description:
    said, table = described(**changes)
    return read(json.loads(said), json.loads(table))


def in_version(version: int) -> dict[str, Any]:
    """What a file of a version before 4 says of the same ticket, of real weights in version 1."""
    said = copy.deepcopy({**SAID, **TABLE}) | {"format": version}
    said["tensors"]["fc.weight"]["mask"]["sha256"] = B
    for key in ("masks_digest", "stored", *(["binary"] if version == 1 else [])):
        del said[key]
    return said


def test_the_texts_are_the_json_by_hand() -> None:
    for text, by_hand in zip(described(), (SAID, TABLE), strict=True):
        assert json.loads(text) == by_hand
        assert list(json.loads(text)) == list(by_hand)
        assert text.isascii()
    assert described()[0].startswith('{"sha256":"' + "0" * 64 + '","format":4,"seed":18446744073709551615,')


def test_what_was_described_is_read() -> None:
    found = read_again()
    assert (found.seed, found.law, found.tensors) == (TICKET.seed, TICKET.law, TICKET.tensors)
    assert found.coded == (CodedMasks({"fc.weight": CodedMask("bits", 2)}, B, {"bits": b""}),)
    assert found.stored == {"act": StoredTensor(torch.bool, (2, 2)), "norm.var": StoredTensor(torch.float32, (3,))}
    assert (found.weights_digest, found.stored_digest, found.trained) == (A, C, ("norm.var",))
    assert (found.binary, list(found.binary.activations)) == (TICKET.binary, ["body.act", "0"])
    assert (found.search, found.model, found.provenance) == (TICKET.search, TICKET.model, TICKET.provenance)
    assert found.total == 6


@given(scale=st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False))
def test_scales_and_gains_come_back_bit_for_bit(scale: float) -> None:
    tensors = {"fc.weight": DrawnTensor((2, 3), "float32", scale)}
    found = read_again(tensors=tensors, law=WeightLaw(gain=scale))
    assert found.tensors["fc.weight"].scale.hex() == scale.hex()
    assert found.law.gain is not None
    assert found.law.gain.hex() == scale.hex()


def test_the_order_of_tensors_is_kept() -> None:
    names = ["z", "fc.weight", "a"]
    tensors = {name: DrawnTensor((2, 3), "float32", 1.0, masked=name in MASKS.masks) for name in names}
    assert list(read_again(tensors=tensors).tensors) == names


def test_tuples_become_lists() -> None:
    assert read_again(model={"shape": (1, 2)}).model == {"shape": [1, 2]}


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"deeper": value}
    return value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"path": object()}}, r"model\.path is of type object; expected JSON values only"),
        ({"model": {"path": {1: 2}}}, r"model\.path has the key 1; expected strings for keys"),
        ({"search": {"density": [0.5, math.nan]}}, r"search\.density\.1 is nan; expected a finite number"),
        ({"provenance": {"x": -math.inf}}, r"provenance\.x is -inf; expected a finite number"),
        ({"provenance": {"x": 10**5000}}, r"provenance\.x is an integer beyond ±2\*\*64; expected a finite"),
        ({"provenance": {"x\ny": {1}}}, r"provenance\.'x\\ny' is of type set; expected JSON values only"),
        ({"provenance": nested(65)}, r"provenance is nested deeper than 64 levels"),
        ({"seed": torch.tensor(1)}, r"seed is of type Tensor; expected JSON values only"),
    ],
)
def test_what_json_cannot_hold_is_refused_by_its_place(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TicketError, match=rf"^{message}") as caught:
        described(**changes)
    assert "\n" not in str(caught.value)


def test_sixty_four_levels_are_held() -> None:
    assert read_again(model=nested(64)).model == nested(64)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (6, r"the ticket has format version 6, this release reads versions 1 to 5; update strongticket$"),
        (0, r"the ticket has format version 0, this release reads versions 1 to 5$"),
        (-1, r"the ticket has format version -1, this release reads versions 1 to 5$"),
        (10**400, r"the ticket has format version an integer beyond ±2\*\*64, this release reads versions 1 to 5; upd"),
        (True, r"the ticket names format version True; this release reads versions 1 to 5$"),
        ("1", r"the ticket names format version '1'; this release reads versions 1 to 5$"),
        (2.0, r"the ticket names format version 2\.0; this release reads versions 1 to 5$"),
        (None, r"the ticket names format version None; this release reads versions 1 to 5$"),
    ],
)
def test_another_format_version_is_refused_by_its_number(version: object, message: str) -> None:
    with pytest.raises(TicketError, match=rf"^{message}"):
        check_format({"format": version})


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_every_format_version_so_far_is_read(version: int) -> None:
    check_format({"format": version})


def test_a_description_without_format_version_is_refused() -> None:
    with pytest.raises(TicketError, match="names format version None"):
        check_format({})


def at(*path: str, value: Any = None, drop: bool = False) -> Callable[[dict[str, Any]], None]:
    """Return a change of one place in the JSON."""

    def change(said: dict[str, Any]) -> None:
        for key in path[:-1]:
            said = said[key]
        if drop:
            del said[path[-1]]
        else:
            said[path[-1]] = value

    return change


@pytest.mark.parametrize("version", [1, 2, 3])
def test_versions_before_4_say_the_same_but_for_the_place_of_things(version: int) -> None:
    new, old = read(SAID, TABLE), read(in_version(version))
    assert old.stored is None
    assert old.binary == (Binary(None, {}) if version == 1 else TICKET.binary)
    assert new == replace(old, stored=new.stored, binary=new.binary)


def test_before_version_4_each_mask_has_its_digest() -> None:
    said = in_version(3)
    said["tensors"]["head"]["mask"] = {"codec": "ans", "count": 1, "sha256": C}
    said |= {"kept": 3, "total": 8}
    assert read(said).coded == (
        CodedMasks({"fc.weight": CodedMask("bits", 2)}, B, {"bits": b""}),
        CodedMasks({"head": CodedMask("ans", 1)}, C, {"ans": b""}),
    )
    assert set(read(said).masks) == {"fc.weight", "head"}


@pytest.mark.parametrize("version", [1, 2])
def test_the_codec_ans_came_with_version_3(version: int) -> None:
    said = in_version(version)
    said["tensors"]["fc.weight"]["mask"]["codec"] = "ans"
    with pytest.raises(
        TicketError, match=rf"mask\.codec is 'ans'; format version {version} has bits, zstd-bits, zstd-gaps$"
    ):
        read(said)


def test_a_key_of_another_version_is_refused() -> None:
    front = "sha256, format, seed, law, weights_digest, stored_digest, "
    behind = "kept, total, search, model, provenance"
    for said, table, message in (
        (
            in_version(2) | {"format": 1},
            None,
            f"unknown key 'binary'; format version 1 has {front}{behind}, tensors, t",
        ),
        (in_version(1) | {"format": 2}, None, f"no key 'binary'; format version 2 has {front}{behind}, tensors, train"),
        (in_version(2) | {"stored": {}}, None, f"unknown key 'stored'; format version 2 has {front}{behind}, tensors"),
        (in_version(3) | {"masks_digest": A}, None, "unknown key 'masks_digest'; format version 3 has sha256"),
        ({**SAID, "trained": []}, TABLE, f"unknown key 'trained'; format version 4 has {front}masks_digest, {behind}"),
    ):
        with pytest.raises(TicketError) as caught:
            read(said, table)
        assert str(caught.value).startswith(("the ticket has an ", "the ticket has "))
        assert message in str(caught.value)
    for table in ({**TABLE, "seed": 1}, {key: TABLE[key] for key in TABLE if key != "binary"}):
        with pytest.raises(
            TicketError, match=r"^the table has (an unknown key 'seed'|no key 'binary'); format version 4"
        ):
            read(SAID, table)
    mask = copy.deepcopy(TABLE)
    mask["tensors"]["fc.weight"]["mask"]["sha256"] = A
    with pytest.raises(TicketError, match=r"mask has an unknown key 'sha256'; format version 4 has codec, count$"):
        read(SAID, mask)


def test_whatever_is_odd_in_version_1_is_refused_as_such() -> None:
    for change, place, keys in (
        (at("extra"), "the ticket has an unknown key 'extra'", "sha256"),
        (at("law", "df"), "law has an unknown key 'df'", "kind"),
        (at("tensors", "head", "x"), "tensors.head has an unknown key 'x'", "shape"),
        (at("tensors", "fc.weight", "mask", "x"), "tensors.fc.weight.mask has an unknown key 'x'", "codec"),
        (at("tensors", "head", "mask", drop=True), "tensors.head has no key 'mask'", "shape"),
    ):
        said = in_version(1)
        change(said)
        with pytest.raises(TicketError) as caught:
            read(said)
        assert str(caught.value).startswith(f"{place}; format version 1 has {keys}, ")


@given(
    gain=st.sampled_from([None, "layer", "channel"]),
    activations=st.dictionaries(
        st.text("abc.µ 09", min_size=1, max_size=9).filter(lambda name: all(name.split("."))),
        st.sampled_from(["bi-real", "clipped-identity"]),
        max_size=4,
    ),
)
def test_what_is_binary_comes_back(gain: Any, activations: dict[str, str]) -> None:
    binary = Binary(gain, activations)
    assert json.loads(described(binary=binary)[1])["binary"] == {"gain": gain, "activations": activations}
    assert read_again(binary=binary).binary == binary


FC = ("tensors", "fc.weight")
ODD: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "unknown key": (at("extra"), r"the ticket has an unknown key 'extra'; format version 4 has sha256, format, seed"),
    "unknown key with a line break": (at("a\nb"), r"the ticket has an unknown key 'a\\nb'"),
    "missing seed": (at("seed", drop=True), r"the ticket has no key 'seed'"),
    "missing provenance": (at("provenance", drop=True), r"the ticket has no key 'provenance'"),
    "negative seed": (at("seed", value=-1), r"seed is -1; expected an integer from 0 to 18446744073709551615"),
    "large seed": (at("seed", value=2**64), r"seed is 18446744073709551616; expected an integer"),
    "seed of a float": (at("seed", value=1.0), r"seed is 1\.0; expected an integer"),
    "seed of a boolean": (at("seed", value=True), r"seed is True; expected an integer"),
    "no law": (at("law", value=None), r"law is None; expected a JSON object"),
    "unknown law": (at("law", "kind", value="cauchy"), r"law: weight law 'cauchy' is not known"),
    "law of a list": (at("law", "kind", value=["cauchy"]), r"law\.kind is \['cauchy'\]; expected a short text"),
    "law of a long name": (at("law", "kind", value="x" * 61), r"law\.kind is 'xxx.*'; expected a short text"),
    "law of a huge number": (at("law", "gain", value=10**400), r"law\.gain is an integer beyond .*; expected a short"),
    "unknown law key": (at("law", "df", value=2), r"law has an unknown key 'df'; format version 4 has kind, gain"),
    "missing law key": (at("law", "gain", drop=True), r"law has no key 'gain'"),
    "negative gain": (at("law", "gain", value=-1.0), r"law: gain -1\.0 cannot be used"),
    "infinite gain": (at("law", "gain", value=1e999), r"law: gain inf cannot be used"),
    "fan of a list": (at("law", "fan", value=[]), r"law: fan \[\] is not known"),
    "upper-case digest": (at("weights_digest", value="A" * 64), r"weights_digest is 'A+\.\.\.A+'; expected a SHA-256"),
    "short digest": (at("stored_digest", value="a" * 63), r"stored_digest is 'a+\.\.\.a+'; expected a SHA-256 as 64"),
    "digest of a number": (at("weights_digest", value=1), r"weights_digest is 1; expected a SHA-256"),
    "no tensors": (at("tensors", value=[]), r"tensors is \[\]; expected a JSON object"),
    "empty tensors": (at("tensors", value={}), r"the ticket has no mask; expected one tensor with a mask at least"),
    "no mask": (at(*FC, "mask"), r"the ticket has no mask; expected one"),
    "tensor of a list": (at(*FC, value=[]), r"tensors\.fc\.weight is \[\]; expected a JSON object"),
    "unknown tensor key": (at(*FC, "x"), r"tensors\.fc\.weight has an unknown key 'x'"),
    "missing mask": (at(*FC, "mask", drop=True), r"tensors\.fc\.weight has no key 'mask'"),
    "bad name": (at("tensors", "/etc/passwd", value={}), r"'/etc/passwd' cannot be the name of a tensor"),
    "no shape": (at(*FC, "shape"), r"tensors\.fc\.weight\.shape is None; expected a list of at most 64 sizes"),
    "negative size": (at(*FC, "shape", value=[2, -3]), r"tensors\.fc\.weight\.shape is -3; expected an integer from 0"),
    "size of a boolean": (
        at(*FC, "shape", value=[True, 6]),
        r"tensors\.fc\.weight\.shape is True; expected an integer",
    ),
    "size of a float": (at(*FC, "shape", value=[2.0, 3]), r"tensors\.fc\.weight\.shape is 2\.0; expected an integer"),
    "huge size": (at(*FC, "shape", value=[2**60]), r"tensors\.fc\.weight\.shape is 1152921504606846976; expected"),
    "huge product": (at(*FC, "shape", value=[2**40, 2**40]), r"tensors\.fc\.weight\.shape is \[.*\]; expected at most"),
    "huge product with zero": (
        at(*FC, "shape", value=[0, 2**40, 2**40]),
        r"tensors\.fc\.weight\.shape is \[0, .*\]; exp",
    ),
    "many dimensions": (
        at(*FC, "shape", value=[1] * 65),
        r"tensors\.fc\.weight\.shape is \[1, .*\]; expected a list of",
    ),
    "empty masked tensor": (at(*FC, "shape", value=[0, 3]), r"tensors\.fc\.weight\.mask is of a tensor without values"),
    "integer dtype": (
        at(*FC, "dtype", value="int8"),
        r"tensors\.fc\.weight\.dtype is 'int8'; expected a floating type",
    ),
    "alias dtype": (
        at(*FC, "dtype", value="float"),
        r"tensors\.fc\.weight\.dtype is 'float'; expected a floating type",
    ),
    "no dtype": (at(*FC, "dtype", value="nn"), r"tensors\.fc\.weight\.dtype is 'nn'; expected a floating type"),
    "dtype of a list": (at(*FC, "dtype", value=[]), r"tensors\.fc\.weight\.dtype is \[\]; expected a floating type"),
    "zero scale": (
        at(*FC, "scale", value=0.0),
        r"tensors\.fc\.weight\.scale is 0\.0; expected a positive finite number",
    ),
    "negative scale": (
        at(*FC, "scale", value=-1),
        r"tensors\.fc\.weight\.scale is -1; expected a positive finite number",
    ),
    "infinite scale": (at(*FC, "scale", value=1e999), r"tensors\.fc\.weight\.scale is inf; expected a positive finite"),
    "NaN scale": (at(*FC, "scale", value=math.nan), r"tensors\.fc\.weight\.scale is nan; expected a positive finite"),
    "huge scale": (
        at(*FC, "scale", value=10**400),
        r"tensors\.fc\.weight\.scale is an integer beyond ±2\*\*64; expected",
    ),
    "scale of a boolean": (at(*FC, "scale", value=True), r"tensors\.fc\.weight\.scale is True; expected a positive"),
    "scale of a string": (at(*FC, "scale", value="1"), r"tensors\.fc\.weight\.scale is '1'; expected a positive"),
    "mask of a list": (at(*FC, "mask", value=[]), r"tensors\.fc\.weight\.mask is \[\]; expected a JSON object"),
    "unknown mask key": (at(*FC, "mask", "x"), r"tensors\.fc\.weight\.mask has an unknown key 'x'"),
    "missing count": (at(*FC, "mask", "count", drop=True), r"tensors\.fc\.weight\.mask has no key 'count'"),
    "unknown codec": (
        at(*FC, "mask", "codec", value="rans"),
        r"tensors\.fc\.weight\.mask\.codec is 'rans'; format version 4 has bits, zstd-bits, zstd-gaps, ans$",
    ),
    "codec of a list": (
        at(*FC, "mask", "codec", value=[]),
        r"tensors\.fc\.weight\.mask\.codec is \[\]; format version 4 has bits",
    ),
    "large count": (at(*FC, "mask", "count", value=7), r"tensors\.fc\.weight\.mask\.count is 7; expected .* 0 to 6"),
    "negative count": (at(*FC, "mask", "count", value=-1), r"tensors\.fc\.weight\.mask\.count is -1; expected"),
    "count of a boolean": (at(*FC, "mask", "count", value=True), r"tensors\.fc\.weight\.mask\.count is True; expected"),
    "masks digest": (at("masks_digest", value=""), r"masks_digest is ''; expected a SHA-256"),
    "stored of a list": (at("stored", value=[]), r"stored is \[\]; expected a JSON object"),
    "stored name": (at("stored", "/x", value={}), r"'/x' cannot be the name of a tensor"),
    "stored entry": (at("stored", "act", value=1), r"stored\.act is 1; expected a JSON object"),
    "stored key": (at("stored", "act", "x"), r"stored\.act has an unknown key 'x'; format version 4 has dtype, shape$"),
    "stored shape": (at("stored", "act", "shape", value=[-1]), r"stored\.act\.shape is -1; expected an integer from 0"),
    "stored size": (at("stored", "act", "shape", value=[2**49]), r"stored\.act\.shape is 562949953421312; expected an"),
    "stored dtype": (
        at("stored", "act", "dtype", value="bits"),
        r"stored\.act\.dtype is 'bits'; expected a type of torch",
    ),
    "stored complex": (
        at("stored", "act", "dtype", value="complex128"),
        r"stored\.act\.dtype is 'complex128'; expected a",
    ),
    "stored dtype of a list": (at("stored", "act", "dtype", value=[]), r"stored\.act\.dtype is \[\]; expected a type"),
    "other kept": (at("kept", value=3), r"kept is 3, the tensors' own numbers add up to 2"),
    "other total": (at("total", value=8), r"total is 8, the tensors' own numbers add up to 6"),
    "kept of a float": (at("kept", value=2.0), r"kept is 2\.0; expected an integer"),
    "trained of a string": (at("trained", value="bn"), r"trained is 'bn'; expected a list of different names"),
    "trained of numbers": (at("trained", value=[1]), r"trained is \[1\]; expected a list of different names"),
    "trained twice": (at("trained", value=["a", "a"]), r"trained is \['a', 'a'\]; expected a list of different names"),
    "binary of null": (at("binary"), r"binary is None; expected a JSON object"),
    "binary of a string": (at("binary", value="layer"), r"binary is 'layer'; expected a JSON object"),
    "empty binary": (at("binary", value={}), r"binary has no key 'gain'; format version 4 has gain, activations$"),
    "no gain": (at("binary", "gain", drop=True), r"binary has no key 'gain'; format version 4 has gain, activations$"),
    "no activations": (
        at("binary", "activations", drop=True),
        r"binary has no key 'activations'; format version 4 has",
    ),
    "unknown binary key": (
        at("binary", "alpha", value=1.0),
        r"binary has an unknown key 'alpha'; format version 4 has gain, activations$",
    ),
    "gain of a number": (at("binary", "gain", value=3), r"binary\.gain is 3; expected null, layer or channel$"),
    "gain of a boolean": (
        at("binary", "gain", value=False),
        r"binary\.gain is False; expected null, layer or channel$",
    ),
    "gain a tensor": (at("binary", "gain", value="tensor"), r"binary\.gain is 'tensor'; expected null, layer or"),
    "gain of nothing": (at("binary", "gain", value=""), r"binary\.gain is ''; expected null, layer or channel$"),
    "gain of a list": (at("binary", "gain", value=["layer"]), r"binary\.gain is \['layer'\]; expected null, layer or"),
    "gain without end": (at("binary", "gain", value="\n" * 9999), r"binary\.gain is '(\\n)+.*'; expected null, layer"),
    "list of activations": (
        at("binary", "activations", value=["act"]),
        r"binary\.activations is \['act'\]; expected a JSON object$",
    ),
    "activations of null": (at("binary", "activations"), r"binary\.activations is None; expected a JSON object$"),
    "unknown gradient": (
        at("binary", "activations", "body.act", value="tanh"),
        r"binary\.activations\.body\.act is 'tanh'; this release reads bi-real, clipped-identity$",
    ),
    "gradient of null": (
        at("binary", "activations", "0"),
        r"binary\.activations\.0 is None; this release reads bi-real",
    ),
    "gradient of a list": (
        at("binary", "activations", "0", value=["bi-real"]),
        r"binary\.activations\.0 is \['bi-real'\]; this release reads bi-real",
    ),
    "activation with a slash": (
        at("binary", "activations", "/act", value="bi-real"),
        r"'/act' cannot be the name of a module; expected one such as layer1\.relu$",
    ),
    "activation of the whole network": (
        at("binary", "activations", "", value="bi-real"),
        r"'' cannot be the name of a module; expected one such as layer1\.relu$",
    ),
    "activation of an empty part": (
        at("binary", "activations", "a..b", value="bi-real"),
        r"'a\.\.b' cannot be the name of a module; expected",
    ),
    "activation with a line break": (
        at("binary", "activations", "a\nb", value="bi-real"),
        r"'a\\nb' cannot be the name of a module; expected",
    ),
    "search of a list": (at("search", value=[]), r"search is \[\]; expected a JSON object"),
    "model of null": (at("model"), r"model is None; expected a JSON object"),
    "provenance of a number": (at("provenance", value=1), r"provenance is 1; expected a JSON object"),
    "deep provenance": (at("provenance", value=nested(65)), r"provenance is nested deeper than 64 levels"),
    "infinity in search": (at("search", "floor", value=1e999), r"search\.floor is inf; expected a finite number"),
}


@pytest.mark.parametrize(("change", "message"), ODD.values(), ids=ODD)
def test_whatever_is_odd_is_refused_by_its_place(change: Callable[[dict[str, Any]], None], message: str) -> None:
    said = copy.deepcopy({**SAID, **TABLE})
    change(said)
    table = {key: said.pop(key) for key in TABLE if key in said}
    with pytest.raises(TicketError, match=rf"^{message}") as caught:
        read(said, table)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_scales_may_be_written_as_integers() -> None:
    table = copy.deepcopy(TABLE)
    table["tensors"]["fc.weight"]["scale"] = 2
    scale = read(SAID, table).tensors["fc.weight"].scale
    assert (type(scale), scale) == (float, 2.0)


@pytest.mark.parametrize("name", ["weight", "conv1.weight", "layers.0.q/k.weight", "größe.weight", "_x", "a b", "0"])
def test_names_of_a_state_dict_are_accepted(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".weight", "a..b", "a.", "/a", "../a", "a\nb", "a\0b", "a\x1b[2J", "\ud800", "\u202ea", "x" * 1025],
)
def test_odd_names_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(
        TicketError, match=r"^'.*' cannot be the name of a tensor; expected one such as conv1"
    ) as caught:
        check_name(name)
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 200


def test_values_are_counted_by_their_shape() -> None:
    assert edge_count([2, 3, 4], "here") == 24
    assert edge_count([], "here") == 1
    assert edge_count([5, 0], "here") == 0
    assert edge_count([2**48], "here") == 2**48
