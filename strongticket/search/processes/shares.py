"""The share that each process has of every batch, and the steps that all of them take together."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data.distributed import DistributedSampler

from ...errors import DataError, SearchError
from ...masks import attachment_of
from ...weights import words
from ..interruption import StopRequest
from .batch_norm import is_synchronised
from .group import Processes, refuse_uneven

_BITS = 62
_GOES_ON, _ENDED, _FAILED = range(3)
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Share:
    """What one process does of a step: ``examples`` of ``total``, or, for none, a stand-in that counts for nothing."""

    inputs: Tensor
    targets: Tensor
    examples: int
    total: int


class Team:
    """What the processes of one search do together, step by step. ``stop`` is a request that all of them know of."""

    def __init__(self, model: nn.Module, processes: Processes, own_stop: StopRequest) -> None:
        self.processes, self.stop = processes, StopRequest()
        self._buffers = Buffers(model)
        self._own_stop, self._seed = own_stop, attachment_of(model).seed
        self._counts = True

    def counts(self) -> bool:
        """Say whether the share of the step under way counts."""
        return self._counts

    def taken(self, batches: Any) -> tuple[Any, bool]:
        """Return the loader that gives this process its shares, and whether its batches are whole and to be cut.

        Raises ConfigError if the loader's batches cannot be divided.
        """
        if isinstance(getattr(batches, "sampler", None), DistributedSampler):
            return batches, False
        size = getattr(batches, "batch_size", None)
        if isinstance(size, int):
            refuse_uneven(size, self.processes.count)
        if hasattr(batches, "share"):
            return batches.share(self.processes.rank, self.processes.count), False
        return batches, True

    def shares(self, batches: Iterator[Batch], *, whole: bool) -> Iterator[Share]:
        """Yield the shares of this process, as long as all processes have one.

        ``whole`` says that ``batches`` are those of all processes together, which are cut here. Raises, in all
        processes, DataError if the data of one fail, SearchError if they are not the same or are not as many.
        """
        while (share := self._next(batches, whole=whole)) is not None:
            self._counts = share.examples > 0
            yield share

    def _next(self, batches: Iterator[Batch], *, whole: bool) -> Share | None:
        state, failure, batch, mark = _GOES_ON, "", None, 0
        try:
            batch = next(batches, None)
        except DataError as error:
            state, failure = _FAILED, str(error)
        if batch is None:
            state = state or _ENDED
        else:
            mark = _mark(batch[1]) if whole else 0
            batch = self._cut(batch) if whole else batch
        row = [self._own_stop.signal or 0, state, 0 if batch is None else len(batch[1]), mark, self._buffers.changed()]
        table = self.processes.table(row)
        self.stop.signal = max(row[0] for row in table) or None
        self._buffers.follow(reduce(or_, (row[4] for row in table)), self.processes)
        states = [row[1] for row in table]
        if _FAILED in states:
            failed = states.index(_FAILED)
            raise DataError(self.processes.told(failure.encode(), by=failed).decode())
        if batch is None and set(states) == {_ENDED}:
            return None
        if batch is None or _ENDED in states:
            raise SearchError(
                f"process {states.index(_ENDED)} has no more batches, and process {states.index(_GOES_ON)} has; every "
                "process has to be given as many"
            )
        for rank, other in enumerate(row[3] for row in table):
            if other != table[0][3]:
                raise SearchError(
                    f"process {rank} was given another batch than process 0; give every process the batches of all, of "
                    "which it takes its share, or a loader with a DistributedSampler or a method share(rank, count)"
                )
        inputs, targets = batch
        examples, total = len(targets), sum(row[2] for row in table)
        if not examples:
            inputs, targets = inputs.new_zeros(1, *inputs.shape[1:]), targets.new_zeros(1, *targets.shape[1:])
        return Share(inputs, targets, examples, total)

    def _cut(self, batch: Batch) -> Batch:
        inputs, targets = batch
        first, end = share_of(len(targets), self.processes.rank, self.processes.count)
        return inputs[first:end], targets[first:end]

    @contextmanager
    def drawing(self, device: torch.device, moment: str) -> Iterator[None]:
        """Let what a network draws inside the block differ between processes, and begin anew at every ``moment``.

        The global generators are those of all processes, which shuffle with them; here they are this one's own.
        """
        own = int(words(self._seed, f"process/{self.processes.rank}/{moment}", 1)[0])
        generators = [torch.default_generator]
        if device.type == "cuda":
            generators.append(torch.cuda.default_generators[device.index or 0])
        states = [generator.get_state() for generator in generators]
        for generator in generators:
            generator.manual_seed(own)
        try:
            yield
        finally:
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)


class Buffers:
    """The buffers of a network that its own forward pass changes: those of process 0 hold in all."""

    def __init__(self, model: nn.Module) -> None:
        self._held = [
            (module, name)
            for path, module in model.named_modules()
            if not is_synchronised(module) and "parametrizations" not in path.split(".")  # masks follow the scores
            for name in module._buffers
        ]
        self._seen = [self._version(index) for index in range(len(self._held))]

    def changed(self) -> int:
        """Return the numbers of those that changed since the last ``follow``, as bits, modulo the bits there are."""
        numbers = {i % _BITS for i in range(len(self._held)) if self._version(i) != self._seen[i]}
        return sum(1 << number for number in numbers)

    def follow(self, changed: int, processes: Processes) -> None:
        """Take over those of process 0 whose bits are set, in all processes the same."""
        for index, (module, name) in enumerate(self._held):
            buffer = module._buffers[name]
            if buffer is not None and changed >> index % _BITS & 1:
                with torch.no_grad():
                    processes.copy_from_first(buffer)
                self._seen[index] = self._version(index)

    def _version(self, index: int) -> tuple[int, int]:
        module, name = self._held[index]
        buffer = module._buffers[name]
        return (0, 0) if buffer is None else (id(buffer), buffer._version)


def shares_of(batches: Iterable[Batch], team: Team | None, *, cuts: bool) -> Iterator[Share]:
    """Yield what this process does of each batch: all of it, unless it has a ``team``; see ``Team.shares``."""
    if team is not None:
        yield from team.shares(iter(batches), whole=cuts)
        return
    for inputs, targets in batches:
        yield Share(inputs, targets, len(targets), len(targets))


def share_of(examples: int, rank: int, count: int) -> tuple[int, int]:
    """Return the first example of a batch that a process takes, and the first that it no longer does."""
    return examples * rank // count, examples * (rank + 1) // count


def _mark(targets: Tensor) -> int:
    """Return a number that tells batches apart; 0 on a GPU, which would have to be waited for."""
    if targets.device.type != "cpu" or not len(targets):
        return 0
    return zlib.crc32(targets.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
