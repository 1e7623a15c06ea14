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
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError
from .one_pass import Contest, address_of
from .threshold import Contests, Thresholds

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

    def masks(
        self,
        scores: Mapping[str, Tensor],
        *,
        magnitudes: bool = False,
        thresholds: Thresholds | None = None,
        into: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return one bool mask a tensor: True for the largest scores, or with ``magnitudes`` the largest |score|.

        See ``select``. ``thresholds``, which a search has, remember where to look; they change no mask. With them
        a GPU is not made to wait in order to look for NaN: a search does that whenever it concludes. ``into`` are
        masks that are written to, and returned, where they lie in memory as the scores do; a NaN leaves them spoilt.
        """
        if self.scope == "layer":
            rivals = {n: _Rivals({n: s}, edge_count(self.density_of(n), s.numel())) for n, s in scores.items()}
            return _chosen(rivals, magnitudes, thresholds, into or {})[0]
        return self._global_masks(scores, magnitudes, thresholds, into or {}) if scores else {}

    def _global_counts(self, sizes: Mapping[str, int]) -> tuple[int, dict[str, int]]:
        floors = {name: edge_count(self.floor, size) for name, size in sizes.items()}
        return edge_count(self.density_of("*"), sum(sizes.values())), floors

    def _global_masks(
        self,
        scores: Mapping[str, Tensor],
        magnitudes: bool,
        thresholds: Thresholds | None,
        into: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        kept, floors = self._global_counts({name: s.numel() for name, s in scores.items()})
        kept = max(kept, sum(floors.values()))
        masks, counts = _chosen({"the scores": _Rivals(scores, kept)}, magnitudes, thresholds, into)
        counts = counts or {name: int(mask.count_nonzero()) for name, mask in masks.items()}
        if all(counts[name] >= floors[name] for name in masks):
            return masks
        # Each layer's best edges first, then the best of all that is left.
        values = {name: _ranked(flat(s, name), magnitudes) for name, s in scores.items()}
        least = {name: top(value, floors[name], name) for name, value in values.items()}
        rest = torch.cat([value[~least[name]] for name, value in values.items()])
        others = top(rest, kept - sum(floors.values()), "the scores")
        sizes = [s.numel() - floors[name] for name, s in scores.items()]
        for mask, chosen in zip(least.values(), torch.split(others, sizes), strict=True):
            mask[~mask] = chosen
        return {name: _in_shape_of(mask, scores[name]) for name, mask in least.items()}


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


def top(scores: Tensor, kept: int, name: str = "scores", *, waits: bool = True) -> Tensor:
    """Return a bool vector with exactly ``kept`` True entries at the largest of the 1-d ``scores``.

    Equal scores are kept from the front. ``kept`` lies in [0, len(scores)]. Raises ConfigError if a
    score is NaN; on a GPU only if it ``waits`` for it.
    """
    if kept == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    if scores.device.type != "cpu":
        return _top_on_device(scores, kept, name, waits=waits)
    masks, _ = _chosen_on_cpu({name: _Rivals({name: scores}, kept)}, magnitudes=False, thresholds=None, into={})
    return masks[name]


def _top_on_device(scores: Tensor, kept: int, name: str, *, waits: bool = True) -> Tensor:
    """Return what ``top`` does, in torch alone."""
    if waits and scores.is_floating_point() and bool(torch.isnan(scores).any()):
        raise _nan_error(name)
    # topk works on many blocks of a GPU at once, where kthvalue works on one; it sorts nothing here.
    threshold = torch.topk(scores, kept, sorted=False).values.amin()
    above, level = scores > threshold, scores == threshold
    missing = kept - above.sum()
    return above | (level & (level.cumsum(0) <= missing))


class _Rivals(NamedTuple):
    """Tensors whose scores compete for ``kept`` places."""

    scores: Mapping[str, Tensor]
    kept: int


def _chosen(
    rivals: Mapping[str, _Rivals], magnitudes: bool, thresholds: Thresholds | None, into: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Return the masks of the largest among the rivals under each name; of those on the CPU also how many edges."""
    here = {what: one for what, one in rivals.items() if all(s.device.type == "cpu" for s in one.scores.values())}
    masks, counts = _chosen_on_cpu(here, magnitudes, thresholds, into)
    for what, (scores, kept) in rivals.items():
        if what in here:
            continue
        device = next(s.device for s in scores.values() if s.device.type != "cpu")
        everything = torch.cat([_ranked(flat(s, name), magnitudes).to(device) for name, s in scores.items()])
        chosen = top(everything, kept, what, waits=thresholds is None)
        parts = torch.split(chosen, [s.numel() for s in scores.values()])
        for part, (name, s) in zip(parts, scores.items(), strict=True):
            masks[name] = _in_shape_of(part, s)
    return {name: masks[name] for one in rivals.values() for name in one.scores}, counts


def _chosen_on_cpu(
    rivals: Mapping[str, _Rivals], magnitudes: bool, thresholds: Thresholds | None, into: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Return what ``_chosen`` does. The scores are read as they lie in memory: only ties have an order."""
    masks, contests = _laid_out(rivals, thresholds, into)
    near = [thresholds.near(what) for what in rivals] if thresholds else None
    found = contests.largest(near, magnitudes=magnitudes)
    counts: dict[str, int] = {}
    for (what, (scores, kept)), (value, reached, level) in zip(rivals.items(), found, strict=True):
        if math.isnan(value):
            raise _nan_error(what)
        if thresholds:
            thresholds.note(what, float(value))
        counts |= zip(scores, reached, strict=True)
        surplus = sum(reached) - kept
        for (name, s), tied in reversed(list(zip(scores.items(), level, strict=True)) if surplus else []):
            dropped = min(surplus, tied.size)
            last = np.argsort(_in_c_order(tied, s))[tied.size - dropped :]
            _vector(masks[name]).numpy()[tied[last]] = False
            counts[name] -= dropped
            surplus -= dropped
    return masks, counts


def _laid_out(
    rivals: Mapping[str, _Rivals], thresholds: Thresholds | None, into: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Contests]:
    """Return masks, and the contests that write to them; those of the last time if nothing has moved in memory."""
    scores = {name: s for one in rivals.values() for name, s in one.scores.items()}
    key = None
    if thresholds and scores.keys() <= into.keys():
        lie = [(s.data_ptr(), s.dtype, s.shape, s.stride()) for s in scores.values()]
        masks_lie = [(into[name].data_ptr(), into[name].stride()) for name in scores]
        key = lie, masks_lie, [one.kept for one in rivals.values()], torch.get_num_threads()
        if (contests := thresholds.contests(key)) is not None:
            return {name: into[name] for name in scores}, contests
    values = {name: _as_numpy(_vector(_real(s, name))) for name, s in scores.items()}
    masks = {name: _mask_for(s, values[name], into.get(name)) for name, s in scores.items()}
    marks = {name: _vector(masks[name]).numpy() for name in scores}
    contests = Contests(
        [
            Contest([values[name] for name in one.scores], [marks[name] for name in one.scores], one.kept)
            for one in rivals.values()
        ]
    )
    if thresholds and all(mask is into.get(name) for name, mask in masks.items()):
        thresholds.keep(key, contests)
    return masks, contests


def _mask_for(scores: Tensor, values: NDArray[Any], mask: Tensor | None) -> Tensor:
    """Return the mask, or a new one if it cannot be written in the order in which ``values`` has the scores."""
    is_view = values.size == 0 or address_of(values) == scores.data_ptr()
    fitting = torch.bool, scores.device, scores.stride()
    if mask is not None and is_view and (mask.dtype, mask.device, mask.stride()) == fitting:
        return mask
    return _as_seen(torch.empty(scores.numel(), dtype=torch.bool), scores)


def _vector(tensor: Tensor) -> Tensor:
    """Return the elements in the order of memory: a view of them where they lie in one piece."""
    stored = tensor if tensor.is_contiguous() else tensor.permute(_storage_order(tensor.stride()))
    return stored.detach().contiguous().view(-1)


def _as_seen(stored: Tensor, like: Tensor) -> Tensor:
    """Return a vector in the order of memory as a tensor of the shape and the order of another."""
    if like.is_contiguous():
        return stored.view(like.shape)
    order = _storage_order(like.stride())
    return stored.view([like.shape[axis] for axis in order]).permute(_inverse(order))


@cache
def _storage_order(strides: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(range(len(strides)), key=strides.__getitem__, reverse=True))


@cache
def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(order.index(axis) for axis in range(len(order)))


def _in_c_order(places: NDArray[np.intp], like: Tensor) -> NDArray[np.intp]:
    """Return which positions in C order places in the order of memory have in a tensor."""
    if like.is_contiguous():
        return places
    order = _storage_order(like.stride())
    index = np.unravel_index(places, [like.shape[axis] for axis in order])
    return np.ravel_multi_index([index[axis] for axis in _inverse(order)], like.shape)


def _ranked(values: Tensor, magnitudes: bool) -> Tensor:
    return values.abs() if magnitudes else values


def _as_numpy(scores: Tensor) -> NDArray[Any]:
    half = scores.dtype in (torch.bfloat16, torch.float16)
    values: NDArray[Any] = (scores.float() if half else scores).numpy()
    return values


def flat(scores: Tensor, name: str = "scores") -> Tensor:
    """Return the scores as a detached vector in C order, whatever their memory format."""
    return _real(scores, name).detach().contiguous().view(-1)


def _real(scores: Tensor, name: str) -> Tensor:
    if scores.is_complex() or scores.dtype == torch.bool:
        raise ConfigError(f"{name}: scores of type {scores.dtype} cannot be ranked; expected real numbers")
    return scores


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
