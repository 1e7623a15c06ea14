"""Shipping a ticket: its network as a file for another runtime, checked before it gets its name."""

from .export import TARGETS, ExportReport, Target, export
from .verify import RELATIVE_TOLERANCE, Comparison

__all__ = ["RELATIVE_TOLERANCE", "TARGETS", "Comparison", "ExportReport", "Target", "export"]
