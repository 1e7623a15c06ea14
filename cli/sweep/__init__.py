"""``strongticket sweep``: many searches over settings and seeds, on one machine or many."""

from .command import command

__all__ = ["command"]
