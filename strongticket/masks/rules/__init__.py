"""The rules by which scores become masks: one file a rule."""

from __future__ import annotations

from difflib import get_close_matches

from ...errors import ConfigError
from .base import Edges, Moment, Rule
from .bernoulli import Bernoulli
from .edge_popup import EdgePopup

RULES: dict[str, type[Rule]] = {rule.name: rule for rule in (EdgePopup, Bernoulli)}


def as_rule(value: str | Rule) -> Rule:
    """Return the rule of that name, or the rule itself; ConfigError for an unknown name."""
    if isinstance(value, Rule):
        return value
    if value not in RULES:
        close = get_close_matches(str(value), RULES, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigError(f"rule {value!r} is not known{hint}; the rules are {', '.join(RULES)}")
    return RULES[value]()


__all__ = ["RULES", "Bernoulli", "EdgePopup", "Edges", "Moment", "Rule", "as_rule"]
