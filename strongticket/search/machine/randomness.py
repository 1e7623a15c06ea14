"""The states of all random generators that a network, a loss or a stranger's loader may draw from."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomState:
    """How the generators stand: ``tensors`` of torch's (uint8), ``values`` of Python's and numpy's (JSON values)."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]


def random_state(loader: object, device: torch.device) -> RandomState:
    """Return how the global generators stand, the one of ``device``, and those that ``loader`` has of its own."""
    tensors = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        tensors["cuda"] = torch.cuda.get_rng_state(device)
    for name, generator in _generators_of(loader).items():
        tensors[name] = generator.get_state()
    numbers: Mapping[str, Any] = np.random.get_state(legacy=False)
    return RandomState(tensors, {"python": random.getstate(), "numpy": _as_json(numbers)})


def set_random_state(state: RandomState, loader: object, device: torch.device) -> None:
    """Put all generators back to where they stood; a generator that is no longer there is left out."""
    torch.set_rng_state(state.tensors["cpu"])
    if device.type == "cuda" and "cuda" in state.tensors:
        torch.cuda.set_rng_state(state.tensors["cuda"], device)
    for name, generator in _generators_of(loader).items():
        if name in state.tensors:
            generator.set_state(state.tensors[name])
    version, words, gauss = state.values["python"]
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(_from_json(state.values["numpy"]))


def _generators_of(loader: object) -> dict[str, torch.Generator]:
    """Return the generators that a loader shuffles with, if it was given any, as torch's DataLoader keeps them."""
    holders = {
        "loader": loader,
        "sampler": getattr(loader, "sampler", None),
        "batch_sampler": getattr(getattr(loader, "batch_sampler", None), "sampler", None),
    }
    found = {name: getattr(holder, "generator", None) for name, holder in holders.items()}
    return {name: generator for name, generator in found.items() if isinstance(generator, torch.Generator)}


def _as_json(value: Any) -> Any:
    """Return what numpy says of its generator with arrays as lists."""
    if isinstance(value, Mapping):
        return {key: _as_json(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _from_json(item) for key, item in value.items()}
    return np.array(value, dtype=np.uint64) if isinstance(value, list) else value
