"""The folder of a run: what lies in it, and that it holds one run only."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from strongticket import Ticket
from strongticket.errors import ConfigError, TicketError
from strongticket.evaluate import prizes
from strongticket.files import remove_halves, write_beside
from strongticket.search.checkpoint import has_checkpoint
from strongticket.ticket import load, save

from .config import RunConfig, format_config, load_config

# What says where a run ran and lies, and not what it is: two tickets of one search differ in none of it.
PLACE = frozenset({"device", "data_dir", "download", "out", "track", "workers"})
_MACHINE = PLACE | {"precision", "channels_last"}
_PACKAGES = ("strongticket", "torchvision", "numpy", "safetensors")


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

    @property
    def environment(self) -> Path:
        """Versions, hardware and command."""
        return self.path / "environment.json"

    def check_free(self) -> None:
        """Raise ConfigError unless a run can begin here: there is nothing yet, or an empty folder."""
        if self.config.exists():
            raise ConfigError(f"{self.path} holds another run; go on with it by --resume, or choose another --out")
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ConfigError(f"{self.path} is not an empty folder; choose another --out")

    @contextmanager
    def begun(self, config: RunConfig) -> Iterator[None]:
        """Create the folder, and write down the options and the machine, for what is done inside the block.

        If the block fails before there is a checkpoint to go on from, all that was created is removed again.
        Raises ConfigError if the folder holds another run or cannot be written.
        """
        self.check_free()
        new = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            self._write_beginning(config)
            yield
        except BaseException:
            if not has_checkpoint(self.checkpoint):
                self._remove(new)
            raise

    def options_to_resume(self, config: str | None, flags: Mapping[str, Any]) -> RunConfig:
        """Return the options to go on with: those of the run, given again or not.

        Raises ConfigError if there is no run to go on with, if it is finished, or if the options given now
        are not those it began with, machine and place aside.
        """
        if not self.config.exists():
            raise ConfigError(f"{self.path} holds no run to resume (no config.yaml); start one without --resume")
        if self.report.exists() and self.ticket.exists():
            self.remove_checkpoint()  # a kill may have come before its end
            raise ConfigError(f"the run in {self.path} is finished; evaluate it, or choose another --out")
        options = load_config(config or str(self.config), flags)
        before, now = (each.model_dump(mode="json") for each in (load_config(str(self.config)), options))
        changed = [
            f"{key} ({before[key]} → {now[key]})" for key in now if key not in _MACHINE and before[key] != now[key]
        ]
        if changed:
            raise ConfigError(
                f"the run in {self.path} began with other options: {', '.join(changed)}; "
                "resume it with its own, or choose another --out"
            )
        return options

    def note_resumption(self) -> None:
        """Write down on which machine the run goes on, and clear away what a kill left half-written."""
        remove_halves(self.path)
        try:
            before = json.loads(self.environment.read_text("utf-8"))
        except (OSError, ValueError):
            before = {}
        write_beside(self.environment, _as_json({**before, "resumed": [*before.get("resumed", []), environment()]}))

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
        merged["prizes"] = prizes(merged)
        write_beside(self.report, _as_json(merged))
        return merged

    def _write_beginning(self, config: RunConfig) -> None:
        # Without its place, so that a run repeated from this file gets a folder of its own.
        options = config.model_copy(update={"out": None})
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_beside(self.environment, _as_json(environment()))
            write_beside(self.config, format_config(options).encode())
        except OSError as error:
            raise ConfigError(
                f"the run folder {self.path} cannot be written: {error.strerror}; make room or choose another --out"
            ) from None

    def _remove(self, new: Iterable[Path]) -> None:
        """Empty the folder, which was so before, and remove the ``new`` folders, itself first."""
        with suppress(OSError):
            for entry in self.path.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink()
        with suppress(OSError):
            for folder in new:
                folder.rmdir()

    def _report_before(self, report: Mapping[str, Any]) -> dict[str, Any]:
        try:
            before: dict[str, Any] = json.loads(self.report.read_text("utf-8"))
            same = before["ticket"]["weights_digest"] == report["ticket"]["weights_digest"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return before if same else {}


def default_folder(config: RunConfig) -> RunFolder:
    """Return a folder under ``runs/`` that does not exist, named after the run."""
    stem = f"{_as_name(config.model)}-{_as_name(config.data)}-seed{config.seed}"
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
    """Return the options a ticket was found with, changed by flags.

    Raises TicketError if the ticket does not say them, or if those of its run name another network.
    """
    if run is not None and run.config.exists():
        config = load_config(str(run.config), flags)
        named = {"name": config.model, "width": config.width, "norm": config.norm}
        changed = [
            f"{key} {ticket.model[key]}, not {named[key]}"
            for key in named
            if ticket.model.get(key, named[key]) != named[key]
        ]
        if changed:
            raise TicketError(
                f"this ticket is of another network than {run.config} names: {'; '.join(changed)}; "
                f"put the options back, or name the ticket file {run.ticket} itself"
            )
        return config
    options = ticket.provenance.get("config")
    if not isinstance(options, dict) or not RunConfig.model_fields.keys() >= options.keys():
        raise TicketError(
            "this ticket does not say, in words of this release, how it was found, so its data are not known; "
            "use strongticket.evaluate with your own network and data"
        )
    if isinstance(options.get("gain"), float):  # tickets of format 1 call the gain of the weights' law so
        options = {**options, "weight_gain": options["gain"], "gain": None}
    return load_config(None, {**options, **flags})


def save_tickets(run: RunFolder, best: Ticket, last: Ticket) -> None:
    """Write the two tickets of a finished search."""
    save(last, run.last_ticket)
    save(best, run.ticket)


def environment() -> dict[str, Any]:
    """Return versions, hardware, command and git commit, as JSON values."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "versions": {"torch": torch.__version__, **{name: _version(name) for name in _PACKAGES}},
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


def _as_name(text: str) -> str:
    """Return the end of a model's or data set's name as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text)[-40:].strip("-.")


def _as_json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()
