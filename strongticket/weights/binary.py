"""Binary values: the sign, the gain that goes with binary weights, and activations of ±1.

Whatever is binary here is ±1 and nothing else: ``sign(0) = +1`` is decided in ``binary_sign``, and every
other place asks there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from ..errors import ConfigError

__all__ = [
    "GRADIENTS",
    "BiRealSign",
    "Binary",
    "BinaryActivation",
    "ClippedIdentitySign",
    "Gain",
    "GainGroups",
    "binary_sign",
    "check_gain",
    "check_gradient",
    "gain_groups",
    "gains",
]

Gain = Literal["layer", "channel"]

_UNIT_BITS = 34  # no magnitude is above 2³⁴ units, so the sum of 2²⁸ of them fits an int64


@dataclass(frozen=True)
class Binary:
    """What is binary in a network: ``gain`` says how its weights' gains are shared, None that weights are real.

    ``activations`` are the modules with outputs of ±1: {module name: gradient}.
    """

    gain: Gain | None = None
    activations: Mapping[str, str] = field(default_factory=dict)


def binary_sign(values: Tensor) -> Tensor:
    """Return +1 where ``values`` ≥ 0, −1 elsewhere, in their dtype and shape; so sign(0) = sign(−0) = +1."""
    one = torch.ones((), dtype=values.dtype, device=values.device)
    if torch.compiler.is_compiling() or values.device.type != "cpu":
        return torch.where(values >= 0, one, -one)
    positive = values.detach() + 0.0  # −0 becomes +0; copysign takes no branch a value, as where does
    return torch.copysign(one, positive, out=positive)


def check_gain(value: object) -> None:
    """Raise ConfigError unless ``value`` is a ``Gain``."""
    if value not in get_args(Gain):
        raise ConfigError(f"gain {value!r} is not known; choose one of {', '.join(get_args(Gain))}")


@dataclass(frozen=True)
class GainGroups:
    """Which weights of a tensor share a gain, from ``gain_groups``.

    ``view`` is a shape (a, b, c, d) of the tensor with one gain for each (a, c), shared over b and d. Row
    ``padding`` of an embedding stays zero and counts for nothing.
    """

    view: tuple[int, int, int, int]
    padding: int | None = None


def gain_groups(module: nn.Module, shape: Sequence[int], per: Gain) -> GainGroups:
    """Return which weights of a tensor (shape) of ``module`` share a gain.

    Per layer it is one group, (1, 1, 1, n). A channel is an output of the layer: row ``o`` of (out, …) is
    (out, 1, 1, n / out). A transposed convolution (in, out/g, k…) has its outputs in dimension 1 of each
    group: (g, in/g, out/g, prod(k)). An embedding's row is its channel.
    """
    count = math.prod(shape)
    padding = module.padding_idx if isinstance(module, nn.Embedding | nn.EmbeddingBag) else None
    if per == "layer" or not count:
        return GainGroups((1, 1, 1, count), padding)
    if isinstance(module, _ConvTransposeNd):
        groups = module.groups
        return GainGroups((groups, shape[0] // groups, shape[1], math.prod(shape[2:])))
    return GainGroups((shape[0], 1, 1, count // shape[0]), padding)


@torch.no_grad()
def gains(weight: Tensor, mask: Tensor, groups: GainGroups) -> Tensor:
    """Return the gain α of a binary weight, exactly, in its dtype and broadcastable to it.

    ``weight`` and ``mask`` (bool) have one shape.

        α = Σ |w| m / Σ m        over the kept edges of a layer or of a channel; 0 where none is kept

    Diffenderfer & Kailkhura 2021 (arXiv 2103.09377), section 3. The sum is taken over integers, in units of
    2⁻³⁴ of the power of two above the largest magnitude that is kept in that layer or channel, so that it
    does not depend on the order and is the same on every machine. Where all kept magnitudes are equal, α is that
    magnitude, bit for bit up to float32.
    """
    view, shape = groups.view, tuple(weight.shape)
    kept = mask.contiguous()
    if groups.padding is not None:
        kept = kept.clone()
        kept[groups.padding] = False
    # Dropped edges are out before anything is computed: even the unit must not know of them.
    magnitudes = torch.where(kept, weight.detach().contiguous().abs(), 0).reshape(view).double()
    unit = _power_of_two_above(magnitudes) / 2**_UNIT_BITS
    counted = (magnitudes / unit).round_().to(torch.int64).sum((1, 3), keepdim=True)
    count = kept.reshape(view).sum((1, 3), keepdim=True).clamp_(min=1)
    whole = torch.div(counted, count, rounding_mode="floor")
    alpha: Tensor = ((whole.double() + (counted - whole * count).double() / count.double()) * unit).to(weight.dtype)
    if groups.padding is not None:  # a gain for each row, so that this one can be zero
        alpha = alpha.reshape(-1, 1).repeat(shape[0] // view[0], 1)
        alpha[groups.padding] = 0
        return alpha
    if view[1] > 1 or view[2] > 1:
        return alpha.repeat(1, view[1], 1, 1).reshape(shape[:2] + (1,) * (len(shape) - 2))
    return alpha.reshape(alpha.shape[:1] + (1,) * (len(shape) - 1))


def _power_of_two_above(magnitudes: Tensor) -> Tensor:
    """Return 2ᵉ above the largest magnitude of each group, 1 if that is 0: exact, and without waiting for a GPU."""
    over = (1, 3)
    largest = magnitudes.amax(over, keepdim=True) if magnitudes.numel() else magnitudes.sum(over, keepdim=True)
    mantissa, _ = torch.frexp(largest)
    return torch.where(largest > 0, largest / mantissa, 1)


class _Sign(torch.autograd.Function):
    """The forward pass that both gradients share: sign(x), with sign(0) = +1."""

    @staticmethod
    def forward(values: Tensor) -> Tensor:
        """Return ±1 of the shape of ``values``."""
        return binary_sign(values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Keep the input for the backward formula."""
        ctx.save_for_backward(*inputs)


class BiRealSign(_Sign):
    """The sign, with the derivative of Bi-Real Net's piecewise polynomial.

    Forward:  y = +1 where x ≥ 0, else −1.
    Backward: ∂L/∂x = ∂L/∂y · 2 (1 − |clip(x, −1, 1)|), that is 2 + 2x on [−1, 0), 2 − 2x on [0, 1), 0 elsewhere.

    Liu et al. 2018 (arXiv 1808.00278), section 3.3, equation 4.
    """

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return the gradient of the input."""
        values: Tensor = ctx.saved_tensors[0]
        return grad * (2 - 2 * values.abs().clamp(max=1))


class ClippedIdentitySign(_Sign):
    """The sign, with the derivative of the identity clipped to [−1, 1].

    Forward:  y = +1 where x ≥ 0, else −1.
    Backward: ∂L/∂x = ∂L/∂y · 1[|x| ≤ 1].

    Hubara et al. 2016 (arXiv 1602.02830), section 1.3, equation 4.
    """

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return the gradient of the input."""
        (values,) = ctx.saved_tensors
        return torch.where(values.abs() <= 1, grad, 0)


GRADIENTS: Mapping[str, type[_Sign]] = MappingProxyType(
    {"bi-real": BiRealSign, "clipped-identity": ClippedIdentitySign}
)
"""What the backward pass puts in place of the sign's derivative, by name."""


def check_gradient(name: str) -> None:
    """Raise ConfigError unless ``name`` is a key of ``GRADIENTS``."""
    if name not in GRADIENTS:
        close = get_close_matches(str(name), GRADIENTS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigError(f"gradient {name!r} is not known{hint}; the gradients are {', '.join(GRADIENTS)}")


class BinaryActivation(nn.Module):
    """An activation of ±1: the sign of its input, with a gradient of ``GRADIENTS``. ConfigError for an unknown one.

    >>> BinaryActivation()(torch.tensor([-0.5, 0.0, 2.0]))
    tensor([-1.,  1.,  1.])
    """

    def __init__(self, gradient: str = "bi-real") -> None:
        super().__init__()
        check_gradient(gradient)
        self.gradient = gradient

    def forward(self, values: Tensor) -> Tensor:
        """Return ±1 of the shape and dtype of ``values``."""
        signs: Tensor = GRADIENTS[self.gradient].apply(values)
        return signs

    def extra_repr(self) -> str:
        """Return what ``repr`` shows."""
        return f"gradient={self.gradient!r}"
