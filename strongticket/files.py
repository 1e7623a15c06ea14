"""Writing a file so that nothing is ever lost half-way."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def write_beside(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path`` and rename it there: a reader sees the old bytes or the new ones, never a part.

    Raises OSError that names ``path`` if it cannot be done; ``path`` is then as it was and nothing is left beside it.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


def remove_halves(folder: Path) -> None:
    """Remove what a process that was killed within ``write_beside`` left in ``folder``; nobody may be writing there."""
    for file in folder.glob(".*.*"):
        if file.name.rpartition(".")[2].isdigit():
            file.unlink(missing_ok=True)
