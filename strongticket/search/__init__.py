"""Finding a ticket: the options, the loop, and what survives a kill."""

from .config import SearchConfig
from .events import EpochDone, Event, StepDone
from .hardware import Placement, choose_device, place
from .loop import Batches
from .search import SearchResult, search, train_dense

__all__ = [
    "Batches",
    "EpochDone",
    "Event",
    "Placement",
    "SearchConfig",
    "SearchResult",
    "StepDone",
    "choose_device",
    "place",
    "search",
    "train_dense",
]
