"""How far a search or a dense training has come, on a progress line."""

from __future__ import annotations

from strongticket.search import EpochDone, Event, Resumed, StepDone

from .console import ProgressLine


def show(bar: ProgressLine, epochs: int, event: Event) -> None:
    """Show what a run of so many epochs tells: steps on the bar, all else as a line."""
    if isinstance(event, Resumed):
        if event.damaged:
            bar.line(event.damaged)
        bar.line(f"goes on after {event.epochs} epochs and {event.steps} steps")
    elif isinstance(event, StepDone):
        done = event.step if event.steps is None else (event.epoch - 1) * event.steps + event.step
        bar.update(done, event.steps and event.steps * epochs, f"epoch {event.epoch}/{epochs}")
    else:
        bar.line(_describe(event))


def _describe(event: EpochDone) -> str:
    validation = "" if event.validation_accuracy is None else f"  validation {event.validation_accuracy:.4f}"
    return (
        f"epoch {event.epoch}/{event.epochs}  loss {event.loss:.4f}  train {event.train_accuracy:.4f}{validation}  "
        f"{event.images_per_second:,.0f} images/s  {_clock(event.seconds_left)} left"
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
