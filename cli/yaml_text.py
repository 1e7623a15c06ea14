"""Reading and writing configuration files: YAML with the scalars of its 1.2 core schema.

PyYAML follows YAML 1.1, where ``1e-4`` is text, ``010`` is eight, ``no`` is false and the second of two
equal keys wins. None of these would be noticed in a recipe, so the loader here has rules of its own.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from typing import Any

import yaml

from strongticket.errors import ConfigError

_SCALARS: list[tuple[str, str, list[str]]] = [
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?((\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(inf|Inf|INF))|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
]


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own way to say which plain scalars are not text

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[object, int] = {}
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise ConfigError(f"line {line}: the key {key!r} is not text; put it in quotes")
            if key in seen:
                raise ConfigError(f"line {line}: the key {key!r} was given before, in line {seen[key]}; keep one")
            seen[key] = line
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    # The same rules, so that text which looks like a number to the loader is written in quotes.
    yaml_implicit_resolvers = {}  # noqa: RUF012

    def ignore_aliases(self, data: object) -> bool:
        return True


for _kind, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_pattern})\\Z"), _first)


def parse_mapping(text: str, source: str) -> dict[str, Any]:
    """Return the mapping that a YAML text holds; empty for an empty text.

    ``source`` names the text in errors. Raises ConfigError with the line for text that is not YAML, is
    not one mapping, or has a key twice.
    """
    try:
        value = yaml.load(text, Loader=_Loader)
    except ConfigError as error:
        raise ConfigError(f"{source}, {error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{source}{where}: this is not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: this is not YAML: {' '.join(str(error).split())}") from None
    except (AttributeError, KeyError, ValueError):
        # What PyYAML lets out of its constructors where a written tag, such as !!int, does not fit its value.
        raise ConfigError(f"{source}: a value does not fit the !!tag before it; leave the tags out") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(
            f"{source}: holds a {type(value).__name__}; expected 'key: value' lines, such as 'epochs: 10'"
        )
    return value


def format_mapping(values: Mapping[str, Any]) -> str:
    """Return ``values`` (JSON values only) as a YAML text that ``parse_mapping`` reads back as the same."""
    text: str = yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text
