"""The rules by which scores become masks: one file a rule."""

from __future__ import annotations

from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from ...errors import ConfigError
from .base import Edges, Moment, Rule
from .bernoulli import Bernoulli
from .edge_popup import EdgePopup
from .iterand import IteRand
from .multicoated import Multicoated

RULES: dict[str, type[Rule]] = {rule.name: rule for rule in (EdgePopup, Bernoulli, IteRand, Multicoated)}
RULE_OPTIONS: dict[str, str] = {option.name: name for name, rule in RULES.items() for option in fields(rule)}
"""The options of rules, and the rule that has each."""


def as_rule(value: str | Rule, **options: Any) -> Rule:
    """Return the rule of that name with its ``options``, or the rule itself.

    An option that is None counts as not given. Raises ConfigError for an unknown name, an option that the rule does
    not have, or a value that it cannot use.
    """
    if isinstance(value, Rule):
        return value
    if value not in RULES:
        close = get_close_matches(str(value), RULES, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigError(f"rule {value!r} is not known{hint}; the rules are {', '.join(RULES)}")
    given = {name: option for name, option in options.items() if option is not None}
    for name in given:
        if name not in RULE_OPTIONS:
            raise ConfigError(f"{name} is no option of a rule; the options are {', '.join(RULE_OPTIONS)}")
        if RULE_OPTIONS[name] != value:
            raise ConfigError(f"{name} is an option of rule {RULE_OPTIONS[name]!r}, the rule is {value!r}")
    return RULES[value](**given)


__all__ = [
    "RULES",
    "RULE_OPTIONS",
    "Bernoulli",
    "EdgePopup",
    "Edges",
    "IteRand",
    "Moment",
    "Multicoated",
    "Rule",
    "as_rule",
]
