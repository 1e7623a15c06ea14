"""Finding a ticket: the options, the loop, and what survives a kill."""

from .config import SearchConfig
from .events import EpochDone, Event, Resumed, StepDone
from .hardware import Placement, choose_device, place
from .loop import Batches
from .processes import LostProcessError, Processes, refuse_uneven, together
from .profile import Profile, profile
from .search import SearchResult, search, train_dense
from .seeding import seeded

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
