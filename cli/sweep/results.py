"""What a sweep found: a table with mean ± sd over seeds, a CSV with every run, and one JSON object."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from strongticket.files import write_beside

from .. import console
from .ledger import Done
from .plan import Slot, Sweep, as_text

CSV = "results.csv"
_FACTS = ("epoch", "kept_density", "bits_per_weight", "file_bytes", "seconds", "host", "run")


@dataclass(frozen=True)
class PointResult:
    """One setting of all that varies, and its runs. Accuracies are held-out ones, as fractions of 1."""

    point: int
    values: Mapping[str, Any]
    runs: tuple[Done, ...]

    @property
    def accuracies(self) -> list[float]:
        """Of the runs that found a ticket."""
        return [run.accuracy for run in self.runs if run.accuracy is not None]

    @property
    def mean(self) -> float | None:
        """The mean over seeds; None if no run found a ticket."""
        return fmean(self.accuracies) if self.accuracies else None

    @property
    def sd(self) -> float:
        """The standard deviation over seeds (n − 1 in the denominator); 0 with fewer than two."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0

    @property
    def failed(self) -> list[Done]:
        """The runs that found no ticket."""
        return [run for run in self.runs if run.accuracy is None]

    @property
    def bits_per_weight(self) -> float | None:
        """Size of the coded masks over the number of masked weights, the mean over seeds."""
        bits = [run.facts["bits_per_weight"] for run in self.runs if run.accuracy is not None]
        return fmean(bits) if bits else None


def results_of(done: Mapping[Slot, Done]) -> list[PointResult]:
    """Return the points that have a run behind them, in the order of the sweep."""
    points: dict[int, list[Done]] = {}
    for slot in sorted(done):
        points.setdefault(slot.point, []).append(done[slot])
    return [PointResult(point, runs[0].values, tuple(runs)) for point, runs in points.items()]


def best_of(results: Sequence[PointResult]) -> PointResult | None:
    """Return the point of the highest mean, one whose every run found a ticket if there is one; the first of equals."""
    found = [result for result in results if result.mean is not None]
    whole = [result for result in found if not result.failed]
    return max(whole or found, key=lambda result: result.mean or 0.0, default=None)


def write_csv(sweep: Sweep, results: Sequence[PointResult], out: Path) -> Path:
    """Write one row a run, in the order of the sweep, and return the file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "point", *sweep.keys, "seed", "validation_accuracy", *_FACTS, "error"])
    for result in results:
        values = [as_cell(result.values[key]) for key in sweep.keys]
        for run in result.runs:
            facts = [run.facts.get(name) for name in _FACTS]
            writer.writerow([run.number, result.point, *values, run.slot.seed, run.accuracy, *facts, run.error])
    write_beside(out / CSV, text.getvalue().encode())
    return out / CSV


def as_cell(value: Any) -> Any:
    """Return a value for a CSV: numbers in full."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else as_text(value)


def as_dict(sweep: Sweep, results: Sequence[PointResult]) -> dict[str, Any]:
    """Return the results as JSON values."""
    best = best_of(results)
    return {
        "sweep": sweep.name,
        "study": sweep.study,
        "objective": "validation_accuracy",
        "seeds": list(sweep.seeds),
        "runs": {
            "asked": sweep.points * len(sweep.seeds),
            "done": sum(len(result.runs) for result in results),
            "failed": sum(len(result.failed) for result in results),
        },
        "points": [_point(result) for result in results],
        "best": None if best is None else _point(best),
    }


def print_results(sweep: Sweep, results: Sequence[PointResult], out: Path) -> None:
    """Print the table, what failed and why, and the best point."""
    failed = any(result.failed for result in results)
    columns = [*sweep.keys, "validation accuracy", "sd", "n", "bits a weight", *(["failed"] if failed else [])]
    console.print_table(columns, [_row(sweep, result, failed=failed) for result in results])
    for result in results:
        for run in result.failed:
            console.print_line(f"failed: {describe(result.values, run.slot.seed)}: {run.error}")
    best = best_of(results)
    if best is not None:
        console.print_line(
            f"best: {describe(best.values)}: {best.mean:.4f} ± {best.sd:.4f} (n = {len(best.accuracies)})"
        )
        console.print_line("the test split was not used; measure the best there, once:")
        for run in best.runs:
            if run.accuracy is not None:
                folder = out / run.facts["run"]
                elsewhere = "" if folder.exists() else f"  (on {run.facts['host']})"
                console.print_line(f"  strongticket evaluate {shlex.quote(str(folder))}{elsewhere}")


def describe(values: Mapping[str, Any], seed: int | None = None) -> str:
    """Return a point in words, and a run of it."""
    words = [f"{key} {as_text(value)}" for key, value in values.items()]
    return ", ".join(words if seed is None else [*words, f"seed {seed}"])


def _row(sweep: Sweep, result: PointResult, *, failed: bool) -> list[object]:
    count = len(result.accuracies)
    return [
        *(as_text(result.values[key]) for key in sweep.keys),
        None if result.mean is None else f"{result.mean:.4f}",
        f"± {result.sd:.4f}" if count > 1 else "",
        count,
        None if result.bits_per_weight is None else f"{result.bits_per_weight:.3f}",
        *([len(result.failed)] if failed else []),
    ]


def _point(result: PointResult) -> dict[str, Any]:
    return {
        "point": result.point,
        "values": dict(result.values),
        "mean": result.mean,
        "sd": None if result.mean is None else result.sd,
        "n": len(result.accuracies),
        "bits_per_weight": result.bits_per_weight,
        "runs": [
            {"seed": run.slot.seed, "validation_accuracy": run.accuracy, **run.facts}
            if run.accuracy is not None
            else {"seed": run.slot.seed, "error": run.error}
            for run in result.runs
        ],
    }
