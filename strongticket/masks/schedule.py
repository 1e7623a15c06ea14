"""How the density changes while a search runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from .selection import Density

DensitySchedule = Literal["constant", "cubic"]


def scheduled_density(final: Density, progress: float, *, schedule: DensitySchedule, start: float = 0.5) -> Density:
    """Return the density at ``progress`` in [0, 1] of the ramp; ``final`` itself once the ramp is over.

    "constant": d. "cubic": d + (start − d)·(1 − progress)³, the ramp of Zhu and Gupta 2017 (arXiv
    1710.01878), equation 1, which Diffenderfer et al. 2021 (arXiv 2106.09129) use for global scope. A
    mapping of densities is ramped pattern by pattern.

    >>> scheduled_density(0.1, 0.5, schedule="cubic", start=0.9)
    0.2
    """
    if schedule == "constant" or progress >= 1:
        return final
    if isinstance(final, Mapping):
        return {pattern: _cubic(value, progress, start) for pattern, value in final.items()}
    return _cubic(final, progress, start)


def _cubic(final: float, progress: float, start: float) -> float:
    return final + (start - final) * (1 - progress) ** 3
