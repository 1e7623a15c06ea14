"""What a search runs on: devices, precision, compiled passes, bits that repeat, and generators that are not ours."""

from .hardware import Placement, choose_device, place
from .seeding import seeded

__all__ = ["Placement", "choose_device", "place", "seeded"]
