"""``strongticket search --profile``: where the time of a step goes, as a table."""

from __future__ import annotations

from typing import Any

import torch

from strongticket.search import Profile, profile, seeded

from . import console
from .assembly import assemble
from .config import RunConfig

_MEANINGS = {
    "data": "waiting for a batch, moving it to the device",
    "forward": "the network, its masks and the loss",
    "backward": "gradients of the scores",
    "optimizer": "the step on the scores",
    "masks": "the exact selection, and the new masks",
    "rest": "checks, counting, progress",
}


def profile_run(options: RunConfig, *, as_json: bool) -> None:
    """Time some steps of the search that ``options`` ask for, and print where the time goes. Nothing is kept."""
    with console.ProgressLine("reading images") as bar:
        parts = assemble(options, on_progress=bar.update)
    with seeded(options.seed), console.ProgressLine("profiling") as bar:
        bar.line("20 steps of the search and as many of dense training; nothing of them is kept")
        found = profile(parts.attached_model(), parts.dense_model(), parts.train(), options.search_config)
    if as_json:
        console.print_json(_as_dict(found))
        return
    total = sum(found.search.values())
    rows = [
        [
            phase,
            _milliseconds(seconds),
            f"{seconds / total:.1%}",
            "" if phase == "data" else _milliseconds(found.dense[phase]),
            _MEANINGS[phase],
        ]
        for phase, seconds in found.search.items()
    ]
    rows.append(["step", _milliseconds(total), "100.0%", _milliseconds(_without_data(found.dense)), ""])
    console.print_table(["", "search", "share", "dense training", ""], rows)
    console.print_line(
        f"search ÷ dense training: {found.ratio:.3f}, the wait for data left out; medians of {found.steps} steps of "
        f"{options.batch_size} images"
    )
    threads = f", {torch.get_num_threads()} threads" if found.placement.device.type == "cpu" else ""
    console.print_line(f"on {found.placement.describe()}{threads}")


def _as_dict(found: Profile) -> dict[str, Any]:
    return {
        "seconds": {"search": found.search, "dense": found.dense},
        "ratio": found.ratio,
        "steps": found.steps,
        "placement": found.placement.describe(),
    }


def _without_data(phases: dict[str, float]) -> float:
    return sum(seconds for phase, seconds in phases.items() if phase != "data")


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"
