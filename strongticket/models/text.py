"""Words for error messages."""

from __future__ import annotations

from collections.abc import Sequence

_LONGEST = 240


def shape_text(shape: Sequence[int]) -> str:
    """Write a shape as a person does.

    >>> shape_text((3, 32, 32))
    '3x32x32'
    """
    return "x".join(str(size) for size in shape)


def first_line(error: BaseException) -> str:
    """Return the first line with words of an exception's message, cut to a readable length; its type if it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[0] if len(lines[0]) <= _LONGEST else lines[0][: _LONGEST - 3] + "..."
