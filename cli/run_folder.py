"""The folder of a run: what lies in it, and that it holds one run only."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from strongticket import Ticket
from strongticket.errors import ConfigError, TicketError
from strongticket.files import write_beside
from strongticket.ticket import load, save

from .config import RunConfig, format_config, load_config

_VERSIONS = ("strongticket", "torch", "torchvision", "numpy", "safetensors")


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved options."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON object an epoch."""
        return self.path / "metrics.jsonl"

    @property
    def ticket(self) -> Path:
        """The ticket of the best validation epoch."""
        return self.path / "ticket.safetensors"

    @property
    def last_ticket(self) -> Path:
        """The ticket of the last epoch."""
        return self.path / "ticket-last.safetensors"

    @property
    def report(self) -> Path:
        """Accuracies of the ticket and its controls."""
        return self.path / "report.json"

    @property
    def checkpoint(self) -> Path:
        """What a run that is not finished goes on from."""
        return self.path / "checkpoint"

    def begin(self, config: RunConfig) -> None:
        """Create the folder and write down the options and the machine; ConfigError if it holds another run."""
        if self.config.exists():
            raise ConfigError(f"{self.path} holds another run; go on with it by --resume, or choose another --out")
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ConfigError(f"{self.path} is not an empty folder; choose another --out")
        self.path.mkdir(parents=True, exist_ok=True)
        write_beside(self.path / "environment.json", _as_json(environment()))
        write_beside(self.config, format_config(config).encode())

    def write_metrics(self, history: Iterable[Mapping[str, Any]]) -> None:
        """Write all epochs so far."""
        write_beside(self.metrics, "".join(json.dumps(epoch) + "\n" for epoch in history).encode())

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the epochs written down so far; a line that a kill cut short is left out."""
        epochs: list[dict[str, Any]] = []
        if self.metrics.exists():
            for line in self.metrics.read_text("utf-8").splitlines():
                try:
                    epochs.append(json.loads(line))
                except ValueError:
                    break
        return epochs

    def remove_checkpoint(self) -> None:
        """Remove what only an unfinished run needs."""
        shutil.rmtree(self.checkpoint, ignore_errors=True)

    def write_report(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """Add a report to the one there is, and return the sum; a control that was measured again is replaced."""
        merged = dict(report)
        before = self._report_before(report)
        merged["controls"] = {**before.get("controls", {}), **report["controls"]}
        merged["seeds"] = sorted({*before.get("seeds", []), *report["seeds"]})
        if "against_trained" in before and "against_trained" not in merged:
            merged["against_trained"] = before["against_trained"]
        write_beside(self.report, _as_json(merged))
        return merged

    def _report_before(self, report: Mapping[str, Any]) -> dict[str, Any]:
        try:
            before: dict[str, Any] = json.loads(self.report.read_text("utf-8"))
            same = before["ticket"]["weights_digest"] == report["ticket"]["weights_digest"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return before if same else {}


def default_folder(config: RunConfig) -> RunFolder:
    """Return a folder under ``runs/`` that does not exist, named after the run."""
    names = [part.replace(":", "-").replace("/", "-").strip("-.") for part in (config.model, config.data)]
    stem = f"{names[0]}-{names[1]}-seed{config.seed}"
    number = 1
    while (path := Path("runs") / (stem if number == 1 else f"{stem}-{number}")).exists():
        number += 1
    return RunFolder(path)


def open_ticket(place: Path) -> tuple[Ticket, RunFolder | None]:
    """Return the ticket of a run folder or a ticket file, and the run folder if it is one."""
    if not place.is_dir():
        return load(place), None
    run = RunFolder(place)
    if not run.ticket.exists():
        begun = "; its search is not finished: go on with --resume" if run.config.exists() else ""
        raise TicketError(f"{place} holds no ticket.safetensors{begun}")
    return load(run.ticket), run


def config_of(ticket: Ticket, run: RunFolder | None, flags: Mapping[str, Any]) -> RunConfig:
    """Return the options a ticket was found with, changed by flags."""
    if run is not None and run.config.exists():
        return load_config(str(run.config), flags)
    options = ticket.provenance.get("config")
    if not isinstance(options, dict):
        raise TicketError(
            "this ticket does not say how it was found, so there is no data to evaluate it on; "
            "use strongticket.evaluate with your own network and data"
        )
    return load_config(None, {**options, **flags})


def save_tickets(run: RunFolder, best: Ticket, last: Ticket) -> None:
    """Write the two tickets of a finished search."""
    save(last, run.last_ticket)
    save(best, run.ticket)


def environment() -> dict[str, Any]:
    """Return versions, hardware, command and git commit, as JSON values."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _VERSIONS},
        "system": platform.platform(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "git_commit": _git_commit(),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _git_commit() -> str | None:
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _as_json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()
