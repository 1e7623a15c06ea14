"""What a ticket is worth: its accuracy beside that of its controls."""

from .accuracy import Interval, Measurement, calibration_error, measure, paired_bootstrap
from .controls import CONTROLS
from .evaluate import evaluate
from .report import ControlResult, Report

__all__ = [
    "CONTROLS",
    "ControlResult",
    "Interval",
    "Measurement",
    "Report",
    "calibration_error",
    "evaluate",
    "measure",
    "paired_bootstrap",
]
