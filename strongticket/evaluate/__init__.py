"""What a ticket is worth: its accuracy beside that of its controls."""

from .accuracy import Interval, Measurement, calibration_error, measure, paired_bootstrap
from .controls import CONTROLS
from .evaluate import evaluate
from .layers import Layer, layers_of
from .report import ControlResult, Report, prizes

__all__ = [
    "CONTROLS",
    "ControlResult",
    "Interval",
    "Layer",
    "Measurement",
    "Report",
    "calibration_error",
    "evaluate",
    "layers_of",
    "measure",
    "paired_bootstrap",
    "prizes",
]
