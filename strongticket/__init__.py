"""strongticket finds, proves and ships strong lottery tickets: subnetworks of random networks."""

from .errors import StrongTicketError
from .evaluate import evaluate
from .export import export
from .masks import attach, bake, refresh, select
from .search import SearchConfig, search
from .ticket import Ticket, apply, extract, load, save
from .weights import WeightLaw

__version__ = "0.1.0"

__all__ = [
    "SearchConfig",
    "StrongTicketError",
    "Ticket",
    "WeightLaw",
    "apply",
    "attach",
    "bake",
    "evaluate",
    "export",
    "extract",
    "load",
    "refresh",
    "save",
    "search",
    "select",
]
