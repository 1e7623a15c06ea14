"""One run of a sweep: a search in a folder of its own, gone on with where there is something to go on from.

The test split is not read: a sweep chooses by held-out images.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from strongticket import Ticket
from strongticket.errors import ConfigError, DataError, ModelError, SearchError, StrongTicketError
from strongticket.search import Event, seeded
from strongticket.ticket import load
from strongticket.ticket.storage import mask_bits

from .. import console
from ..assembly import Assembly, assemble
from ..config import RunConfig, load_config
from ..finding import find_ticket
from ..omissions import Omissions
from ..run_folder import RunFolder
from .plan import told


class RunFailedError(StrongTicketError):
    """These options give no ticket: the loss diverged, or no such network can be built. Others may."""


class RunBusyError(StrongTicketError):
    """Another process is writing the folder of the run."""


class _UnusableError(StrongTicketError):
    """What lies in the folder is nothing to go on from."""


@dataclass(frozen=True)
class Outcome:
    """What a run found: accuracy on the held-out images, and facts as JSON values."""

    accuracy: float
    facts: dict[str, Any]


def measure(options: RunConfig, run: RunFolder, on_event: Callable[[Event], None]) -> Outcome:
    """Search in the folder ``run``, which belongs to these options alone, and return what was found.

    A search that is finished there is read and not repeated, one that was stopped goes on. Raises RunFailedError if
    the options give no ticket, RunBusyError if another process is in the folder, DataError if the data cannot be
    read, and whatever ``on_event`` raises.
    """
    found = _finished(options, run)
    if found is not None:
        return found
    parts = assemble(options)
    try:
        _search(parts, run, on_event)
    except _UnusableError as error:
        console.note(f"{error}: the run begins anew")
        shutil.rmtree(run.path)
        _search(parts, run, on_event)
    found = _finished(options, run)
    if found is None:
        raise SearchError(f"the ticket in {run.path} is not the one just written; does something else write there?")
    return found


def _search(parts: Assembly, run: RunFolder, on_event: Callable[[Event], None]) -> None:
    heard: list[Event] = []

    def listen(event: Event) -> None:
        heard[:] = [event]
        on_event(event)

    with seeded(parts.config.seed), _writing(run, parts.config) as resume:
        try:
            model = parts.attached_model()
        except (ConfigError, ModelError) as error:
            raise RunFailedError(str(error)) from None
        omissions = Omissions(parts.data, run)
        omissions.tell()
        try:
            find_ticket(parts, model, run, omissions, resume=resume, on_event=listen, quiet=True)
        except SearchError as error:
            raise (_UnusableError if resume and not heard else RunFailedError)(str(error)) from None
        except RuntimeError as error:
            raise _explained(error) from error
        run.remove_checkpoint()


@contextmanager
def _writing(run: RunFolder, options: RunConfig) -> Iterator[bool]:
    """Hold the folder of a run while the block runs; give True if there is something in it to go on from."""
    try:
        if _is_begun(run, options):
            with run.held():
                yield True
        else:
            if run.path.exists():
                with run.held():
                    pass
                shutil.rmtree(run.path)
            with run.begun(options):
                yield False
    except ConfigError as error:
        if isinstance(error.__context__, BlockingIOError):
            raise RunBusyError(str(error)) from None
        raise


def _is_begun(run: RunFolder, options: RunConfig) -> bool:
    if not run.config.exists():
        return False
    try:
        return told(load_config(str(run.config))) == told(options)
    except ConfigError:
        return False


def _finished(options: RunConfig, run: RunFolder) -> Outcome | None:
    """Return what was found in the folder, None unless a search with these options came to its end there."""
    if not run.ticket.exists():
        return None
    try:
        ticket = load(run.ticket)
    except StrongTicketError:
        return None
    accuracy = ticket.provenance.get("validation_accuracy")
    if ticket.provenance.get("config") != told(options) or not isinstance(accuracy, float):
        return None
    return Outcome(accuracy, _facts(ticket, run))


def _facts(ticket: Ticket, run: RunFolder) -> dict[str, Any]:
    return {
        "epoch": ticket.provenance["epoch"],
        "kept_density": ticket.density,
        "bits_per_weight": mask_bits(ticket) / ticket.total,
        "file_bytes": run.ticket.stat().st_size,
        "seconds": round(sum(epoch["seconds"] for epoch in run.read_metrics()), 3),
    }


def _explained(error: RuntimeError) -> Exception:
    """Return what torch calls a RuntimeError by what it is."""
    text = str(error)
    if ("alloc" in text and "memory" in text) or type(error).__name__ == "OutOfMemoryError":
        return RunFailedError("there is not enough memory; use fewer --workers, or a smaller width or batch_size")
    if text.startswith("DataLoader worker"):
        return DataError("a process that reads images died, as it does where memory is short; use fewer --workers")
    return error
