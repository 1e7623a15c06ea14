"""A search by several processes: what the first one tells the others, and what those do."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from click.exceptions import Exit

from strongticket.errors import InterruptedRunError, StrongTicketError
from strongticket.search import LostProcessError, Processes, seeded

from . import console
from .assembly import Assembly, assemble
from .config import RunConfig
from .finding import assist
from .run_folder import RunFolder

Result = TypeVar("Result")


def all_do(processes: Processes | None, work: Callable[[], Result]) -> Result:
    """Do ``work``, which the other processes know of: if it fails in one it fails in all."""
    return work() if processes is None else processes.agreed(work)


def tell(processes: Processes | None, options: RunConfig, run: RunFolder, *, resume: bool) -> None:
    """Tell the others what is searched."""
    if processes is not None:
        told = {"options": options.model_dump(mode="json"), "run": str(run.path), "resume": resume}
        processes.told(json.dumps(told).encode())


def assembled(
    options: RunConfig, processes: Processes | None, *, on_progress: Callable[[int, int], None] | None = None
) -> Assembly:
    """Load the data of a run in every process; what is to be fetched is fetched by the first one, before the others."""
    load = partial(assemble, options, on_progress=on_progress)
    if processes is None or not options.download:
        return all_do(processes, load)
    fetched = processes.agreed(lambda: load() if processes.rank == 0 else None)
    return processes.agreed(lambda: fetched or load())


@contextmanager
def speaking(processes: Processes | None) -> Iterator[None]:
    """Let process 0 alone say what ends the block, and any that is left where that one is lost.

    The launcher ends all processes as soon as one is lost, while the others are still finding out.
    """
    try:
        yield
    except BaseException as error:
        lost = _loss_behind(error)
        if lost is not None:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if processes is None or processes.rank == 0:
                console.error(str(lost))
            elif not lost.ranks or 0 in lost.ranks:
                console.error(f"{lost}; what process 0 wrote to its checkpoint is kept: go on with --resume")
            raise Exit(1) from None
        if processes is None or processes.rank == 0:
            raise
        if isinstance(error, InterruptedRunError | KeyboardInterrupt):
            raise Exit(128 + getattr(error, "signal", signal.SIGINT)) from None
        if isinstance(error, StrongTicketError):
            raise Exit(1) from None
        raise


def _loss_behind(error: BaseException | None) -> LostProcessError | None:
    while error is not None and not isinstance(error, LostProcessError):
        error = error.__context__
    return error


def follow(processes: Processes) -> None:
    """Do the part of a process that is not the first; it writes nothing."""
    processes.agreed(lambda: None)  # the first one looks at its options and its folder
    told = json.loads(processes.told())
    options = RunConfig.model_validate_json(json.dumps(told["options"]))
    parts = assembled(options, processes)
    processes.agreed(lambda: None)  # the first one begins its folder
    with seeded(options.seed):
        model = parts.attached_model()
        run = RunFolder(Path(told["run"]))
        assist(parts, model, processes, checkpoint=run.checkpoint, resume=told["resume"])
