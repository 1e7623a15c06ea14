"""Which edges live: from scores and a density to masks, exactly and without side effects.

The invariant of this file: a layer of n scores at density d keeps ``round(d·n)`` edges, at least 1
and at most n, whatever the ties, the memory format, the dtype or the device. Of equal scores the one
that stands first in C order is kept; in global scope tensors stand in the order of the mapping.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import accumulate
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError
from .threshold import Threshold, kth_largest

Scope = Literal["layer", "global"]
Density = float | Mapping[str, float]


@dataclass(frozen=True)
class Selection:
    """How many edges are kept and who competes with whom.

    ``density`` is kept ÷ total in (0, 1], or a mapping of name patterns to densities of which the
    first that matches a tensor holds. ``scope`` is "layer" (each tensor keeps its own share) or
    "global" (all tensors compete for one share). ``floor`` is the density in [0, 1] below which no
    tensor falls in global scope; a tensor always keeps at least one edge.
    """

    density: Density = 0.5
    scope: Scope = "layer"
    floor: float = 0.0

    def __post_init__(self) -> None:
        densities = self.density if isinstance(self.density, Mapping) else {"density": self.density}
        if not densities:
            raise ConfigError("density: an empty mapping was given; expected at least one pattern, such as {'*': 0.5}")
        for key, value in densities.items():
            _check_density(value, key if key == "density" else f"density of {key!r}")
        if self.scope not in get_args(Scope):
            raise ConfigError(f"scope {self.scope!r} is not known; choose one of {', '.join(get_args(Scope))}")
        if not (_is_number(self.floor) and 0 <= self.floor <= 1):
            raise ConfigError(f"floor {self.floor!r} was given; expected a density in [0, 1]")
        if self.scope == "global" and isinstance(self.density, Mapping):
            raise ConfigError("densities by name belong to scope 'layer'; in scope 'global' give one density")
        if self.scope == "layer" and self.floor:
            raise ConfigError("a floor has an effect in scope 'global' only; leave it out or choose scope 'global'")

    def density_of(self, name: str) -> float:
        """Return the density asked for the tensor ``name``; ConfigError if no pattern matches it."""
        if not isinstance(self.density, Mapping):
            return float(self.density)
        for pattern, value in self.density.items():
            if fnmatchcase(name, pattern):
                return float(value)
        raise ConfigError(f"no density is given for {name!r}; the patterns are {', '.join(self.density)}: add '*'")

    def check(self, sizes: Mapping[str, int]) -> None:
        """Refuse a density that rounds to no edge in some tensor, or a pattern that matches nothing.

        ``sizes`` maps tensor names to their numbers of weights. ``select`` itself never goes below
        one edge; here the user learns that the density asked for cannot be had.
        """
        if isinstance(self.density, Mapping):
            for pattern in self.density:
                if not any(fnmatchcase(name, pattern) for name in sizes):
                    raise ConfigError(f"density pattern {pattern!r} matches no tensor; there are {', '.join(sizes)}")
        if self.scope == "layer":
            for name, size in sizes.items():
                density = self.density_of(name)
                if density * size < 0.5:
                    raise ConfigError(
                        f"density {density:g} leaves {name} ({size} weights) no edge; "
                        f"the least density that keeps one there is {0.5 / size:.2g}"
                    )
        else:
            kept, floors = self._global_counts(sizes)
            if sum(floors.values()) > kept:
                raise ConfigError(
                    f"density {self.density:g} keeps {kept} edges in all, fewer than the least that the layers keep "
                    f"together ({sum(floors.values())}); raise the density or lower the floor ({self.floor:g})"
                )

    def masks(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return one bool mask a tensor: True for the largest scores. See ``select``."""
        if self.scope == "layer":
            return {name: _mask(s, edge_count(self.density_of(name), s.numel()), name) for name, s in scores.items()}
        return self._global_masks(scores) if scores else {}

    def _global_counts(self, sizes: Mapping[str, int]) -> tuple[int, dict[str, int]]:
        floors = {name: edge_count(self.floor, size) for name, size in sizes.items()}
        return edge_count(self.density_of("*"), sum(sizes.values())), floors

    def _global_masks(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        sizes = {name: s.numel() for name, s in scores.items()}
        kept, floors = self._global_counts(sizes)
        kept = max(kept, sum(floors.values()))
        untied = _without_ties(scores, kept, "the scores")
        if untied and all(int(mask.count_nonzero()) >= floors[name] for name, mask in untied.items()):
            return untied
        device = next(iter(scores.values())).device
        everything = torch.cat([flat(s, name).to(device) for name, s in scores.items()])
        chosen = top(everything, kept, "the scores")
        ends = list(accumulate(sizes.values()))
        parts = dict(zip(sizes, torch.tensor_split(chosen, ends[:-1]), strict=True))
        if any(int(part.sum()) < floors[name] for name, part in parts.items()):
            # Each layer's best edges first, then the best of all that is left.
            values = dict(zip(sizes, torch.tensor_split(everything, ends[:-1]), strict=True))
            chosen = torch.cat([top(values[name], floors[name], name) for name in sizes])
            rest = ~chosen
            chosen[rest] = top(everything[rest], kept - sum(floors.values()), "the scores")
            parts = dict(zip(sizes, torch.tensor_split(chosen, ends[:-1]), strict=True))
        return {name: _in_shape_of(part, scores[name]) for name, part in parts.items()}


def select(
    scores: Mapping[str, Tensor], density: Density, *, scope: Scope = "layer", floor: float = 0.0
) -> dict[str, Tensor]:
    """Return the masks that keep the largest scores: {name: tensor} → {name: bool tensor}.

    ``scores`` are real tensors of any shape, dtype and memory format; a rule that ranks magnitudes
    (edge-popup) passes ``|s|``. ``density`` is kept ÷ total in (0, 1], or {name pattern: density}.
    In scope "layer" a tensor of n scores keeps ``min(n, max(1, round(d·n)))`` edges; in scope "global"
    all tensors together keep that many, and each at least ``max(1, round(floor·n))`` of its own.
    Ties break by position in C order. Raises ConfigError for a density outside (0, 1], an unknown
    scope, or scores that are NaN.

    >>> select({"w": torch.tensor([0.1, 0.9, 0.9, 0.4])}, 0.5)["w"]
    tensor([False,  True,  True, False])
    """
    return Selection(density=density, scope=scope, floor=floor).masks(scores)


def edge_count(density: float, total: int) -> int:
    """Return how many of ``total`` edges are kept: ``round(density·total)``, at least 1, at most ``total``."""
    return min(total, max(1, round(density * total)))


def top(scores: Tensor, kept: int, name: str = "scores") -> Tensor:
    """Return a bool vector with exactly ``kept`` True entries at the largest of the 1-d ``scores``.

    Equal scores are kept from the front. ``kept`` lies in [0, len(scores)]. Raises ConfigError if a
    score is NaN.
    """
    if kept == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    if scores.device.type == "cpu":
        return torch.from_numpy(_top_numpy(_as_numpy(scores), kept, name))
    if scores.is_floating_point() and bool(torch.isnan(scores).any()):
        raise _nan_error(name)
    threshold = torch.kthvalue(scores, scores.numel() - kept + 1).values
    above, level = scores > threshold, scores == threshold
    missing = kept - above.sum()
    return above | (level & (level.cumsum(0) <= missing))


def _top_numpy(values: NDArray[Any], kept: int, name: str) -> NDArray[np.bool_]:
    threshold = _threshold(values, kept, name)
    chosen: NDArray[np.bool_] = values >= threshold.value
    if surplus := threshold.reached - kept:
        level = np.flatnonzero(values == threshold.value)
        chosen[level[level.size - surplus :]] = False
    return chosen


def _mask(scores: Tensor, kept: int, name: str) -> Tensor:
    untied = _without_ties({name: scores}, kept, name)
    return untied[name] if untied else _in_shape_of(top(flat(scores, name), kept, name), scores)


def _without_ties(scores: Mapping[str, Tensor], kept: int, what: str) -> dict[str, Tensor] | None:
    """Return the masks of the ``kept`` largest of all scores, None if the last of them is tied or not on the CPU.

    Without ties the order of the scores does not matter, so they are read as they lie in memory.
    """
    if any(s.device.type != "cpu" for s in scores.values()):
        return None
    orders = {name: sorted(range(s.dim()), key=s.stride, reverse=True) for name, s in scores.items()}
    stored = {name: _as_numpy(flat(s.permute(orders[name]), name)) for name, s in scores.items()}
    parts = list(stored.values())
    threshold = _threshold(parts[0] if len(parts) == 1 else np.concatenate(parts), kept, what)
    if threshold.reached > kept:
        return None
    masks = {}
    for name, s in scores.items():
        chosen = torch.from_numpy(stored[name] >= threshold.value).view([s.shape[axis] for axis in orders[name]])
        masks[name] = chosen.permute(np.argsort(orders[name]).tolist())
    return masks


def _threshold(values: NDArray[Any], kept: int, what: str) -> Threshold:
    threshold = kth_largest(values, kept)
    if np.isnan(threshold.value):
        raise _nan_error(what)
    return threshold


def _as_numpy(scores: Tensor) -> NDArray[Any]:
    half = scores.dtype in (torch.bfloat16, torch.float16)
    values: NDArray[Any] = (scores.float() if half else scores).numpy()
    return values


def flat(scores: Tensor, name: str = "scores") -> Tensor:
    """Return the scores as a detached vector in C order, whatever their memory format."""
    if scores.is_complex() or scores.dtype == torch.bool:
        raise ConfigError(f"{name}: scores of type {scores.dtype} cannot be ranked; expected real numbers")
    return scores.detach().contiguous().view(-1)


def _in_shape_of(chosen: Tensor, scores: Tensor) -> Tensor:
    mask = torch.empty_like(scores, dtype=torch.bool, requires_grad=False)
    return mask.copy_(chosen.view(scores.shape))


def _check_density(value: object, what: str) -> None:
    if not (_is_number(value) and 0 < value <= 1):  # type: ignore[operator]
        raise ConfigError(f"{what} {value!r} was given; expected a number in (0, 1], the share of edges kept")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _nan_error(name: str) -> ConfigError:
    return ConfigError(f"{name}: a score is NaN, so edges cannot be ranked; lower the learning rate or use fp32")
