"""What a ticket is worth: its accuracy beside that of its controls."""

from .accuracy import TTA, Interval, Measurement, calibration_error, measure, paired_bootstrap
from .controls import CONTROLS
from .evaluate import evaluate
from .layers import Layer, Values, layers_of, outputs_of
from .report import ControlResult, Report, prizes

__all__ = [
    "CONTROLS",
    "TTA",
    "ControlResult",
    "Interval",
    "Layer",
    "Measurement",
    "Report",
    "Values",
    "calibration_error",
    "evaluate",
    "layers_of",
    "measure",
    "outputs_of",
    "paired_bootstrap",
    "prizes",
]
