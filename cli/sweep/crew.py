"""Several workers on one machine, each a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING

import torch

from strongticket.errors import InterruptedRunError, SearchError, StrongTicketError
from strongticket.search.interruption import listening

from .. import console
from .ledger import Ledger
from .storage import open_storage
from .worker import AGAIN, Job, work

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

_DEATHS = 10  # of each worker, without anything done in between
_GRACE = 60.0  # seconds for a worker to save a checkpoint once it is asked to stop


def crew(job: Job, ledger: Ledger, count: int) -> None:
    """Let ``count`` processes work until all runs in ``ledger`` are over; one that is killed is replaced.

    Raises InterruptedRunError if SIGINT or SIGTERM asks to stop, and SearchError with what a worker could not go on
    for; the others are stopped, and save what they have, before.
    """
    members: list[_Member] = []
    deaths, progress = 0, (0, 0)
    with listening() as stop:
        try:
            members += [_Member(job, index, count) for index in range(count)]
            while members:
                wait([member.process.sentinel for member in members], timeout=0.5)
                if stop():
                    raise InterruptedRunError(f"stopped; {AGAIN}", signal=stop.signal or 0)
                for member in [member for member in members if not member.process.is_alive()]:
                    members.remove(member)
                    if not member.was_killed():
                        continue
                    before, progress = progress, (len(ledger.done()), ledger.lost())
                    deaths = deaths + 1 if progress == before else 1
                    if deaths > _DEATHS * count:
                        raise SearchError(
                            f"the workers die before they do anything ({member.end}); see why, and {AGAIN}"
                        )
                    console.note(f"worker {member.index + 1} was killed ({member.end}); another takes its run up")
                    members.append(_Member(job, member.index, count))
        finally:
            _end(members)


class _Member:
    """One process of a crew."""

    def __init__(self, job: Job, index: int, count: int) -> None:
        self.index = index
        # Not forked: a process that has used its threads or a GPU cannot be copied.
        context = multiprocessing.get_context("spawn")
        self._told, telling = context.Pipe(duplex=False)
        self.process: SpawnProcess = context.Process(
            target=_run_member, args=(job, index, count, telling), name=f"strongticket-sweep-{index}"
        )
        self.process.start()
        telling.close()

    @property
    def end(self) -> str:
        """How the process ended, in words."""
        code = self.process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def was_killed(self) -> bool:
        """Say whether the process, which has ended, came to no end of its own; raise what it could not go on for."""
        self.process.join()
        try:
            kind, text = self._told.recv()
        except EOFError:
            return self.process.exitcode != 0
        finally:
            self._told.close()
        if kind == "bug":
            raise RuntimeError(text)
        raise SearchError(text)


def _run_member(job: Job, index: int, count: int, telling: Connection) -> None:
    """Work as one process of a crew, and tell at the end what went wrong, if anything."""
    os.dup2(2, 1)  # stdout belongs to the results
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    _share_machine(index, count, job.sweep.base.device)
    try:
        work(job, open_storage(job.storage), alone=False)
    except InterruptedRunError as error:
        sys.exit(128 + error.signal)
    except (StrongTicketError, OSError) as error:
        telling.send(("error", str(error)))
        sys.exit(1)
    except Exception as error:
        if os.environ.get("STRONGTICKET_DEBUG", "") not in ("", "0"):
            traceback.print_exc()
        telling.send(("bug", f"{type(error).__name__}: {error}"))
        sys.exit(1)


def _stop_with_parent() -> None:
    """Stop like on SIGTERM when the process that started this one is gone: nobody else would."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _share_machine(index: int, count: int, device: str) -> None:
    """Take this worker's part of the processors and, in turn with the others, one GPU."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // count))
    if device != "cpu" and (gpus := visible_gpus()):
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return [str(index) for index in range(torch.cuda.device_count())]


def _end(members: Sequence[_Member]) -> None:
    """Ask processes to stop, and wait until they have."""
    for member in members:
        with suppress(OSError):
            member.process.terminate()
    until = time.monotonic() + _GRACE
    for member in members:
        member.process.join(max(0.0, until - time.monotonic()))
        if member.process.is_alive():
            member.process.kill()
            member.process.join()
