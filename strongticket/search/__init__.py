"""Finding a ticket: the options, the loop, and what survives a kill."""

from .config import SearchConfig
from .events import EpochDone, Event, Resumed, StepDone
from .loop import Batches
from .machine import Placement, choose_device, place, seeded
from .processes import LostProcessError, Processes, refuse_uneven, together
from .profile import Profile, profile
from .search import SearchResult, search, train_dense

__all__ = [
    "Batches",
    "EpochDone",
    "Event",
    "LostProcessError",
    "Placement",
    "Processes",
    "Profile",
    "Resumed",
    "SearchConfig",
    "SearchResult",
    "StepDone",
    "choose_device",
    "place",
    "profile",
    "refuse_uneven",
    "search",
    "seeded",
    "together",
    "train_dense",
]
