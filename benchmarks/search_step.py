"""What a search costs beside dense training: ``python benchmarks/search_step.py [--quick] [--json FILE]``.

Every row is a ratio of two things measured in turns in one process (memory: in two processes of their own); the median
of each is taken. ``benchmarks/README.md`` says what the rows mean.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rival import attach_as_printed
from torch import nn

from strongticket import SearchConfig, attach, refresh
from strongticket.data import Split, make_loader
from strongticket.evaluate import measure
from strongticket.masks import fix
from strongticket.models import build
from strongticket.search import place, search
from strongticket.search.loop import Loop

BATCH = 128
STEP = "search step ÷ dense step"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STEP_GOAL = 1.05 if DEVICE == "cuda" else 1.10
COMPILE = "on" if DEVICE == "cuda" else "auto"
# network, options of attach
NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("conv4", {}),
    ("conv8", {}),
    ("cifar-resnet18", {}),
    ("vgg-small", {"binary": "weights"}),
]


def network(name: str, width: float = 1) -> nn.Module:
    """Return a network for CIFAR's images, with batch norm."""
    return build(name, input_shape=(3, 32, 32), classes=10, width=width, norm="batch")


def batch(size: int = BATCH) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one random batch."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, 3, 32, 32, generator=generator)
    return images.to(DEVICE), torch.randint(10, (size,), generator=generator).to(DEVICE)


def settings(**changes: Any) -> SearchConfig:
    """Return the settings of both sides."""
    return SearchConfig(epochs=10**6, compile=COMPILE, **changes)


def steps(
    model: nn.Module, config: SearchConfig, after_step: Callable[[float], float] | None = None
) -> Iterator[float]:
    """Yield the seconds of one optimisation step after another, in the loop that searches and trains."""
    loop = Loop(model, [batch()], config, placement=place(model, config), after_step=after_step)
    epochs = loop.epochs()
    while True:
        yield timed(lambda: next(epochs))()


def dense_steps(name: str, width: float) -> Iterator[float]:
    """Yield the seconds of dense training steps."""
    return steps(network(name, width), settings())


def search_steps(name: str, width: float, options: dict[str, Any]) -> Iterator[float]:
    """Yield the seconds of search steps: a dense step, the masks in it, and their refresh."""
    model = network(name, width)
    attach(model, density=0.5, **options)

    def decide(progress: float) -> float:
        refresh(model)
        return 0.5

    return steps(model, settings(), decide)


def rival_steps(name: str) -> Iterator[float]:
    """Yield the seconds of steps as the paper prints them."""
    model = network(name)
    attach_as_printed(model, 0.5)
    return steps(model, SearchConfig(epochs=10**6, precision="fp32", channels_last="off"))


def in_turns(one: Callable[[], float], other: Callable[[], float], rounds: int) -> tuple[float, float]:
    """Return the medians of two measurements taken in turns; the first turns warm up."""
    pairs = [(one(), other()) for _ in range(rounds + 2)][2:]
    return median(a for a, _ in pairs), median(b for _, b in pairs)


def timed(function: Callable[[], object]) -> Callable[[], float]:
    """Return a function that calls ``function`` and returns its seconds."""

    def call() -> float:
        started = time.perf_counter()
        function()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return call


def step_row(name: str, width: float, options: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Measure a search step beside a dense step."""
    searching, training = search_steps(name, width, options), dense_steps(name, width)
    times = in_turns(lambda: next(searching), lambda: next(training), rounds)
    return row(STEP, name, width, *times, goal=STEP_GOAL)


def rival_row(name: str, rounds: int) -> dict[str, Any]:
    """Measure a search step beside a step of edge-popup as the paper prints it."""
    searching, rival = search_steps(name, 1, {}), rival_steps(name)
    times = in_turns(lambda: next(searching), lambda: next(rival), rounds)
    return row("search step ÷ step as published", name, 1, *times, goal=1.0)


def refresh_row(scores: int, scope: str, rounds: int) -> dict[str, Any]:
    """Measure a refresh of the masks while scores drift beside one read-and-write pass over the scores."""
    model = nn.Sequential(*(nn.Linear(1000, scores // 8000, bias=False) for _ in range(8)))
    attach(model, density=0.5, scope=scope)  # type: ignore[arg-type]
    model.to(DEVICE)
    place(model, settings())
    learned = [p for p in model.parameters() if p.requires_grad]
    drift = [torch.randn_like(p) * 1e-4 for p in learned]

    def refreshed() -> float:
        with torch.no_grad():
            for parameter, change in zip(learned, drift, strict=True):
                parameter.add_(change)
        return timed(lambda: refresh(model))()

    def one_pass() -> None:
        with torch.no_grad():
            for parameter in learned:
                parameter.mul_(1.0)

    times = in_turns(refreshed, timed(one_pass), rounds)
    return row(f"refresh ÷ one pass, {scope} scope", f"{scores / 1e6:g} M scores", 1, *times, goal=3.0)


def evaluation_row(name: str, rounds: int) -> dict[str, Any]:
    """Measure the evaluation of a ticket beside that of the dense network."""
    config = SearchConfig(precision="fp32")
    ticket, dense = network(name), network(name)
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


def epoch_row(name: str, rounds: int, *, batches: int) -> dict[str, Any]:
    """Measure whole epochs of a search, with augmentation, validation and a checkpoint, beside their steps alone.

    CIFAR-10 without its held-out tenth has 351 batches of 128: shorter epochs make more of what an epoch costs once.
    """
    generator = torch.Generator().manual_seed(0)
    size = batches * BATCH
    images = torch.randint(256, (size + size // 9, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(10, (len(images),), generator=generator)
    options: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "device": DEVICE}
    train = make_loader(
        Split(images[:size], labels[:size]),
        batch_size=BATCH,
        shuffle=True,
        augment="crop-flip",
        **options,
    )
    # A ninth of the training images, as where a tenth is held out.
    validation = make_loader(Split(images[size:], labels[size:]), batch_size=500, **options)
    model = network(name)
    attach(model, density=0.5)
    alone = search_steps(name, 1, {})
    stepping: list[float] = []
    seconds: list[float] = []

    def on_event(event: Any) -> None:
        if hasattr(event, "seconds"):
            seconds.append(event.seconds)
            stepping.append(sum(next(alone) for _ in range(batches)))

    with tempfile.TemporaryDirectory() as folder:
        config = settings().model_copy(update={"epochs": rounds + 1})
        search(model, train, config, validation=validation, on_event=on_event, checkpoint=folder)
    return row("whole epoch ÷ its steps", name, 1, median(seconds[1:]), median(stepping[1:]), goal=1.05)


def memory_row(name: str, width: float) -> dict[str, Any]:
    """Measure the peak memory of a search beside that of dense training, each above that of an idle process."""
    idle, search_peak, dense_peak = (_peak(what, name, width) for what in ("idle", "search", "dense"))
    return row("peak memory ÷ dense", name, width, search_peak - idle, dense_peak - idle, goal=1.35, unit="MB")


def _peak(what: str, name: str, width: float) -> float:
    words = [sys.executable, __file__, "--peak", what, name, str(width)]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def print_peak(what: str, name: str, width: float) -> None:
    """Take four steps and print the most memory that this process, or its GPU, has held, in MB."""
    if what != "idle":
        stepping = search_steps(name, width, {}) if what == "search" else dense_steps(name, width)
        for _ in range(4):
            next(stepping)
    if DEVICE == "cuda":
        print(torch.cuda.max_memory_allocated() / 1e6)
        return
    # Not getrusage, whose peak a process inherits from the one that started it.
    status = Path("/proc/self/status").read_text()
    print(next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1e3)


def growth_row(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare the largest ratio at a greater width with that at width 1."""
    ratios = {each["width"]: each["ratio"] for each in rows if each["quantity"] == STEP and each["network"] == "conv4"}
    widest = max(width for width in ratios if width > 1)
    largest = max(ratio for width, ratio in ratios.items() if width > 1)
    return row("search ÷ dense: wider ÷ width 1", "conv4", widest, largest, ratios[1], goal=1.0, unit="")


def row(
    quantity: str, name: str, width: float, ours: float, other: float, *, goal: float, unit: str = "ms"
) -> dict[str, Any]:
    """Return one line of the table, and print it."""
    factor = 1000 if unit == "ms" else 1
    print(
        f"{quantity:32} {name:16} {width:>4g}x  {DEVICE}  {factor * ours:10.2f} ÷ {factor * other:10.2f} {unit:2} "
        f"= {ours / other:6.3f}  (goal {goal:g})",
        flush=True,
    )
    return {
        "quantity": quantity,
        "network": name,
        "width": width,
        "device": DEVICE,
        "ratio": ours / other,
        "goal": goal,
    }


def main() -> None:
    """Measure, print a line for each ratio, and write them down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Fewer rounds, and nothing above width 4.")
    parser.add_argument("--json", type=Path, help="File for the rows.")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print_peak(options.peak[0], options.peak[1], float(options.peak[2]))
        return
    rounds = 4 if options.quick else 12
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {torch.get_num_threads()} threads, {DEVICE}")
    rows = [step_row(name, 1, extra, rounds) for name, extra in NETWORKS]
    rows += [step_row("conv4", width, {}, rounds) for width in ((2, 4) if options.quick else (2, 4, 8))]
    rows.append(growth_row(rows))
    for scores in (1, 4, 16, 64):
        rows += [refresh_row(scores * 10**6, scope, 4 * rounds) for scope in ("layer", "global")]
    rows += [memory_row("conv4", width) for width in (1, 4)]
    rows.append(epoch_row("conv4", 3, batches=30) if options.quick else epoch_row("conv4", 2, batches=351))
    rows.append(evaluation_row("conv4", 4 * rounds))  # four by themselves differ by as much as the goal allows
    rows.append(rival_row("conv4", rounds))
    if not options.quick:
        rows.append(rival_row("conv8", rounds))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
