"""strongticket finds, proves and ships strong lottery tickets: subnetworks of random networks.

Every public name is imported when it is first used, so that ``strongticket --help`` need not wait for torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import StrongTicketError
    from .evaluate import evaluate
    from .export import export
    from .masks import attach, bake, refresh, select
    from .search import SearchConfig, search
    from .ticket import Ticket, apply, extract, load, save
    from .weights import WeightLaw

__version__ = "0.1.0"

__all__ = [
    "SearchConfig",
    "StrongTicketError",
    "Ticket",
    "WeightLaw",
    "apply",
    "attach",
    "bake",
    "evaluate",
    "export",
    "extract",
    "load",
    "refresh",
    "save",
    "search",
    "select",
]

_PARTS = {
    "errors": ("StrongTicketError",),
    "evaluate": ("evaluate",),
    "export": ("export",),
    "masks": ("attach", "bake", "refresh", "select"),
    "search": ("SearchConfig", "search"),
    "ticket": ("Ticket", "apply", "extract", "load", "save"),
    "weights": ("WeightLaw",),
}
_PART_OF = {name: part for part, names in _PARTS.items() for name in names}


class _Package(ModuleType):
    """A module whose ``search``, ``evaluate`` and ``export`` stay functions once the parts of that name are loaded."""

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system binds every loaded part to its name in the package.
        super().__setattr__(name, getattr(value, name) if isinstance(value, ModuleType) and name in _PART_OF else value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _PART_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_PART_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
