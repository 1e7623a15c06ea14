"""What a search costs beside dense training: ``python benchmarks/search_step.py [--quick] [--json FILE]``.

Every row is a ratio of two things measured in turns in one process: a search step and a dense training step of the
same network, in the same precision, memory format, optimiser and batch; a refresh of the masks and one pass over
the scores; the evaluation of a ticket and of the dense network. The median of each is taken.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from strongticket import SearchConfig, attach, refresh, select
from strongticket.evaluate import measure
from strongticket.masks import fix
from strongticket.models import build
from strongticket.search import place
from strongticket.search.loop import Loop

BATCH = 128
STEP = "search step ÷ dense step"
# network, width, options of attach, goal
NETWORKS: list[tuple[str, float, dict[str, Any]]] = [
    ("conv4", 1, {}),
    ("conv8", 1, {}),
    ("cifar-resnet18", 1, {}),
    ("vgg-small", 1, {"binary": "weights"}),
    ("conv4", 4, {}),
]


def network(name: str, width: float) -> nn.Module:
    """Return a network for CIFAR's images, with batch norm."""
    return build(name, input_shape=(3, 32, 32), classes=10, width=width, norm="batch")


def batch(size: int = BATCH) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one random batch."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, 3, 32, 32, generator=generator)
    return images, torch.randint(10, (size,), generator=generator)


def steps(
    model: nn.Module, config: SearchConfig, after_step: Callable[[float], float] | None = None
) -> Iterator[float]:
    """Yield the seconds of one optimisation step after another, in the loop that searches and trains."""
    loop = Loop(model, [batch()], config, placement=place(model, config), after_step=after_step)
    epochs = loop.epochs()
    while True:
        started = time.perf_counter()
        next(epochs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        yield time.perf_counter() - started


def search_steps(name: str, width: float, options: dict[str, Any], config: SearchConfig) -> Iterator[float]:
    """Yield the seconds of search steps: a dense step, the masks in it, and their refresh."""
    model = network(name, width)
    attach(model, density=0.5, **options)

    def decide(progress: float) -> float:
        refresh(model)
        return 0.5

    return steps(model, config, decide)


def in_turns(one: Callable[[], float], other: Callable[[], float], rounds: int) -> tuple[float, float]:
    """Return the medians of two measurements taken in turns; the first turn warms up."""
    pairs = [(one(), other()) for _ in range(rounds + 1)][1:]
    return median(a for a, _ in pairs), median(b for _, b in pairs)


def timed(function: Callable[[], object]) -> Callable[[], float]:
    """Return a function that calls ``function`` and returns its seconds."""

    def call() -> float:
        started = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return call


def step_row(name: str, width: float, options: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Measure a search step beside a dense step."""
    config = SearchConfig(epochs=10**6)
    searching = search_steps(name, width, options, config)
    training = steps(network(name, width), config)
    search, dense = in_turns(lambda: next(searching), lambda: next(training), rounds)
    return row(STEP, name, width, search, dense, goal=1.10)


def refresh_row(scores: int, scope: str, rounds: int) -> dict[str, Any]:
    """Measure the exact selection among eight tensors of scores beside one read-and-write pass over them."""
    values = {str(part): torch.rand(scores // 8) for part in range(8)}
    masks = {name: torch.empty_like(value, dtype=torch.bool) for name, value in values.items()}

    def decide() -> None:
        for name, mask in select(values, 0.5, scope=scope).items():  # type: ignore[arg-type]
            masks[name].copy_(mask)

    def one_pass() -> None:
        for value in values.values():
            value.mul_(1.0)

    selection, reading = in_turns(timed(decide), timed(one_pass), rounds)
    return row(f"refresh ÷ one pass, {scope} scope", f"{scores / 1e6:g} M scores", 1, selection, reading, goal=3.0)


def evaluation_row(name: str, rounds: int) -> dict[str, Any]:
    """Measure the evaluation of a ticket beside that of the dense network."""
    config = SearchConfig(precision="fp32")
    ticket, dense = network(name, 1), network(name, 1)
    attach(ticket, density=0.5)
    fix(ticket)
    batches = [batch(500)] * 2
    placement = place(dense, config)
    place(ticket, config)
    times = in_turns(
        timed(lambda: measure(ticket, batches, placement=placement)),
        timed(lambda: measure(dense, batches, placement=placement)),
        rounds,
    )
    return row("evaluation ÷ dense evaluation", name, 1, *times, goal=1.01)


def row(quantity: str, name: str, width: float, ours: float, other: float, *, goal: float) -> dict[str, Any]:
    """Return one line of the table, and print it."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ratio = ours / other
    print(
        f"{quantity:32} {name:16} {width:>3g}x  {device}  {1000 * ours:9.1f} ms ÷ {1000 * other:9.1f} ms = {ratio:5.2f}"
        f"  (goal {goal:g})",
        flush=True,
    )
    return {"quantity": quantity, "network": name, "width": width, "device": device, "ratio": ratio, "goal": goal}


def main() -> None:
    """Measure, print a line for each ratio, and write them down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Fewer rounds and no network above width 1.")
    parser.add_argument("--json", type=Path, help="File for the rows.")
    options = parser.parse_args()
    rounds = 5 if options.quick else 15
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {torch.get_num_threads()} threads")
    rows = [step_row(*each, rounds) for each in NETWORKS if not options.quick or each[1] == 1]
    rows += [step_row("conv4", width, {}, rounds) for width in ((2,) if options.quick else (2, 8))]
    for scores in (1, 4, 16, 64):
        rows += [refresh_row(scores * 10**6, scope, rounds) for scope in ("layer", "global")]
    rows.append(evaluation_row("conv4", rounds))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
