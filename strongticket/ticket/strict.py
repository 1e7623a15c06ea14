"""JSON that is read as strictly as it is written."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from ..errors import TicketError

__all__ = ["as_json", "as_text", "check_keys", "digest_in", "integer_in", "is_bounded", "object_in", "parse", "shown"]

LARGEST_INTEGER = 2**64
_DEEPEST = 64
_MOST_VALUES = 1 << 18  # what fits a header of honest masks; an empty list takes three bytes of text and 64 of memory
_REPR = reprlib.Repr()
_REPR.maxstring, _REPR.maxlist, _REPR.maxdict, _REPR.maxlevel = 60, 8, 2, 1


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


def as_text(value: object) -> str:
    """Return ``value``, which ``as_json`` returned, as text without spaces."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def shown(value: object) -> str:
    """Return ``value`` for an error message: in one line, in ASCII, and not for long."""
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        return "an integer beyond ±2**64"
    return _REPR.repr(value).encode("ascii", "backslashreplace").decode()


def object_in(value: object, where: str) -> dict[str, Any]:
    """Return ``value`` if it is a JSON object; TicketError, naming the place, if not."""
    if not isinstance(value, dict):
        raise TicketError(f"{where} is {shown(value)}; expected a JSON object")
    return value


def check_keys(fields: Mapping[str, Any], where: str, expected: Collection[str], version: object) -> None:
    """Raise TicketError unless ``fields`` has just the keys ``expected``, which format ``version`` has there."""
    for key in expected:
        if key not in fields:
            raise TicketError(f"{where} has no key {key!r}; format version {version} has {', '.join(expected)}")
    for key in fields:
        if key not in expected:
            raise TicketError(
                f"{where} has an unknown key {shown(key)}; format version {version} has {', '.join(expected)}"
            )


def integer_in(value: object, where: str, *, most: int) -> int:
    """Return ``value`` if it is an integer from 0 to ``most``; TicketError, naming the place, if not."""
    if type(value) is not int or not 0 <= value <= most:
        raise TicketError(f"{where} is {shown(value)}; expected an integer from 0 to {most}")
    return value


def digest_in(value: object, where: str) -> str:
    """Return ``value`` if it is a SHA-256 in hexadecimal; TicketError, naming the place, if not."""
    if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise TicketError(f"{where} is {shown(value)}; expected a SHA-256 as 64 hexadecimal digits")
    return value


def as_json(value: object, where: str, depth: int = 0) -> Any:
    """Return a copy of ``value`` as it would be read back from JSON; TicketError, naming the place, if it would not."""
    if depth > _DEEPEST:
        raise TicketError(f"{where.split('.')[0]} is nested deeper than {_DEEPEST} levels")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TicketError(f"{where} has the key {shown(key)}; expected strings for keys")
        return {key: as_json(inner, f"{where}.{_plain(key)}", depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [
            inner if _is_plain(inner) else as_json(inner, f"{where}.{index}", depth + 1)
            for index, inner in enumerate(value)
        ]
    if isinstance(value, int | float) and not is_bounded(value):
        raise TicketError(f"{where} is {shown(value)}; expected a finite number, or an integer within ±2**64")
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TicketError(f"{where} is of type {type(value).__name__}; expected JSON values only")


def _is_plain(value: object) -> bool:
    """Whether ``value`` is one that JSON gives back as it is, and holds no others: lists of these are long."""
    kind = type(value)
    return kind is str or kind is bool or value is None or (isinstance(value, int | float) and is_bounded(value))


def is_bounded(number: float) -> bool:
    """Whether a number is finite, or an integer within ±2**64."""
    return abs(number) <= LARGEST_INTEGER if isinstance(number, int) else math.isfinite(number)


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
