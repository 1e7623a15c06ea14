"""A search in the folder of a run: metrics as it goes, tickets when it is done."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from strongticket import Ticket, search
from strongticket.search import EpochDone, Event, Processes, SearchResult
from strongticket.search.checkpoint import has_checkpoint

from . import console
from .assembly import Assembly
from .config import RunConfig
from .omissions import Omissions
from .run_folder import RunFolder, save_tickets
from .trackers import Metrics, tracking


def find_ticket(
    parts: Assembly,
    model: nn.Module,
    run: RunFolder,
    omissions: Omissions,
    *,
    resume: bool,
    on_event: Callable[[Event], None],
    quiet: bool = False,
    processes: Processes | None = None,
) -> tuple[Ticket, SearchResult]:
    """Search an attached ``model`` in the folder of a run that is held; return its ticket and how it was found.

    The folder gets the metrics of every epoch and the tickets. The test split is not read. ``on_event`` hears what
    ``strongticket.search`` tells, after it was written down. Says where the run lies, unless ``quiet``. The other
    ``processes``, if there are any, have to ``assist``.
    """
    _note_images(parts, run, resume)
    with Record(run, parts.config, omissions) as record:
        if not quiet:
            console.note(f"run: {run.path}")

        def listen(event: Event) -> None:
            _share_omissions(event, parts, processes)
            record(event)
            on_event(event)

        result = search(
            model,
            parts.train(),
            parts.config.search_config,
            validation=parts.validation(),
            on_event=listen,
            checkpoint=run.checkpoint,
            resume=resume,
        )
    run.write_metrics(result.history)
    spec = parts.model_spec()
    ticket, last = (
        replace(found, model=spec, provenance=parts.provenance(epoch, result.history))
        for found, epoch in ((result.ticket, result.best_epoch), (result.last, parts.config.epochs))
    )
    save_tickets(run, ticket, last, coder=parts.config.coder)
    return ticket, result


def assist(parts: Assembly, model: nn.Module, processes: Processes, *, checkpoint: Path, resume: bool) -> None:
    """Take part in the search of the first process, as one of the others; nothing is written or said."""
    search(
        model,
        parts.train(),
        parts.config.search_config,
        validation=parts.validation(),
        on_event=lambda event: _share_omissions(event, parts, processes),
        checkpoint=checkpoint,
        resume=resume,
    )


def _share_omissions(event: Event, parts: Assembly, processes: Processes | None) -> None:
    """After an epoch, let every process know of the images that any of them left out."""
    if processes is not None and parts.config.skip_bad_images and isinstance(event, EpochDone):
        for skipped in processes.gathered(dict(parts.data.skipped)):
            parts.data.note_skipped(skipped)


class Record:
    """Writes the metrics of a run down epoch by epoch, and gives them to its tracker; a context manager."""

    def __init__(self, run: RunFolder, config: RunConfig, omissions: Omissions) -> None:
        self._run, self._config, self._omissions = run, config, omissions
        self._history: list[dict[str, Any]] = run.read_metrics()
        self._stack = ExitStack()
        self._track: Metrics

    def __enter__(self) -> Record:
        self._track = self._stack.enter_context(tracking(self._config.track, self._run.path, self._config))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def __call__(self, event: Event) -> None:
        """Write down an epoch that is done."""
        if isinstance(event, EpochDone):
            self._history = [*self._history[: event.epoch - 1], event.as_dict()]
            self._run.write_metrics(self._history)
            self._omissions.tell()
            self._track(event.as_dict(), event.epoch)


def _note_images(parts: Assembly, run: RunFolder, resume: bool) -> None:
    """Write down how many images there are, and say what has changed since the run began."""
    sizes = {part: len(getattr(parts.data, part)) for part in ("train", "validation", "test")}
    if not resume:
        run.note(images=sizes)
        return
    before = run.noted.get("images", sizes)
    run.note_resumption()
    if not has_checkpoint(run.checkpoint):
        console.note(f"{run.path} holds no checkpoint yet: the search begins anew")
    if before != sizes:
        console.note(f"the data have changed: {before} images when the run began, now {sizes}; it goes on with these")
