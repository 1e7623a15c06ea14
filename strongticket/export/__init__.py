"""Shipping a ticket: its network as a file for another runtime, checked before it gets its name."""

from .export import TARGETS, ExportReport, Target, check_request, export
from .graph import Census, Counts
from .sizes import Sizes
from .source import Source
from .verify import RELATIVE_TOLERANCE, Comparison

__all__ = [
    "RELATIVE_TOLERANCE",
    "TARGETS",
    "Census",
    "Comparison",
    "Counts",
    "ExportReport",
    "Sizes",
    "Source",
    "Target",
    "check_request",
    "export",
]
