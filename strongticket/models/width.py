"""How much wider than its definition a network is built."""

from __future__ import annotations

import math

from ..errors import ConfigError


def parse_width(text: str | float) -> float:
    """Read a width: ``"4x"``, ``"4"``, ``4`` and ``4.0`` are all 4.0.

    Raises
    ------
    ConfigError
        If it is no number, not finite or not above 0.

    >>> parse_width("0.5x")
    0.5
    """
    try:
        width = float(str(text).strip().lower().removesuffix("x"))
    except ValueError:
        width = math.nan
    if not (math.isfinite(width) and width > 0):
        raise ConfigError(f"width is {str(text)!r}; it must be a finite number above 0, such as 4x, 4 or 0.5x")
    return width


def scaled(units: int, width: float) -> int:
    """Return the units of a hidden layer at this width: ``round(units * width)``, at least 1."""
    return max(1, round(units * width))
