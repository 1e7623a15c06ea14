"""strongticket.ticket.strict: JSON that is read as strictly as it is written."""

from __future__ import annotations

import math
from typing import Any

import pytest

from strongticket.errors import TicketError
from strongticket.ticket.strict import as_json, as_text, parse, shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"it is no JSON \(Expecting value"),
        ('{"a":1', r"it is no JSON \(Expecting"),
        ('{"a":1}x', r"it is no JSON \(Extra data"),
        ("[1]", r"it is \[1\]; expected a JSON object"),
        ("null", r"it is None; expected a JSON object"),
        ('{"a":NaN}', r"it is no JSON \(NaN is no number of JSON\)"),
        ('{"a":[-Infinity]}', r"it is no JSON \(-Infinity is no number of JSON\)"),
        ('{"a":1,"b":2,"a":1}', r"it is no JSON \(key 'a' stands twice\)"),
        ('{"b":{"\\n":1,"\\n":2}}', r"it is no JSON \(key '\\n' stands twice\)"),
        ('{"a":' + "9" * 5000 + "}", r"it is no JSON \(Exceeds the limit"),
        ('{"a":' + "[" * 100_000 + "]" * 100_000 + "}", r"it is nested too deep"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, r"it is nested too deep"),
        ('{"a":[' + "0," * 2**18 + "0]}", r"it has more values than a ticket's$"),
        ('{"a":[' + "[]," * 2**17 + "0]}", r"it has more values than a ticket's$"),
        ('{"a":[' + "{}," * 2**17 + "0]}", r"it has more values than a ticket's$"),
    ],
)
def test_text_that_is_no_plain_json_object_is_refused(text: str, message: str) -> None:
    with pytest.raises(TicketError, match=rf"^{message}") as caught:
        parse(text, "it")
    assert "\n" not in str(caught.value)


def test_text_of_as_many_values_as_there_may_be_is_read() -> None:
    assert len(parse('{"a":[' + "0," * (2**18 - 2) + "0]}", "it")["a"]) == 2**18 - 1


def test_values_are_shown_shortly() -> None:
    assert shown("µ\n") == r"'\xb5\n'"
    assert shown([1, 2]) == "[1, 2]"
    assert shown(10**5000) == "an integer beyond ±2**64"
    assert len(shown("x" * 10_000)) < 70
    assert shown([["x"] * 10_000] * 1000) == "[[...], [...], [...], [...], [...], [...], [...], [...], ...]"
    assert shown({"a": {"b": 1}, "c": [], "d": 0}) == "{'a': {...}, 'c': [], ...}"


@pytest.mark.parametrize(
    "value", [{}, {"a": [1, 2.5, None, True, "é"]}, {"": {"b": [[]]}}, {"a": 2**64, "b": -(2**64), "c": 5e-324}]
)
def test_what_is_written_is_read(value: dict[str, Any]) -> None:
    assert as_text(as_json(value, "it")).isascii()
    assert parse(as_text(as_json(value, "it")), "it") == value


@pytest.mark.parametrize("value", [math.nan, math.inf, 2**64 + 1, {1: 2}, {"a": {1}}, b"x"])
def test_what_would_not_be_read_is_not_written(value: object) -> None:
    with pytest.raises(TicketError, match=r"^it[ .]"):
        as_json({"a": value} if not isinstance(value, dict) else value, "it")
