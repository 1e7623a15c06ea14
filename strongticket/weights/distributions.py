"""The laws that frozen weights are drawn from."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConfigError
from .fans import Fans
from .source import normals, signs, uniforms

__all__ = ["LAWS", "WeightLaw", "as_law", "draw", "scale_of"]

_LARGEST = sys.float_info.max  # comparing with it refuses infinity, NaN and integers that overflow

LAWS: dict[str, str] = {
    "signed-constant": "+σ or −σ with equal chance, σ = gain / √fan",
    "unsigned-constant": "+σ everywhere, σ = gain / √fan: only the mask tells edges apart",
    "kaiming-normal": "normal with standard deviation gain / √fan",
    "kaiming-uniform": "uniform within ± gain · √(3 / fan), which has the variance of kaiming-normal",
    "xavier-normal": "normal with standard deviation gain · √(2 / (fan_in + fan_out))",
}


@dataclass(frozen=True)
class WeightLaw:
    """A distribution of weights, up to the fans of the tensor.

    ``kind`` is a key of ``LAWS``. ``gain`` is √2 unless given (1 for xavier-normal). ``fan`` says which
    fan sets the scale (xavier-normal reads both, whatever it says). ``scale_by_density`` divides the
    variance by the density, so that the sum over the kept edges has the variance that the sum over all
    edges would have: the "scaled" laws of Ramanujan et al. 2020 (arXiv 1911.13299), section 3. Raises
    ConfigError for a value that cannot be used.
    """

    kind: str = "signed-constant"
    gain: float | None = None
    fan: Literal["in", "out"] = "in"
    scale_by_density: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in LAWS:
            raise ConfigError(
                f"weight law {self.kind!r} is not known{_hint(self.kind)}; the laws are {', '.join(LAWS)}"
            )
        if self.gain is not None:
            if isinstance(self.gain, bool) or not isinstance(self.gain, int | float) or not 0 < self.gain <= _LARGEST:
                raise ConfigError(f"gain {self.gain!r} cannot be used; give a positive finite number")
            object.__setattr__(self, "gain", float(self.gain))
        if self.fan not in ("in", "out"):
            raise ConfigError(f"fan {self.fan!r} is not known; choose 'in' or 'out'")
        if not isinstance(self.scale_by_density, bool):
            raise ConfigError(f"scale_by_density {self.scale_by_density!r} cannot be used; choose true or false")

    def to_dict(self) -> dict[str, Any]:
        """Return the law as JSON values; ``from_dict`` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WeightLaw:
        """Return the law that ``to_dict`` described; a key left out has its default.

        Raises ConfigError for an unknown key or a value that cannot be used.
        """
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigError(f"weight law has no key {key!r}; its keys are {', '.join(known)}")
        return cls(**values)


def as_law(value: str | WeightLaw) -> WeightLaw:
    """Return the law of that name with its defaults, or the law itself; ConfigError for an unknown name."""
    return value if isinstance(value, WeightLaw) else WeightLaw(value)


def scale_of(law: WeightLaw, fans: Fans, *, density: float = 1.0) -> float:
    """Return the scale of a tensor: σ of a constant or normal law, the bound of a uniform one.

    With fan = ``fans.fan_in`` or ``fans.fan_out``: gain / √fan for constants and kaiming-normal,
    gain · √(3 / fan) for kaiming-uniform, gain · √(2 / (fan_in + fan_out)) for xavier-normal. Under
    ``scale_by_density`` every fan is multiplied by ``density`` (kept ÷ total, in (0, 1]): fewer kept edges,
    larger weights. Only operations that IEEE 754 rounds correctly are used. Raises ConfigError for
    a density out of range.
    """
    if not 0 < density <= 1:
        raise ConfigError(f"density {density!r} cannot be used; give kept ÷ total, above 0 and at most 1")
    share = density if law.scale_by_density else 1.0
    if law.kind == "xavier-normal":
        gain = 1.0 if law.gain is None else law.gain
        return gain * math.sqrt(2 / (share * (fans.fan_in + fans.fan_out)))
    gain = math.sqrt(2) if law.gain is None else law.gain
    fan = share * (fans.fan_in if law.fan == "in" else fans.fan_out)
    return gain * math.sqrt((3 if law.kind == "kaiming-uniform" else 1) / fan)


def draw(law: WeightLaw, seed: int, name: str, shape: Sequence[int], *, scale: float) -> Tensor:
    """Return the weights of tensor ``name``: float32 of ``shape``, contiguous, on the CPU, the same everywhere.

    ``scale`` comes from ``scale_of``. Signed constants are ± scale by ``signs``; normal laws are
    scale · ``normals``; the uniform law is scale · (2u − 1 + 2⁻²⁴) with u from ``uniforms``, symmetric about 0.
    All values are products of two float32 numbers, rounded once, and none is 0. Raises ConfigError for
    a bad seed, or a scale that is not a positive finite number in float32.
    """
    factor = _float32(scale)
    count = math.prod(shape)
    values: NDArray[np.float32]
    if law.kind == "signed-constant":
        values = np.where(signs(seed, name, count), factor, -factor)
    elif law.kind == "unsigned-constant":
        values = np.full(count, factor, dtype=np.float32)
    elif law.kind == "kaiming-uniform":
        # The half step makes the values odd multiples of 2⁻²⁴: exact, as likely + as −, and never 0.
        values = uniforms(seed, name, count)
        values *= np.float32(2)
        values -= np.float32(1)
        values += np.float32(2**-24)
        values *= factor
    else:
        values = normals(seed, name, count)
        values *= factor
    return torch.from_numpy(values).reshape(tuple(shape))


def _float32(scale: float) -> np.float32:
    # Below the smallest normal number, flushing to zero would make results depend on the machine.
    limits = np.finfo(np.float32)
    if not float(limits.tiny) * 2**24 <= scale <= float(limits.max) / 8:
        raise ConfigError(f"weights of scale {scale!r} do not fit float32; choose another gain")
    return np.float32(scale)


def _hint(kind: object) -> str:
    close = get_close_matches(str(kind), LAWS, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
