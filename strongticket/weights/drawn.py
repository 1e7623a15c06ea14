"""What is known of a tensor that a seed gives back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DrawnTensor:
    """One tensor that is drawn from the seed and its own name.

    ``scale`` is the factor of the weight law for this tensor (σ of a signed constant, standard
    deviation of a normal, bound of a uniform). ``masked`` is False for a tensor that was drawn and
    frozen but keeps all its edges because the user left it out of the search.
    """

    shape: tuple[int, ...]
    dtype: str
    scale: float
    masked: bool = True
