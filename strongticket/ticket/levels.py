"""Levels of kept edges as masks among masks, which the coder of masks takes.

The mask of level 2 says which of the kept edges, in C order, have level 2 at least, that of level 3 which of those have
level 3, and so on. Together with the mask itself they carry no more than the levels do.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .coding import entropy_bits

__all__ = ["bound_bits", "join", "key_of", "split"]


def key_of(name: str, level: int) -> str:
    """Return what the mask of a level of the tensor ``name`` is called; no two have one key."""
    return f"level {level} of {name}"


def split(masks: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the masks, uint8 with a level for each kept edge, as bool ones, and those of their levels by key."""
    kept, above = {}, {}
    for name, mask in masks.items():
        kept[name] = mask > 0
        values = mask[kept[name]]
        level = 1
        while bool((higher := values > level).any()):
            level += 1
            above[key_of(name, level)] = higher
            values = values[higher]
    return kept, above


def join(kept: Mapping[str, Tensor], above: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what ``split`` was given."""
    masks = {}
    for name, mask in kept.items():
        chain = [mask]
        while (higher := above.get(key_of(name, len(chain) + 1))) is not None:
            chain.append(higher)
        values = torch.full((int(chain[-1].count_nonzero()),), len(chain), dtype=torch.uint8)
        for level in reversed(range(len(chain))):  # from above, one byte for each edge of two levels is all it takes
            values = torch.full(chain[level].shape, level, dtype=torch.uint8).masked_scatter_(chain[level], values)
        masks[name] = values
    return masks


def bound_bits(mask: Tensor) -> float:
    """Return the most bits that a mask can carry, bool or with levels, its numbers of edges being known.

    The sum of ``entropy_bits`` over the mask and those of its levels.
    """
    kept, above = split({"": mask})
    return sum(entropy_bits(int(one.count_nonzero()), one.numel()) for one in (*kept.values(), *above.values()))
