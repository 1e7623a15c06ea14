"""Many processes that search as one: who they are, which share of a batch each has, and what they add up."""

from .group import (
    LostProcessError,
    Processes,
    are_several,
    joined,
    local_rank,
    refuse_differing,
    refuse_uneven,
    together,
)

__all__ = [
    "LostProcessError",
    "Processes",
    "are_several",
    "joined",
    "local_rank",
    "refuse_differing",
    "refuse_uneven",
    "together",
]
