"""What a stopped search goes on from: numbered files in a folder, of which the last two are kept. None can run code."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..errors import SearchError
from ..files import remove_halves, write_beside
from ..masks import weights_digest
from ..weights import digest
from .config import SearchConfig
from .loop import Loop
from .processes import Processes, refuse_differing
from .state import Best, State, capture, restore

_VERSION = 2
_UNCHECKED_VERSION = 1  # had no checksum, and a name without a number
_NAME = re.compile(r"search(?:-(\d+))?\.safetensors")
_KEPT = 2
# After an epoch: a search with short epochs and many scores would otherwise do little else than write.
_LEAST_TIMES_ITS_COST = 20


class Checkpoints:
    """The checkpoints of one search in ``folder``, and when the next one is due.

    One is due ``checkpoint_minutes`` after the last one, every ``checkpoint_epochs`` epochs (if that is not given,
    after every epoch as long as writing takes less than a twentieth of the time), and after the last epoch. Nobody else
    may write to the folder.
    """

    def __init__(self, folder: Path, config: SearchConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self._config, self._clock = config, clock
        self._saved, self._cost = clock(), 0.0
        self._good: list[Path] = []

    def begin(self) -> None:
        """Prepare the folder for a search that begins; what lies there of another one goes with the first ``save``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_halves(self.folder)

    def due(self) -> bool:
        """Say whether it is time for a checkpoint, wherever in an epoch the search is."""
        return self._clock() - self._saved >= 60 * self._config.checkpoint_minutes

    def due_after(self, epoch: int) -> bool:
        """Say whether it is time for a checkpoint after ``epoch``, from 1."""
        if epoch == self._config.epochs or self.due():
            return True
        if self._config.checkpoint_epochs is not None:
            return epoch % self._config.checkpoint_epochs == 0
        return self._clock() - self._saved >= _LEAST_TIMES_ITS_COST * self._cost

    def save(self, loop: Loop, best: Best) -> None:
        """Write the state of ``loop`` down and remove all checkpoints but the last two.

        Raises SearchError, and leaves the checkpoints as they are, if the search has diverged; OSError that names the
        file if it cannot be written.
        """
        began = self._clock()
        numbers = [_number(file) for file in _files(self.folder)]
        path = self.folder / f"search-{max(numbers, default=0) + 1:06d}.safetensors"
        write_beside(path, to_bytes(capture(loop, best)))
        self._good = [*self._good, path][-_KEPT:]
        for file in _files(self.folder):
            if file not in self._good:
                with suppress(OSError):
                    file.unlink()
        self._saved = self._clock()
        self._cost = self._saved - began

    def load(self, loop: Loop) -> tuple[Best, str | None]:
        """Put the newest checkpoint that is not damaged back into ``loop``.

        Returns the best ticket so far, and what has to be said of newer checkpoints, None if that is nothing. Raises
        SearchError if there is no checkpoint, if all of them are damaged, or if it is of another search.
        """
        remove_halves(self.folder)
        damaged: list[str] = []
        files = _files(self.folder)
        for index, path in enumerate(files):
            try:
                state = _read(path)
            except _DamagedError as error:
                damaged.append(f"the checkpoint {path} is damaged ({error})")
                continue
            try:
                best = restore(loop, state)
            except SearchError as error:
                what = " ".join(str(error).split())  # in one line, whatever stands in the file
                raise SearchError(f"the checkpoint {path} {what}") from None
            self._good = files[index : index + _KEPT][::-1]
            return best, f"{'; '.join(damaged)}; going on from the one before, {path.name}" if damaged else None
        if damaged:
            raise SearchError(
                f"{'; '.join(damaged)}, and there is no other; nothing was begun anew: put a copy back, or delete "
                f"{self.folder} to start from the beginning"
            )
        raise SearchError(f"there is no checkpoint to resume in {self.folder}")


def as_the_first(loop: Loop, processes: Processes, begin: Callable[[], Best]) -> Best:
    """Let all processes go on from where ``begin`` puts that of process 0; return the best ticket so far.

    Only process 0 has to reach the checkpoint. Raises SearchError, in all of them, if it cannot begin, or if another
    one was told to do another search.
    """
    best = processes.agreed(begin if processes.rank == 0 else Best)
    data = to_bytes(capture(loop, best)) if processes.rank == 0 else b""
    data = processes.told(data)

    def follow() -> Best:
        if processes.rank == 0:
            return best
        try:
            return restore(loop, from_bytes(data, Path("process 0")))
        except SearchError as error:
            raise SearchError(f"what process 0 searches {error}") from None

    best = processes.agreed(follow)
    refuse_differing(processes, weights_digest(loop.model), "the random weights")
    return best


def has_checkpoint(folder: Path) -> bool:
    """Say whether ``folder`` holds a checkpoint, in whatever condition."""
    return bool(_files(folder))


class _DamagedError(Exception):
    """A checkpoint is not as it was written."""


def _files(folder: Path) -> list[Path]:
    """Return the checkpoints in ``folder``, the newest first."""
    try:
        files = [file for file in folder.iterdir() if _NAME.fullmatch(file.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(files, key=_number, reverse=True)


def _number(file: Path) -> int:
    found = _NAME.fullmatch(file.name)
    return int(found[1] or 0) if found else 0


def to_bytes(state: State) -> bytes:
    """Return a state as its file holds it."""
    values = json.dumps({"version": _VERSION, **state.values})
    return save(state.tensors, {"search": values, "sha256": _checksum(state.tensors, values)})


def from_bytes(data: bytes, path: Path) -> State:
    """Return the state in the bytes of a file; SearchError if it is of another version, _DamagedError if damaged."""
    try:
        tensors = load(data)
        size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + size])["__metadata__"]
        values = json.loads(metadata["search"])
        version = values["version"]
        is_whole = metadata.get("sha256") == _checksum(tensors, metadata["search"])
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError, RuntimeError) as error:
        raise _DamagedError(" ".join(str(error).split())) from None
    if not is_whole and version != _UNCHECKED_VERSION:
        raise _DamagedError("its checksum is not the one it was written with")
    if version != _VERSION:
        said = " ".join(str(version).split())[:20]
        raise SearchError(
            f"the checkpoint {path} has version {said}, this release reads {_VERSION}; go on with the release that "
            "began the search, or start again"
        )
    return State(tensors, values)


def _read(path: Path) -> State:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _DamagedError(error.strerror) from None
    return from_bytes(data, path)


def _checksum(tensors: Mapping[str, Tensor], values: str) -> str:
    """Return the SHA-256 of all tensors, as ``digest`` reads them, and of the JSON values as they are written."""
    return hashlib.sha256(f"{digest(tensors)}:{values}".encode()).hexdigest()
