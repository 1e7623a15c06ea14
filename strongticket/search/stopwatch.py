"""Where the time of a step goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import torch

PHASES = ("data", "forward", "backward", "optimizer", "masks", "rest")
"""The parts of a step: waiting for the batch and moving it; the network and its loss; gradients; the step on the
scores; the refresh of the masks; counting, checks and whoever listens."""


@dataclass
class Stopwatch:
    """Times the phases of steps, in seconds: ``steps`` has one dictionary {phase: seconds} a finished step.

    It waits for the device at the end of each phase, so the sum is more than a step takes where nobody looks.
    """

    device: torch.device
    steps: list[dict[str, float]] = field(default_factory=list)
    _current: dict[str, float] = field(default_factory=dict)
    _since: float = field(default_factory=lambda: time.perf_counter())

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of the block as that of a phase, and what passed before it as "rest"."""
        self._count("rest")
        yield
        self._count(name)

    def begin(self) -> None:
        """Begin a step here, so that what was done since the last one counts for nothing."""
        self._current = {}
        self._since = time.perf_counter()

    def step(self) -> None:
        """End a step."""
        self._count("rest")
        self.steps.append(self._current)
        self._current = {}

    def medians(self, *, warm_up: int = 0) -> dict[str, float]:
        """Return the median seconds of each phase over all steps but the first ``warm_up``."""
        taken = self.steps[warm_up:]
        return {name: median(step.get(name, 0.0) for step in taken) for name in PHASES}

    def _count(self, name: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self._current[name] = self._current.get(name, 0.0) + now - self._since
        self._since = now
