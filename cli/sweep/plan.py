"""What a sweep consists of: points, each measured over the same seeds; every run has a name of its own."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from ..config import RunConfig, changed
from ..run_folder import PLACE


@dataclass(frozen=True)
class Interval:
    """Numbers from ``low`` to ``high``, both included; whole numbers if both are."""

    low: float
    high: float
    log: bool = False
    step: float | None = None


@dataclass(frozen=True)
class Choices:
    """One of some values."""

    values: tuple[Any, ...]


@dataclass(frozen=True, order=True)
class Slot:
    """One run of a sweep: a point, counted from 0, under one seed."""

    point: int
    seed: int


@dataclass(frozen=True)
class Sweep:
    """What is varied, and what is not.

    A point is one setting of all keys that vary: a cell of the grid, joined by a sample where keys are sampled; each
    cell gets ``trials`` samples. Points are counted cell by cell in turn, so that an early look sees every cell.
    Values are JSON values, as the options hold them.
    """

    name: str
    base: RunConfig
    grid: Mapping[str, tuple[Any, ...]]
    sample: Mapping[str, Interval | Choices]
    trials: int
    sampler: str
    seeds: tuple[int, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that vary."""
        return (*self.grid, *self.sample)

    @property
    def cells(self) -> list[dict[str, Any]]:
        """Every combination of the grid's values; one empty cell if there is no grid."""
        return [dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]

    @property
    def points(self) -> int:
        """The number of points."""
        cells = 1
        for values in self.grid.values():
            cells *= len(values)
        return cells * self.trials

    def slots(self) -> Iterator[Slot]:
        """Yield every run, point by point."""
        for point in range(self.points):
            for seed in self.seeds:
                yield Slot(point, seed)

    def options(self, values: Mapping[str, Any], seed: int) -> RunConfig:
        """Return the options of one run."""
        return changed(self.base, {**values, "seed": seed}, f"the sweep {self.name}")

    def folder_name(self, slot: Slot, values: Mapping[str, Any]) -> str:
        """Return the name of a run's folder: what varies, for people, and a digest of all options, for certain.

        A run of equal options has an equal name in every sweep, so that a sweep which grew finds what it did before.
        """
        facts: dict[str, Any] = {"options": told(self.options(values, slot.seed)), "varied": dict(values)}
        if self.sample:
            facts["point"] = slot.point  # a value that is drawn twice is measured twice
        words = "-".join(f"{key}-{as_text(value)}" for key, value in values.items())
        words = re.sub(r"[^A-Za-z0-9._]+", "-", words)[:80].strip("-.")
        return f"{words}-seed-{slot.seed}-{_digest(facts)[:8]}"

    @property
    def study(self) -> str:
        """The name of the sweep in a storage; another file, or the same one changed, has another."""
        facts = {
            "base": told(self.base),
            "grid": list(self.grid.items()),
            "sample": [(key, vars(given)) for key, given in self.sample.items()],
            "trials": self.trials,
            "sampler": self.sampler,
            "seeds": self.seeds,
        }
        return f"{self.name[:200]}-{_digest(facts)[:12]}"


def told(options: RunConfig) -> dict[str, Any]:
    """Return the options that decide what a run finds, as JSON values: all but its place."""
    return {key: value for key, value in options.model_dump(mode="json").items() if key not in PLACE}


def as_text(value: Any) -> str:
    """Return a value as it stands in tables and names."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if value is None or isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
