"""What the commands draw: tables and JSON on stdout, progress and messages on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

_WIDE = 10_000  # where nobody watches a line may be as long as it needs to be


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """Print a table on stdout. A column is flush right if all that stands in it are numbers."""
    rows = [list(row) for row in rows]
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, column in enumerate(columns):
        numbers = bool(rows) and all(_starts_as_number(row[index]) for row in rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    _console(stderr=False).print(table)


def print_line(text: str = "") -> None:
    """Print a line of a command's result on stdout, as it is."""
    _console(stderr=False).print(text, soft_wrap=True)


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def note(text: str) -> None:
    """Print a message on stderr, as it is."""
    _console(stderr=True).print(text, soft_wrap=True)


def error(text: str) -> None:
    """Print ``error: …`` on stderr, in one line whatever the text holds."""
    note(f"error: {' '.join(text.split())}")


class ProgressLine:
    """How far a piece of work has come: a bar on a terminal, now and then a plain line elsewhere.

    A context manager. Its ``update`` can be given as it is wherever the library calls back with
    ``(done, total)``.
    """

    def __init__(self, description: str, *, every: float = 10.0) -> None:
        """``every`` is the time in seconds between two plain lines."""
        self._description, self._every = description, every
        self._console = _console(stderr=True)
        self._bar: Progress | None = None
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                TimeRemainingColumn(compact=True),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task(self._description, total=None, note="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """Show that ``done`` of ``total`` pieces are done; ``note`` stands behind the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, note=note)
        elif time.monotonic() - self._said >= self._every:
            count = str(done) if total is None else f"{done}/{total}"
            self.line(f"{self._description}: {count}{'  ' + note if note else ''}")

    def line(self, text: str) -> None:
        """Print a line that stays, above the bar if there is one."""
        self._said = time.monotonic()
        self._console.print(text, soft_wrap=True)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDE
    return console


def _starts_as_number(cell: object) -> bool:
    return cell is None or isinstance(cell, int | float) or str(cell)[:1].isdigit()
