"""What more processes gain: ``python benchmarks/processes.py [--processes 1 2] [--network conv4] [--json FILE]``.

Median seconds of a search step by 1, 2, … processes of one machine, with as many threads each as ``--threads`` says:
once with the same batch for all of them together, and once with the same batch for each. Everything is done as in a
user's script, with a process group and ``strongticket.search``; the network is one for CIFAR, the images are random.
Medians over rounds in which one process and several take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from strongticket import SearchConfig, attach, search
from strongticket.models import build
from strongticket.search import Event, StepDone

WARM_UP = 3


def work(rank: int, count: int, network: str, batch: int, steps: int, threads: int, folder: str) -> None:
    """Take search steps as one of ``count`` processes, and write down how long they took."""
    torch.set_num_threads(threads)
    if count > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=count)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, 32, 32, generator=generator)
    labels = torch.randint(10, (batch,), generator=generator)
    model = build(network, input_shape=(3, 32, 32), classes=10, width=1, norm="batch")
    attach(model, density=0.5)
    times: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, StepDone):
            times.append(time.perf_counter())

    config = SearchConfig(epochs=1, device="cpu", learning_rate=0.1)
    search(model, [(images, labels)] * (WARM_UP + steps + 1), config, on_event=listen)
    if rank == 0:
        taken = [after - before for before, after in pairwise(times)][WARM_UP:]
        Path(folder, "seconds").write_text(json.dumps(taken))
    if count > 1:
        dist.destroy_process_group()


def measured(count: int, batch: int, options: argparse.Namespace) -> float:
    """Return the median seconds of a step of ``count`` processes over a batch, of all of them together."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (count, options.network, batch, options.steps, options.threads, folder)
        mp.spawn(work, arguments, nprocs=count)
        return median(json.loads(Path(folder, "seconds").read_text()))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--network", default="conv4")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} processors, torch {torch.__version__}"
    print(f"{options.network}, batch {options.batch}, {options.threads} thread(s) a process; {machine}")
    if hasattr(os, "getloadavg"):
        print(f"load before: {os.getloadavg()[0]:.2f}")
    found: dict[int, list[tuple[float, float]]] = {count: [] for count in options.processes}
    gains: dict[int, list[tuple[float, float]]] = {count: [] for count in options.processes}
    for _ in range(options.rounds):
        alone = measured(1, options.batch, options)
        for count in options.processes:
            shared = alone if count == 1 else measured(count, options.batch, options)
            each = alone if count == 1 else measured(count, options.batch * count, options)
            found[count].append((shared, each))
            gains[count].append((alone / shared, count * alone / each))
    rows: list[dict[str, Any]] = []
    for count in options.processes:
        shared, each = (median(values) for values in zip(*found[count], strict=True))
        faster, more = (median(values) for values in zip(*gains[count], strict=True))
        rows.append(
            {"processes": count, "seconds": shared, "faster": faster, "seconds_each": each, "more_images": more}
        )
        print(
            f"{count} processes: {shared * 1e3:.0f} ms a step for the same batch ({faster:.2f} times as fast), "
            f"{each * 1e3:.0f} ms for a batch of that size each ({more:.2f} times as many images)"
        )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "network": options.network, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
