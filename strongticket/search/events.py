"""What a search tells while it runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Resumed:
    """A search goes on from a checkpoint, after ``epochs`` whole epochs and ``steps`` of the next.

    ``damaged`` says which newer checkpoints could not be read and why, None if there are none.
    """

    epochs: int
    steps: int
    damaged: str | None


@dataclass(frozen=True)
class StepDone:
    """One optimizer step is done; ``steps`` is the number an epoch has, None where that is not known yet."""

    epoch: int
    step: int
    steps: int | None


@dataclass(frozen=True)
class EpochDone:
    """One epoch is done. Accuracies are fractions of 1, times are seconds, ``epoch`` counts from 1."""

    epoch: int
    epochs: int
    loss: float
    train_accuracy: float
    validation_accuracy: float | None
    validation_loss: float | None
    learning_rate: float
    density: float
    images_per_second: float
    seconds: float
    seconds_left: float

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return asdict(self)


Event = Resumed | StepDone | EpochDone
