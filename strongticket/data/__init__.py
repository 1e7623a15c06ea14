"""Real images, in splits that are kept apart, and loaders that give them in batches."""

from .loader import BatchLoader
from .sources import available, load
from .splits import FileSplit, ImageData, Split
from .streaming import StreamLoader, make_loader

__all__ = [
    "BatchLoader",
    "FileSplit",
    "ImageData",
    "Split",
    "StreamLoader",
    "available",
    "load",
    "make_loader",
]
