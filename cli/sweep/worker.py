"""Working off a sweep: a worker takes a run, does it, writes down what became of it, and takes the next."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from strongticket.errors import InterruptedRunError
from strongticket.search import EpochDone, Event, StepDone
from strongticket.search.interruption import StopRequest, listening

from .. import console, progress
from ..run_folder import RunFolder
from .ledger import Claim, Ledger, Pulse
from .plan import Sweep
from .results import describe
from .trial import RunBusyError, RunFailedError, measure

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

TRIALS = "trials"
AGAIN = "run the same command to go on"


class RunTakenError(Exception):
    """The run is no longer ours: we were taken for dead."""


@dataclass(frozen=True)
class Job:
    """What a worker is told."""

    sweep: Sweep
    storage: str
    out: Path
    patience: float


def work(job: Job, storage: BaseStorage, *, alone: bool = True) -> None:
    """Take runs and do them until all runs of the sweep are over, here and elsewhere.

    A worker that is ``alone`` on its machine shows how far its run is.

    Raises InterruptedRunError, after the run under way was saved and given back, if SIGINT or SIGTERM asks to stop.
    """
    total = job.sweep.points * len(job.sweep.seeds)
    waiting = False
    with listening() as stop, Ledger(job.sweep, storage, job.out, patience=job.patience) as ledger:
        while not stop():
            claim = ledger.claim()
            if claim is not None:
                _do(job, ledger, claim, stop, alone=alone)
            elif (done := len(ledger.done())) == total:
                return
            else:
                if alone and not waiting:
                    console.note(
                        f"{total - done} runs are with other workers; this one waits, in case one of them dies"
                    )
                    waiting = True
                _sleep(min(2.0, job.patience / 10), stop)
    raise InterruptedRunError(f"stopped; {AGAIN}", signal=stop.signal or 0)


def _do(job: Job, ledger: Ledger, claim: Claim, stop: StopRequest, *, alone: bool) -> None:
    """Do one run, and write down what became of it."""
    sweep, words = job.sweep, describe(claim.values, claim.slot.seed)
    options = sweep.options(claim.values, claim.slot.seed)
    name = f"{TRIALS}/{sweep.folder_name(claim.slot, claim.values)}"
    try:
        with ExitStack() as stack:
            pulse = stack.enter_context(ledger.pulse(claim))
            bar = stack.enter_context(console.ProgressLine(words, every=60.0)) if alone else None
            listener = _listener(pulse, stop, partial(progress.show, bar, options.epochs) if bar else None)
            outcome = measure(options, RunFolder(job.out / name), listener)
    except RunFailedError as error:
        ledger.fail(claim, str(error))
        console.note(f"{words}: failed: {error}")
    except RunTakenError:
        console.note(f"{words}: another worker took this run up, since nothing was heard of this one for a while")
    except RunBusyError as error:
        ledger.give_back(claim)
        console.note(f"{words}: {error}")
        _sleep(min(10.0, job.patience / 6), stop)
    except BaseException as error:
        with suppress(Exception):
            ledger.give_back(claim)
        if isinstance(error, InterruptedRunError):
            raise InterruptedRunError(f"stopped; {AGAIN}", signal=error.signal) from None
        raise
    else:
        if ledger.finish(claim, outcome.accuracy, {**outcome.facts, "host": ledger.host, "run": name}):
            done, total = len(ledger.done()), sweep.points * len(sweep.seeds)
            console.note(f"{done}/{total}  {words}: validation accuracy {outcome.accuracy:.4f}")


def _listener(pulse: Pulse, stop: StopRequest, show: Callable[[StepDone], None] | None) -> Callable[[Event], None]:
    def listen(event: Event) -> None:
        if pulse.lost.is_set():
            raise RunTakenError
        if stop():
            raise InterruptedRunError("stopped", signal=stop.signal or 0)  # asked for before the search listened
        if isinstance(event, EpochDone):
            pulse.epoch = event.epoch
        elif isinstance(event, StepDone) and show is not None:
            show(event)

    return listen


def _sleep(seconds: float, stop: StopRequest) -> None:
    until = time.monotonic() + seconds * (0.5 + random.random())
    while not stop() and (rest := until - time.monotonic()) > 0:
        time.sleep(min(0.2, rest))
