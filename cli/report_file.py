"""``report.json``: it grows by what is measured later, by whatever process."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from strongticket.evaluate import prizes
from strongticket.files import locked, write_beside


def add_to_report(path: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    """Add a report to the one in the file ``path``, and return the sum; a control that was measured again is replaced.

    Nothing is taken over from a report of another ticket, or one measured in another way. Raises OSError that names
    ``path`` if it cannot be written.
    """
    merged = dict(report)
    with report_held(path):
        before = _of_the_same_kind(path, report)
        merged["controls"] = {**before.get("controls", {}), **report["controls"]}
        merged["seeds"] = sorted({*before.get("seeds", []), *report["seeds"]})
        if "against_trained" in before and "against_trained" not in merged:
            merged["against_trained"] = before["against_trained"]
        merged["prizes"] = prizes(merged)
        write_beside(path, (json.dumps(merged, indent=2, allow_nan=False) + "\n").encode())
    return merged


@contextmanager
def report_held(path: Path) -> Iterator[None]:
    """Wait until no other process writes the report ``path``, and let none do so while the block runs."""
    lock = path.with_name(".report.lock")
    try:
        with locked(lock, wait=True):
            yield
    except OSError as error:
        if error.filename == str(lock):
            error.filename = str(path)
        raise


def _of_the_same_kind(path: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    try:
        before: dict[str, Any] = json.loads(path.read_text("utf-8"))
        same = before["ticket"]["weights_digest"] == report["ticket"]["weights_digest"]
        same &= before.get("tta", "none") == report["tta"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return before if same else {}
