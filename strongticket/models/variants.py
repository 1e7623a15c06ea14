"""What a network of this library is built with: its norm, and its activation with the layers around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn

from ..errors import ConfigError, ModelError
from ..weights import BinaryActivation

Layers = dict[str, nn.Module]

NORMS: Mapping[str, str] = MappingProxyType(
    {"none": "no normalisation", "batch": "batch norm after every hidden layer, before its activation"}
)


@dataclass(frozen=True)
class Activation:
    """An activation: its layer, the word that its layers' names begin with, and whether it gives ±1."""

    layer: type[nn.Module]
    word: str
    is_binary: bool

    def named(self, suffix: str) -> Layers:
        """Return one activation as {name: layer}."""
        return {self.word + suffix: self.layer()}

    def following(self, suffix: str, *, norm: Layers, pool: Layers) -> Layers:
        """Return what follows a layer with weights, in order: the norm, the activation, the pool.

        Before a binary activation the pool comes first, so that batch norm sees pooled values and no pool reads ±1, of
        which the largest is nearly always +1: the order of Diffenderfer & Kailkhura 2021 (arXiv 2103.09377).
        """
        rest = norm | self.named(suffix)
        return pool | rest if self.is_binary else rest | pool


ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {
        "relu": Activation(nn.ReLU, "relu", False),
        "silu": Activation(nn.SiLU, "silu", False),
        "binary": Activation(BinaryActivation, "sign", True),
    }
)


def find_activation(name: str | None) -> Activation:
    """Return the activation of that name, ReLU for None; ConfigError if there is none."""
    if name is None:
        return ACTIVATIONS["relu"]
    if name not in ACTIVATIONS:
        raise ConfigError(f"activation is {name!r}; it must be one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def check_norm(name: str) -> None:
    """Raise ConfigError unless ``name`` is a key of ``NORMS``."""
    if name not in NORMS:
        raise ConfigError(f"norm is {name!r}; it must be one of {', '.join(NORMS)}")


def check_has_batch_norm(name: str, norm: str | None) -> None:
    """Raise ConfigError if another norm than "batch" is asked of a network that always has it."""
    if norm is not None:
        check_norm(norm)
        if norm != "batch":
            raise ConfigError(f"{name} always has batch norm, but norm {norm} was asked for; leave it out")


def halved(name: str, times: int, height: int, width: int) -> tuple[int, int]:
    """Return the size of an image halved so many times; ModelError if that leaves no pixel."""
    shrink = 2**times
    if min(height, width) < shrink:
        raise ModelError(
            f"{name} halves its input {times} times, so images of {height}x{width} leave no pixel; "
            f"it needs at least {shrink}x{shrink}: use a shallower model or larger images"
        )
    return height // shrink, width // shrink
