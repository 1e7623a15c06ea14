"""Finding a ticket: the options, the loop, and what survives a kill."""

from .config import SearchConfig
from .events import EpochDone, Event, StepDone
from .hardware import Placement, choose_device, place
from .loop import Batches
from .search import SearchResult, search, train_dense
from .seeding import seeded

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
    "seeded",
    "train_dense",
]
