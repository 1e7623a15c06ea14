"""What the tests of several workers share: a sweep in processes of its own, and kills in the middle of its runs."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TEXT = """
base: {model: mlp, width: 0.5x, epochs: 20, checkpoint_epochs: 1, precision: fp32}
grid: {density: [0.2, 0.4, 0.6]}
seeds: [0, 1]
"""
SLOTS = [(density, seed) for density in ("0.2", "0.4", "0.6") for seed in ("0", "1")]
# Nobody's bits depend on how many processors there are.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(file: Path, out: Path, *arguments: str) -> list[str]:
    """Return the command that runs the sweep in ``file``."""
    return [sys.executable, "-m", "strongticket.cli", "sweep", str(file), "--out", str(out), *arguments]


def start(file: Path, out: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a sweep; its messages go to a file beside the folder."""
    with out.with_suffix(".log").open("a") as log:
        return subprocess.Popen(command(file, out, *arguments), stdout=log, stderr=log, text=True, env=ENVIRONMENT)


def said(out: Path) -> str:
    """Return what sweeps in this folder have said so far."""
    return out.with_suffix(".log").read_text()


def at_work(out: Path) -> list[tuple[int, Path]]:
    """Return (process, folder) of the runs here that are under way and have a checkpoint to go on from."""
    found = []
    for lock in out.glob("trials/*/.lock"):
        try:
            words = lock.read_text().split()
            if words[:1] == ["process"] and any((lock.parent / "checkpoint").iterdir()):
                os.kill(int(words[1]), 0)
                found.append((int(words[1]), lock.parent))
        except OSError:
            continue  # it ended in between
    return found


def kill_one(out: Path, sweeping: subprocess.Popen[str], killed: set[int]) -> Path | None:
    """Kill a worker in the middle of a run, and return the run's folder; None if the sweep ended before."""
    until = time.monotonic() + 300
    while sweeping.poll() is None and time.monotonic() < until:
        for process, folder in at_work(out):
            if process not in killed:
                os.kill(process, signal.SIGKILL)
                killed.add(process)
                return folder
        time.sleep(0.02)
    return None


def rows(out: Path) -> list[dict[str, str]]:
    """Return the rows of the CSV of a sweep."""
    with (out / "results.csv").open() as file:
        return list(csv.DictReader(file))


def resumptions(run: Path) -> int:
    """Return how often a run was gone on with."""
    return len(json.loads((run / "environment.json").read_text()).get("resumed", []))


def trials(storage: Any) -> list[Any]:
    """Return the trials of the one sweep in a storage."""
    import optuna

    (name,) = optuna.get_all_study_names(storage)
    found: list[Any] = optuna.load_study(study_name=name, storage=storage).trials
    return found


def check_nothing_lost(out: Path, reference: Path, storage: Any) -> None:
    """Assert that a sweep has each run once, with the very ticket of a sweep in which nobody was killed."""
    found, expected = rows(out), rows(reference)
    assert [(row["density"], row["seed"]) for row in found] == SLOTS
    complete = [trial.params for trial in trials(storage) if trial.state.name == "COMPLETE"]
    assert sorted((str(params["density"]), str(params["seed"])) for params in complete) == SLOTS
    assert not any(trial.state.name == "RUNNING" for trial in trials(storage))
    for row, other in zip(found, expected, strict=True):
        assert row["validation_accuracy"] == other["validation_accuracy"]
        ticket, same = (folder / row["run"] / "ticket.safetensors" for folder in (out, reference))
        assert ticket.read_bytes() == same.read_bytes()
    assert not list(out.glob(".*.lock"))
    assert not list(out.glob("trials/*/checkpoint"))
