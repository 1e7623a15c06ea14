"""Masks that say more of a kept edge than that it is kept: a level from 1 to 255, where 0 is a dropped edge.

Most rules decide kept or dropped, and their masks are bool. A rule with levels has uint8 masks of the same shape, and
the level is either of two things:

- ``coats``: how many nested masks the edge is in. It carries its weight as often.
- ``draws``: 1 and the number of times its weight was drawn anew. It carries the last of these weights.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Levels = Literal["coats", "draws"]
MOST_LEVELS = 255


def mask_dtype(levels: Levels | None) -> torch.dtype:
    """Return the dtype of a ticket's masks with such levels, or of those without any."""
    return torch.bool if levels is None else torch.uint8


def computed_dtype(levels: Levels | None) -> torch.dtype:
    """Return the dtype of the masks that a network computes with: coats multiply, draws are in its weights already."""
    return torch.uint8 if levels == "coats" else torch.bool


def draws_in(mask: Tensor) -> Tensor:
    """Return how often each weight was drawn anew, uint8, out of a mask with levels; 0 for a dropped edge."""
    return torch.where(mask > 0, mask - 1, 0)
