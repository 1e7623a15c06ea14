"""What an evaluation says, as values and as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from ..masks import Levels
from .accuracy import TTA, Interval, Measurement
from .layers import Layer, Values

_REAL_BITS = 32


@dataclass(frozen=True)
class ControlResult:
    """One control over its seeds. ``density`` is that of its masks, in (0, 1]."""

    name: str
    measurements: tuple[Measurement, ...]
    density: float

    @property
    def accuracies(self) -> list[float]:
        """Test accuracy of each seed, fractions of 1."""
        return [m.accuracy for m in self.measurements]

    def as_dict(self) -> dict[str, Any]:
        """Return mean, standard deviation (n − 1 in the divisor; 0 where n is 1) and the single values."""
        return {
            "mean": fmean(self.accuracies),
            "sd": _sd(self.accuracies),
            "n": len(self.accuracies),
            "accuracies": self.accuracies,
            "nll": _finite(fmean(m.nll for m in self.measurements)),
            "calibration_error": _finite(fmean(m.calibration_error for m in self.measurements)),
            "density": self.density,
        }


@dataclass(frozen=True)
class Report:
    """A ticket beside its controls.

    ``bits_per_weight`` is the size of the coded masks over the number of masked weights; ``file_bytes``
    the size of the whole ticket file. ``layers`` says of each weight what is binary, ``outputs`` the same of
    the network's outputs. ``against_trained`` is the paired difference of the ticket and the trained dense networks.
    ``tta`` is how all were measured, ``batch_norm`` says where statistics came from; ``trained`` names what learned
    besides scores, ``levels`` what masks say of a kept edge.
    """

    measurement: Measurement
    density: float
    bits_per_weight: float
    file_bytes: int
    weights_digest: str
    trained: tuple[str, ...]
    controls: dict[str, ControlResult]
    seeds: tuple[int, ...]
    batch_norm: str
    layers: tuple[Layer, ...] = ()
    outputs: Values = "not seen"
    levels: Levels | None = None
    dataset: str | None = None
    tta: TTA = "none"
    against_trained: Interval | None = None

    def __getitem__(self, key: str) -> Any:
        """Return a part of ``as_dict()``: ``report["controls"]["random"]["mean"]``."""
        return self.as_dict()[key]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values; accuracies are fractions of 1."""
        report: dict[str, Any] = {
            "ticket": {
                "test_accuracy": self.measurement.accuracy,
                "nll": _finite(self.measurement.nll),
                "calibration_error": _finite(self.measurement.calibration_error),
                "examples": len(self.measurement.correct),
                "density": self.density,
                "bits_per_weight": self.bits_per_weight,
                "file_bytes": self.file_bytes,
                "weights_digest": self.weights_digest,
                "trained": list(self.trained),
                "levels": self.levels,
            },
            "controls": {name: control.as_dict() for name, control in self.controls.items()},
            "dataset": self.dataset,
            "tta": self.tta,
            "seeds": list(self.seeds),
            "batch_norm": self.batch_norm,
            "layers": [layer.as_dict() for layer in self.layers],
            "outputs": self.outputs,
        }
        if self.against_trained is not None:
            interval = self.against_trained
            report["against_trained"] = {
                "difference": interval.difference,
                "low": interval.low,
                "high": interval.high,
                "confidence": interval.confidence,
                "method": "paired percentile bootstrap over test examples",
            }
        report["prizes"] = prizes(report)
        return report


def prizes(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the three prizes of a ticket, out of the other parts of its report, as JSON values.

    Diffenderfer & Kailkhura 2021 (arXiv 2103.09377), section 1: accuracy beside the dense network with
    trained weights (None where that was not measured); no weight trained; bits a weight and an activation.
    """
    trained = report["controls"].get("trained", {}).get("mean")
    accuracy = report["ticket"]["test_accuracy"]
    layers = report["layers"]
    binary = [layer for layer in layers if layer["inputs"] == "binary"]
    return {
        "accuracy": {
            "ticket": accuracy,
            "trained": trained,
            "difference": None if trained is None else accuracy - trained,
        },
        "weights": {
            "digest": report["ticket"]["weights_digest"],
            "unchanged": report["ticket"].get("levels") != "draws",  # drawn anew from the seed, and never trained
        },
        "bits": {
            "weight": _REAL_BITS if any(layer["weights"] == "real" for layer in layers) or not layers else 1,
            "activation": 1 if binary else _REAL_BITS,
            "layers": len(layers),
            "layers_with_binary_inputs": len(binary),
        },
    }


def _finite(value: float) -> float | None:
    """Return the value, None where it is infinite or NaN: JSON has neither, and a random network may give both."""
    return value if math.isfinite(value) else None


def _sd(values: list[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0
