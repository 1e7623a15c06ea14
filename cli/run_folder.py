"""The folder of a run: what lies in it, that it holds one run only, and that one process writes it."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strongticket import Ticket
from strongticket.errors import ConfigError, TicketError
from strongticket.files import is_half, locked, remove_halves, write_beside
from strongticket.models import is_factory
from strongticket.search.checkpoint import has_checkpoint
from strongticket.search.config import MACHINE_OPTIONS
from strongticket.ticket import load, save

from .config import RunConfig, format_config, load_config
from .environment import environment
from .report_file import add_to_report, report_held

# What says where and how a run ran and lies, and not what it is: two tickets of one search differ in none of it.
PLACE = frozenset(
    {"checkpoint_epochs", "checkpoint_minutes", "coder", "data_dir", "deterministic", "device", "download", "out"}
    | {"track", "workers"}
)
# Images that cannot be read may be left out later: what would else end a run need not.
_MAY_CHANGE = PLACE | MACHINE_OPTIONS | {"skip_bad_images"}


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
        """Versions, hardware, command, and what was left out of the data."""
        return self.path / "environment.json"

    @property
    def lock(self) -> Path:
        """There while a process writes the run, which holds it."""
        return self.path / ".lock"

    def check_free(self) -> None:
        """Raise ConfigError unless a run can begin here: there is nothing yet, or an empty folder.

        What a kill left of a beginning does not count.
        """
        if self.config.exists():
            with self.held():  # one that is under way is said to be that
                pass
        self._refuse_contents()

    def check_begun(self) -> None:
        """Raise ConfigError unless there is a run here."""
        if not self.config.exists():
            raise ConfigError(f"{self.path} holds no run to resume (no config.yaml); start one without --resume")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from writing the run while the block runs; ConfigError if one does."""
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.lock))
            except BlockingIOError as error:
                raise ConfigError(
                    f"the run in {self.path} is being written by {error.strerror}; wait until that has ended, or "
                    "choose another --out"
                ) from None
            except OSError as error:
                raise self._not_writable(error) from None
            yield

    @contextmanager
    def begun(self, config: RunConfig) -> Iterator[None]:
        """Create the folder, hold it, and write down the options and the machine, for what is done inside the block.

        If the block fails before there is a checkpoint or a ticket, all that was created is removed again.
        Raises ConfigError if the folder holds another run or cannot be written.
        """
        self.check_free()
        new = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            self._create()
            with self.held():
                self._refuse_contents()  # another process may have been faster
                remove_halves(self.path)
                try:
                    self._write_beginning(config)
                    yield
                except BaseException:
                    if not (has_checkpoint(self.checkpoint) or self.ticket.exists()):
                        self._empty()
                    raise
        except BaseException:
            with suppress(OSError):  # it is not empty, as a rule
                for folder in new:
                    folder.rmdir()
            raise

    def options_to_resume(self, config: str | None, flags: Mapping[str, Any]) -> RunConfig:
        """Return the options to go on with: those of the run, given again or not.

        Raises ConfigError if there is no run to go on with, if it is finished, or if the options given now
        are not those it began with, machine and place aside.
        """
        self.check_begun()
        if self.report.exists() and self.ticket.exists():
            self.remove_checkpoint()  # a kill may have come before its end
            self._tidy()
            raise ConfigError(f"the run in {self.path} is finished; evaluate it, or choose another --out")
        options = load_config(config or str(self.config), flags)
        before, now = (each.model_dump(mode="json") for each in (load_config(str(self.config)), options))
        changed = [
            f"{key} ({before[key]} → {now[key]})" for key in now if key not in _MAY_CHANGE and before[key] != now[key]
        ]
        if changed:
            raise ConfigError(
                f"the run in {self.path} began with other options: {', '.join(changed)}; "
                "resume it with its own, or choose another --out"
            )
        return options

    def note_resumption(self) -> None:
        """Write down on which machine the run goes on, and clear away what a kill left half-written."""
        self._tidy()
        self.note(resumed=[*self.noted.get("resumed", []), environment()])

    @property
    def noted(self) -> dict[str, Any]:
        """What ``environment.json`` holds; nothing if it is missing or damaged."""
        try:
            values = json.loads(self.environment.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}

    def note(self, **values: Any) -> None:
        """Write JSON values down in ``environment.json``, each under its name."""
        write_beside(self.environment, _as_json({**self.noted, **values}))

    def write_metrics(self, history: Iterable[Mapping[str, Any]]) -> None:
        """Write all epochs so far; a figure that is not finite, which JSON does not have, as null."""
        write_beside(self.metrics, "".join(json.dumps(_finite(epoch)) + "\n" for epoch in history).encode())

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
        """Add a report to the one there is, and return the sum."""
        return add_to_report(self.report, report)

    def _write_beginning(self, config: RunConfig) -> None:
        # Without its place, so that a run repeated from this file gets a folder of its own.
        options = config.model_copy(update={"out": None})
        try:
            # First what makes it a run: killed right after it, it can be resumed.
            write_beside(self.config, format_config(options).encode())
            write_beside(self.environment, _as_json(environment()))
        except OSError as error:
            raise self._not_writable(error) from None

    def _tidy(self) -> None:
        """Clear away what a kill left half-written."""
        with report_held(self.report):
            remove_halves(self.path)

    def _create(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._not_writable(error) from None

    def _not_writable(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"the run folder {self.path} cannot be written: {error.strerror}; make room or choose another --out"
        )

    def _refuse_contents(self) -> None:
        if self.config.exists():
            raise ConfigError(f"{self.path} holds another run; go on with it by --resume, or choose another --out")
        if self.path.exists() and (not self.path.is_dir() or not all(map(self._is_left_over, self.path.iterdir()))):
            raise ConfigError(f"{self.path} is not an empty folder; choose another --out")

    def _is_left_over(self, entry: Path) -> bool:
        return entry == self.lock or is_half(entry)

    def _empty(self) -> None:
        """Empty the folder, which was so before."""
        with suppress(OSError):
            for entry in self.path.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink()


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


def check_model(ticket: Ticket, run: RunFolder | None, model: str | None) -> None:
    """Raise ConfigError if the network that a ticket names is code which nobody here has named.

    A ticket is a file that may come from anyone. Its ``package.module:factory`` would be imported and called: it has to
    stand in ``model``, which the user typed, or in the configuration of the run that the ticket lies in.
    """
    options = ticket.provenance.get("config")
    told = [ticket.model.get("name"), options.get("model") if isinstance(options, dict) else None]
    names = list(dict.fromkeys(str(name) for name in told if name is not None))
    if model is not None and names and names != [model]:
        others = " and ".join(f"{name!r:.200}" for name in names)
        raise ConfigError(f"--model {model} was given, but the ticket is of {others}; leave it out")
    known = load_config(str(run.config)).model if run is not None and run.config.exists() else None
    for name in names:
        if is_factory(name) and name not in (model, known):
            raise ConfigError(
                f"the network of this ticket is code that would be imported and run; if you trust it, "
                f"name it: --model {name!r:.200}"
            )


def config_of(ticket: Ticket, run: RunFolder | None, flags: Mapping[str, Any]) -> RunConfig:
    """Return the options a ticket was found with, changed by flags.

    Raises TicketError if the ticket does not say them, or if those of its run name another network.
    """
    if run is not None and run.config.exists():
        config = load_config(str(run.config), flags)
        named = {"name": config.model, "width": config.width, "norm": config.norm}
        named["activation"] = config.built_activation
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


def save_tickets(run: RunFolder, best: Ticket, last: Ticket, *, coder: str) -> None:
    """Write the two tickets of a finished search, with the masks coded by ``coder``."""
    save(last, run.last_ticket, coder=coder)
    save(best, run.ticket, coder=coder)


def _as_name(text: str) -> str:
    """Return the end of a model's or data set's name as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text)[-40:].strip("-.")


def _finite(epoch: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in epoch.items()
    }


def _as_json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()
