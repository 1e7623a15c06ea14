"""Ready-made networks, and the way to anybody else's."""

from .fit import check_fits
from .registry import available, build, is_factory
from .width import parse_width

__all__ = ["available", "build", "check_fits", "is_factory", "parse_width"]
