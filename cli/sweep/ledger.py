"""Who measures what: the trials of a sweep as its storage has them.

Every worker reads the same list of trials, which only grows, and takes what is open in it. Taking is one entry: a
trial that says which run it is of, which values, and by whom. Of several entries for one run the first one counts,
and whoever wrote a later one withdraws it, so nothing has to be locked across machines. An entry whose worker is gone
is ended by whoever notices, and its run is open again: what has to be done follows from the file of the sweep and not
from a queue, so nothing can be lost with a worker. An entry that was ended takes no result any more.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strongticket.files import locked

from .plan import Choices, Slot, Sweep
from .sampling import Known, distribution, encoded, optuna_module, propose
from .storage import patiently

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

_RETRIED = "retried"  # the last of the trials whose failures no longer count
_DEATHS = 50  # in a row, at the same epoch, of one run


@dataclass(frozen=True)
class Claim:
    """A run that is ours to do."""

    number: int
    trial_id: int
    slot: Slot
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Done:
    """What became of a run: its held-out accuracy, or the error it ended in. ``facts`` are JSON values."""

    number: int
    slot: Slot
    values: Mapping[str, Any]
    accuracy: float | None
    error: str | None
    facts: Mapping[str, Any]


@dataclass
class Pulse:
    """A worker's signs of life: it writes how far it is, and reads whether the run is still its own."""

    epoch: int = 0
    lost: threading.Event = field(default_factory=threading.Event)


class Ledger:
    """The trials of one sweep, seen from one worker; a context manager for as long as the worker works.

    ``patience`` is the time in seconds without a sign of life after which a worker is taken for dead. A worker on
    the same machine, whose folder can be seen, is known to be dead at once.
    """

    def __init__(self, sweep: Sweep, storage: BaseStorage, out: Path, *, patience: float) -> None:
        self._sweep, self._storage, self._out, self._patience = sweep, storage, out.absolute(), patience
        self._optuna = optuna_module()
        self._state = self._optuna.trial.TrialState
        self._study = patiently(
            lambda: self._optuna.create_study(
                storage=storage, study_name=sweep.study, direction="maximize", load_if_exists=True
            ),
            patience,
        )
        self.host = socket.gethostname()
        self._worker = uuid.uuid4().hex
        self._lock = self._out / f".worker-{self._worker}.lock"
        self._retried = -1
        self._pulses: dict[int, tuple[Any, float]] = {}

    def __enter__(self) -> Ledger:
        self._holding = locked(self._lock)
        self._holding.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._holding.__exit__(None, None, None)

    def claim(self) -> Claim | None:
        """Take the first run that nobody has; None if there is none now."""
        while True:
            with locked(self._out / ".claims.lock", wait=True):  # workers here need not get into each other's way
                self._end_dead()
                trials = self._trials()
                taken = {_slot(trial) for trial in trials if self._holds(trial)}
                slot = next((slot for slot in self._sweep.slots() if slot not in taken), None)
                if slot is None:
                    return None
                claim = self._entered(slot, self._values(slot.point, trials))
            if claim is None:
                continue
            if (deaths := self._deaths(slot, trials)) >= _DEATHS:
                self.fail(claim, f"its worker died {deaths} times without coming further; is there enough memory?")
                continue
            return claim

    def finish(self, claim: Claim, accuracy: float, facts: Mapping[str, Any]) -> bool:
        """Write down a result; False if the run was taken from us in between."""
        return self._end(claim, self._state.COMPLETE, accuracy, facts=dict(facts))

    def fail(self, claim: Claim, error: str) -> bool:
        """Write down that the run cannot be done; nobody tries it again."""
        return self._end(claim, self._state.FAIL, ended="failed", error=error[:1000])

    def give_back(self, claim: Claim) -> None:
        """Leave the run to others."""
        self._end(claim, self._state.FAIL, ended="stopped")

    def done(self) -> dict[Slot, Done]:
        """Return all runs that are over, each once."""
        found: dict[Slot, Done] = {}
        for trial in self._trials():
            slot, said = _slot(trial), trial.user_attrs
            failed = trial.state == self._state.FAIL and self._has_failed(trial)
            complete = trial.state == self._state.COMPLETE
            if (complete or failed) and (slot not in found or (complete and found[slot].accuracy is None)):
                accuracy = trial.value if complete else None
                error = said.get("error") if failed else None
                found[slot] = Done(trial.number, slot, said["values"], accuracy, error, said.get("facts", {}))
        return {slot: found[slot] for slot in self._sweep.slots() if slot in found}

    def retry(self) -> None:
        """Open the runs that failed again, for every worker."""
        last = max((trial.number for trial in self._trials()), default=-1)
        patiently(lambda: self._study.set_user_attr(_RETRIED, last), self._patience)

    def lost(self) -> int:
        """Return how many times a worker died over a run, which others then took up."""
        return sum(trial.user_attrs.get("ended") == "lost" for trial in self._trials())

    @contextmanager
    def pulse(self, claim: Claim) -> Iterator[Pulse]:
        """Give signs of life for a run while the block runs."""
        pulse, stop = Pulse(), threading.Event()

        def beat() -> None:
            count = 0
            while not stop.wait(self._patience / 6):
                count += 1
                try:
                    self._storage.set_trial_user_attr(claim.trial_id, "beat", [count, pulse.epoch])
                except self._optuna.exceptions.UpdateFinishedTrialError:
                    pulse.lost.set()
                    return
                except Exception:  # the storage cannot be reached now; the next sign may get through
                    continue

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield pulse
        finally:
            stop.set()
            thread.join()

    def _trials(self) -> list[FrozenTrial]:
        trials, said = patiently(
            lambda: (self._study.get_trials(deepcopy=False), self._study.user_attrs), self._patience
        )
        self._retried = said.get(_RETRIED, -1)
        return [trial for trial in trials if "claim" in trial.user_attrs]

    def _values(self, point: int, trials: Sequence[FrozenTrial]) -> dict[str, Any]:
        """Return the values of a point: those of its first entry, or new ones."""
        points = _values_of_points(trials)
        if point in points:
            return points[point]
        cells = len(self._sweep.cells)
        measured: dict[int, list[float]] = {}
        for done in self.done().values():
            if done.accuracy is not None:
                measured.setdefault(done.slot.point, []).append(done.accuracy)
        known = [
            Known(values, measured.get(other, [])) for other, values in points.items() if other % cells == point % cells
        ]
        return propose(self._sweep, point, known)

    def _entered(self, slot: Slot, values: Mapping[str, Any]) -> Claim | None:
        """Enter a run as ours, and return it if no other entry came first."""
        name = uuid.uuid4().hex
        distributions = {key: distribution(Choices(given)) for key, given in self._sweep.grid.items()}
        distributions |= {key: distribution(given) for key, given in self._sweep.sample.items()}
        distributions["seed"] = distribution(Choices(self._sweep.seeds))
        entry = self._optuna.create_trial(
            state=self._state.RUNNING,
            params={**{key: encoded(value) for key, value in values.items()}, "seed": slot.seed},
            distributions=distributions,
            user_attrs={
                "claim": name,
                "point": slot.point,
                "values": dict(values),
                "host": self.host,
                "worker": self._worker,
                "lock": str(self._lock),
                "beat": [0, 0],
            },
        )
        patiently(lambda: self._study.add_trial(entry), self._patience)
        trials = self._trials()
        mine, *again = (trial for trial in trials if trial.user_attrs["claim"] == name)
        for trial in again:  # the storage had it, and we did not hear so
            self._close(trial, "withdrawn")
        first = next((trial for trial in trials if _slot(trial) == slot and self._holds(trial)), None)
        if first is not None and first.number == mine.number and _values_of_points(trials)[slot.point] == values:
            return Claim(mine.number, mine._trial_id, slot, values)
        self._close(mine, "withdrawn")
        return None

    def _holds(self, trial: FrozenTrial) -> bool:
        return trial.state in (self._state.RUNNING, self._state.COMPLETE) or self._has_failed(trial)

    def _has_failed(self, trial: FrozenTrial) -> bool:
        return trial.user_attrs.get("ended") == "failed" and trial.number > self._retried

    def _deaths(self, slot: Slot, trials: Sequence[FrozenTrial]) -> int:
        """Return how many workers in a row died over a run without coming further than those before."""
        deaths = epoch = 0
        for trial in trials:
            if _slot(trial) == slot and trial.user_attrs.get("ended") == "lost" and trial.number > self._retried:
                reached = trial.user_attrs["beat"][1]
                deaths, epoch = (0 if reached > epoch else deaths) + 1, max(epoch, reached)
        return deaths

    def _end_dead(self) -> None:
        """End the entries of workers that are gone, so that their runs are open again."""
        for trial in self._trials():
            if trial.state == self._state.RUNNING and self._is_dead(trial):
                self._close(trial, "lost")
                if trial.user_attrs["host"] == self.host:
                    Path(trial.user_attrs["lock"]).unlink(missing_ok=True)

    def _is_dead(self, trial: FrozenTrial) -> bool:
        said = trial.user_attrs
        if said["worker"] == self._worker:
            return True  # a worker has one run at a time, and asks for the next one only without any
        if said["host"] == self.host and (gone := _is_free(Path(said["lock"]))) is not None:
            return gone
        beat, since = self._pulses.get(trial.number, (None, 0.0))
        if beat != said["beat"]:
            self._pulses[trial.number] = (said["beat"], time.monotonic())
            return False
        return time.monotonic() - since > self._patience

    def _close(self, trial: FrozenTrial, why: str) -> None:
        slot = _slot(trial)
        self._end(Claim(trial.number, trial._trial_id, slot, trial.user_attrs["values"]), self._state.FAIL, ended=why)

    def _end(self, claim: Claim, state: Any, accuracy: float | None = None, **said: Any) -> bool:
        def write() -> bool:
            try:
                for key, value in said.items():
                    self._storage.set_trial_user_attr(claim.trial_id, key, value)
                self._study.tell(claim.number, accuracy, state=state)
            except (self._optuna.exceptions.UpdateFinishedTrialError, ValueError):
                trial = self._storage.get_trial(claim.trial_id)  # ended by another, or by us, and we did not hear so
                same = all(trial.user_attrs.get(key) == value for key, value in said.items())
                return bool(same and trial.state == state and trial.value == accuracy)
            return True

        return patiently(write, self._patience)


def _slot(trial: FrozenTrial) -> Slot:
    return Slot(trial.user_attrs["point"], trial.params["seed"])


def _values_of_points(trials: Sequence[FrozenTrial]) -> dict[int, dict[str, Any]]:
    """Return the values of every point that was entered, as its first entry has them."""
    found: dict[int, dict[str, Any]] = {}
    for trial in trials:
        found.setdefault(trial.user_attrs["point"], trial.user_attrs["values"])
    return found


def _is_free(lock: Path) -> bool | None:
    """Say whether nobody holds a lock file; None if that cannot be known."""
    try:
        import fcntl

        descriptor = os.open(lock, os.O_RDWR)
    except (ImportError, OSError):
        return None
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EACCES, errno.EAGAIN) else None
    else:
        return True
    finally:
        os.close(descriptor)
