"""The processes that search together, on one machine or many: who they are, what they tell each other, who is lost."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ...errors import ConfigError, SearchError, StrongTicketError

PATIENCE = timedelta(minutes=10)
"""How long a process that is still there may keep the others waiting: loading data, writing a checkpoint."""

Result = TypeVar("Result")

_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_LOST = "strongticket/lost"
_SECONDS_TO_DIE = 2.0
_OF_THE_NETWORK = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "timed out")


class LostProcessError(SearchError):
    """Processes of a search are gone; ``ranks`` are those whose end is known, which may be none."""

    def __init__(self, ranks: Sequence[int], rest: str = "") -> None:
        several = len(ranks) > 1
        named = " and ".join(map(str, ranks))
        lost = f"process{'es' * several} {named} {'were' if several else 'was'} lost"
        super().__init__((lost if ranks else "a process on another machine was lost, or did not answer") + rest)
        self.ranks = tuple(ranks)


class Processes:
    """All the processes that search together, as one of them, ``rank`` of ``count``, sees them.

    What every process calls in the same order ends in all of them with the same value. Where another process is gone
    it raises whatever torch does; inside ``watched`` that is LostProcessError.
    """

    def __init__(self, host: dist.ProcessGroup | None) -> None:
        """``host`` is the group for tensors on the CPU; None is that of all processes."""
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        self.host = host
        self._places: list[str] = self.gathered(_place())

    def group(self, device: torch.device) -> dist.ProcessGroup | None:
        """Return the group for tensors on ``device``; None is that of all processes."""
        return self.host if device.type == "cpu" else None

    def add(self, values: Tensor) -> Tensor:
        """Replace ``values`` by their sum over all processes, in place, and return them."""
        dist.all_reduce(values, group=self.group(values.device))
        return values

    def copy_from_first(self, values: Tensor) -> None:
        """Replace ``values`` by those of process 0, in place."""
        dist.broadcast(values, 0, group=self.group(values.device))

    def told(self, data: bytes = b"", *, by: int = 0) -> bytes:
        """Return the bytes that process ``by`` was given."""
        size = torch.tensor([len(data)])
        dist.broadcast(size, by, group=self.host)
        values = torch.empty(int(size), dtype=torch.uint8)
        if self.rank == by and data:
            values = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        if int(size):
            dist.broadcast(values, by, group=self.host)
        return data if self.rank == by else values.numpy().tobytes()

    def table(self, row: Sequence[int]) -> list[list[int]]:
        """Return the rows of all processes, by rank: a few integers each, as many in each."""
        values = torch.zeros(self.count, len(row), dtype=torch.int64)
        values[self.rank] = torch.tensor(row)
        dist.all_reduce(values, group=self.host)
        rows: list[list[int]] = values.tolist()
        return rows

    def gathered(self, value: Any) -> list[Any]:
        """Return the JSON values of all processes, by rank."""
        data = json.dumps(value).encode()
        sizes = [size for (size,) in self.table([len(data)])]
        own = torch.zeros(max(sizes), dtype=torch.uint8)
        own[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        found = [torch.empty_like(own) for _ in range(self.count)]
        dist.all_gather(found, own, group=self.host)
        return [json.loads(values[:size].numpy().tobytes()) for values, size in zip(found, sizes, strict=True)]

    def agreed(self, work: Callable[[], Result]) -> Result:
        """Do ``work`` in every process, and return what it returned; if it fails in one it fails in all.

        What a process raises it raises again; the others raise SearchError with the message of the first that failed.
        """
        failure: StrongTicketError | OSError | None = None
        try:
            result = work()
        except (StrongTicketError, OSError) as error:
            failure = error
        failures = {rank: text for rank, text in enumerate(self.gathered(failure and _text(failure))) if text}
        if failure is not None:
            raise failure
        if failures:
            rank, text = next(iter(failures.items()))
            raise SearchError(f"process {rank}: {text}")
        return result

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Raise LostProcessError if the block fails because other processes are gone."""
        try:
            yield
        except RuntimeError as error:
            if not _is_of_the_network(error):
                raise
            raise LostProcessError(self._lost()) from None

    def _lost(self) -> list[int]:
        """Return the ranks that ended first, as far as it can be known: of the processes on this machine."""
        patience = time.monotonic() + _SECONDS_TO_DIE
        while not (gone := self._gone()) and time.monotonic() < patience:
            time.sleep(0.01)  # its connections end a moment before the process does
        # One that ends because another did would be named as well by whoever notices late, so the first to tell counts.
        with suppress(RuntimeError, ValueError, AttributeError):
            store: Any = dist.distributed_c10d._get_default_store()
            if gone:
                gone = json.loads(store.compare_set(_LOST, "", json.dumps(gone)))
            elif store.check([_LOST]):
                gone = json.loads(store.get(_LOST))
        return gone

    def _gone(self) -> list[int]:
        machine = self._places[self.rank].rpartition(":")[0]
        places = [place.rpartition(":") for place in self._places]
        return [rank for rank, (where, _, pid) in enumerate(places) if where == machine and not _is_alive(int(pid))]


@contextmanager
def together() -> Iterator[Processes | None]:
    """Join the other processes that ``torchrun`` or ``accelerate launch`` started, for what is done inside the block.

    Gives None where this process was started alone, or with one process. Process r of a machine takes its GPU number
    r. Raises SearchError if the processes do not find each other.
    """
    count = int(os.environ.get("WORLD_SIZE") or 1) if all(name in os.environ for name in _LAUNCHED) else 1
    if count == 1:
        yield None
        return
    with_gpus = torch.cuda.is_available()
    if with_gpus and local_rank() < torch.cuda.device_count():
        torch.cuda.set_device(local_rank())
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if with_gpus else "gloo", timeout=PATIENCE)
        processes = Processes(None)
    except (RuntimeError, ValueError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise SearchError(
            f"process {os.environ['RANK']} of {count} did not find the others at {where} ({_line(error)}); see that "
            "all were started, with the same address"
        ) from None
    try:
        with processes.watched():
            yield processes
    finally:
        with suppress(RuntimeError):
            dist.destroy_process_group()


@contextmanager
def joined() -> Iterator[Processes | None]:
    """Give the processes of torch's default process group while the block runs; None if this is the only one."""
    if not are_several():
        yield None
        return
    # A group of our own, since that of the caller may be without one for the CPU.
    host: Any = dist.new_group(backend="gloo", timeout=PATIENCE)
    try:
        yield Processes(host)
    finally:
        with suppress(RuntimeError):
            dist.destroy_process_group(host)


def are_several() -> bool:
    """Say whether torch's default process group is there and has more than this process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def local_rank() -> int:
    """Return the number of this process among those of its machine, as its launcher says; 0 if none did."""
    return int(os.environ.get("LOCAL_RANK") or 0)


def refuse_uneven(batch_size: int, count: int) -> None:
    """Raise ConfigError unless ``count`` processes can have equal shares of a batch."""
    if batch_size % count:
        fitting = batch_size + -batch_size % count
        raise ConfigError(
            f"a batch of {batch_size} cannot be divided among {count} processes; batch_size is that of all processes "
            f"together: use a multiple of {count}, such as {fitting}"
        )


def refuse_differing(processes: Processes, digest: str, what: str) -> None:
    """Raise SearchError, in all processes, unless they have the same ``digest`` of ``what``."""
    digests = processes.gathered(digest)
    others = [str(rank) for rank, other in enumerate(digests) if other != digests[0]]
    if others:
        raise SearchError(
            f"{what} of process {', '.join(others)} are not those of process 0; every process has to attach the same "
            "network with the same seed, and to run on the same kind of device"
        )


def _place() -> str:
    """Return what tells this process from all others: its machine, and its number there."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return f"{'/'.join(parts)}:{os.getpid()}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with suppress(OSError, IndexError):  # it may have ended and its parent not know yet
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return True


def _is_of_the_network(error: RuntimeError) -> bool:
    known: Mapping[str, Any] = vars(dist)
    kind = known.get("DistError")
    return (kind is not None and isinstance(error, kind)) or any(word in str(error).lower() for word in _OF_THE_NETWORK)


def _text(error: StrongTicketError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
