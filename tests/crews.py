"""Real processes that search together, each a fork of this one: started, and waited for."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from forks import ended, fork

_LONGEST = 60.0  # seconds; a crew that hangs fails its test, and not the run of all tests


def start_crew(count: int, folder: Path, work: Callable[[int], object]) -> list[int]:
    """Start ``count`` processes in one gloo group, each doing ``work(rank)``; return their process ids.

    What one raises stands in ``error-RANK`` of the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    meeting = folder / f"meeting-{time.monotonic_ns()}"

    def member(rank: int) -> int:
        try:
            dist.init_process_group(
                "gloo", init_method=f"file://{meeting}", rank=rank, world_size=count, timeout=timedelta(seconds=30)
            )
            work(rank)
            dist.destroy_process_group()
        except Exception as error:
            (folder / f"error-{rank}").write_text(f"{type(error).__name__}: {error}")
            return 3
        return 0

    return [fork(lambda rank=rank: member(rank)) for rank in range(count)]


def codes(children: list[int]) -> list[int]:
    """Wait for the ends of processes, and return their exit codes; −N if signal N ended one. None outlives this."""
    until = time.monotonic() + _LONGEST
    found: dict[int, int] = {}
    while len(found) < len(children) and time.monotonic() < until:
        for child in set(children) - found.keys():
            gone, status = os.waitpid(child, os.WNOHANG)
            if gone:
                found[child] = os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    for child in set(children) - found.keys():
        os.kill(child, 9)
        ended(child)
        found[child] = -1000
    return [found[child] for child in children]


def run_crew(count: int, folder: Path, work: Callable[[int], object]) -> None:
    """Let ``count`` processes do ``work(rank)``, and fail with what they said unless all of them are done."""
    found = codes(start_crew(count, folder, work))
    said = {file.name: file.read_text() for file in sorted(folder.glob("error-*"))}
    assert found == [0] * count, (found, said)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port
