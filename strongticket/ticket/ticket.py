"""The value that a search ends with: a seed, masks, and whatever else inference needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..masks import Levels, draws_in
from ..weights import Binary, DrawnTensor, WeightLaw

__all__ = ["DrawnTensor", "Ticket"]


@dataclass(frozen=True)
class Ticket:
    """A strong lottery ticket: everything that rebuilds a subnetwork of a random network, bit for bit.

    ``tensors`` and ``masks`` are keyed by the name in the plain network's ``state_dict``; a mask has
    the tensor's shape and is True where the edge is kept. With ``levels`` masks are uint8 and say more of a
    kept edge: in how many coats it is ("coats"), or 1 and how often its weight was drawn anew ("draws"); 0 is
    a dropped one. ``stored`` holds what no seed gives back (batch-norm statistics, bare parameters, and the
    tensors named in ``trained``). ``weights_digest`` is the SHA-256 of all drawn tensors, weights of dropped
    edges being those that were drawn first. ``binary`` says what is ±1: gains are no part of a ticket, they
    follow from weights and masks. ``search`` says how the masks were decided (rule, scope, density);
    ``model`` how the network is built; ``provenance`` where the ticket comes from. These three hold JSON
    values only.
    """

    seed: int
    law: WeightLaw
    tensors: Mapping[str, DrawnTensor]
    masks: Mapping[str, Tensor]
    weights_digest: str
    stored: Mapping[str, Tensor] = field(default_factory=dict)
    trained: tuple[str, ...] = ()
    binary: Binary = field(default_factory=Binary)
    levels: Levels | None = None
    search: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kept(self) -> int:
        """Number of edges that the masks keep."""
        return sum(int(mask.count_nonzero()) for mask in self.masks.values())

    @property
    def total(self) -> int:
        """Number of edges that the masks decide over."""
        return sum(mask.numel() for mask in self.masks.values())

    @property
    def density(self) -> float:
        """Kept edges ÷ all edges, in (0, 1]."""
        return self.kept / self.total

    def draws(self, name: str) -> Tensor | None:
        """Return how often each weight of a tensor was drawn anew, uint8; None where that never happens."""
        return draws_in(self.masks[name]) if self.levels == "draws" and name in self.masks else None
