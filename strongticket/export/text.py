"""Words for error messages, and silence for the tools that talk too much."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout

_LONGEST = 240


def shape_text(shape: Sequence[int]) -> str:
    """Write a shape as a person does.

    >>> shape_text((2, 3, 32, 32))
    '2x3x32x32'
    """
    return "x".join(str(size) for size in shape) or "()"


def core_reason(error: BaseException) -> str:
    """Return in one line why something failed at the bottom: the first words of the innermost cause.

    A first line that only announces a list is joined with the list's first item.

    >>> core_reason(ValueError("conflicts found:\\n - batch is always 2\\n\\nsee the trace"))
    'conflicts found: batch is always 2'
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    announced = lines[0].endswith(":") and len(lines) > 1
    reason = f"{lines[0]} {lines[1].lstrip('-* ')}" if announced else lines[0]
    return reason if len(reason) <= _LONGEST else reason[: _LONGEST - 3] + "..."


@contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings, prints and log records of a block to itself; errors pass."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
