"""What a rule is: how scores begin, how they become masks, and which gradient they get."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from ...weights import Fans, binary_sign
from ..levels import Levels
from ..selection import Selection
from ..threshold import Thresholds


@dataclass(frozen=True)
class Edges:
    """The live tensors of one masked weight, all of one shape."""

    weight: Tensor
    scores: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Moment:
    """When a decision is made: the seed of the search and the number of refreshes before this one.

    ``thresholds`` remember where earlier decisions found theirs, which makes this one quick and changes nothing.
    """

    seed: int
    refreshes: int
    thresholds: Thresholds = field(default_factory=Thresholds, compare=False)


@dataclass(frozen=True)
class Rule(ABC):
    """How scores become masks. A rule holds its options and no state: a decision depends on its arguments alone.

    Scope, density, density schedule and weight law are not a rule's business: they reach it in
    ``selection``. ``levels`` says what its masks tell of a kept edge (``masks/levels.py``). Options are the fields of a
    rule, by names that no other rule has.
    """

    name: ClassVar[str]
    levels: ClassVar[Levels | None] = None

    def options(self) -> dict[str, Any]:
        """Return the options of this rule as JSON values; ``as_rule`` takes them."""
        return asdict(self)

    @abstractmethod
    def initial_scores(self, seed: int, name: str, shape: Sequence[int], *, fans: Fans, density: float) -> Tensor:
        """Return the scores a search begins with, float32 of the weight's shape, from (seed, tensor name)."""

    @abstractmethod
    def decide(self, edges: Mapping[str, Edges], selection: Selection, moment: Moment) -> dict[str, Tensor]:
        """Return the masks for the next step of the search: {tensor name: bool tensor, uint8 if coats are counted}."""

    def redrawn(self, masks: Mapping[str, Tensor], moment: Moment) -> dict[str, Tensor]:
        """Return which edges get another random weight before the next step; ``masks`` are those just decided.

        Only a rule whose levels are draws returns any.
        """
        return {}

    @abstractmethod
    def conclude(self, scores: Mapping[str, Tensor], selection: Selection) -> dict[str, Tensor]:
        """Return the masks of the ticket: a deterministic function of the scores with the exact count."""

    @abstractmethod
    def effective_weight(self, carried: Tensor, weight: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
        """Return the weight that the network computes with, differentiable in the scores.

        ``carried`` is what a kept edge carries: ``weight`` itself, or its sign times the gain.
        """

    def direction(self, weight: Tensor, scores: Tensor) -> Tensor:
        """Return the sign of ∂w̃/∂s in the backward pass, ±1 in the weight's shape: here that of the weight."""
        return binary_sign(weight)
