"""How many edges meet in one output of a tensor, and how many leave one of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, prod

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

__all__ = ["Fans", "fans_of"]


@dataclass(frozen=True)
class Fans:
    """The number of edges that one output sums (``fan_in``) and that one input feeds (``fan_out``), at least 1."""

    fan_in: int
    fan_out: int


def fans_of(module: nn.Module, tensor: str, shape: Sequence[int]) -> Fans:
    """Return the fans of parameter ``tensor`` of ``module``, whose shape is ``shape``.

    - Linear (out, in), attention's separate projections and any other parameter of at least two
      dimensions, Bilinear (out, in1, in2) included: fan_in = prod(shape[1:]), fan_out = shape[0] · prod(shape[2:]).
    - Convolution (out, in/g, k…): in/g · prod(k) and out/g · prod(k).
    - Transposed convolution (in, out/g, k…): a stride spreads the edges over more outputs, so fan_in is
      the mean over the outputs that an edge reaches at all, which is in/g · prod(k) / prod(stride)
      for a kernel no smaller than its stride and no dilation; fan_out = out/g · prod(k).
    - Embedding and EmbeddingBag (entries, dim): a look-up reads one row, so fan_in = 1; fan_out = dim.
    - RNN, LSTM, GRU and their cells: gates stacked in one matrix (gates · H, in) are gates · H
      outputs of ``in`` edges; fan_out is that of one gate, H. ``weight_hr`` (proj, H): H and proj.
    - Packed attention projection (3E, E): queries, keys and values apart, so E and E.
    - A vector or a scalar: both fans are its number of elements.
    """
    kernel = prod(shape[2:])
    if isinstance(module, _ConvTransposeNd) and tensor == "weight":
        fan_in = _transposed_fan_in(module, shape)
        return _fans(fan_in, shape[1] * kernel)
    if isinstance(module, _ConvNd) and tensor == "weight":
        return _fans(shape[1] * kernel, shape[0] // module.groups * kernel)
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and tensor == "weight":
        return _fans(1, shape[1])
    if isinstance(module, nn.RNNBase | nn.RNNCellBase) and tensor.startswith(("weight_ih", "weight_hh")):
        return _fans(shape[1], module.hidden_size)
    if isinstance(module, nn.MultiheadAttention) and tensor == "in_proj_weight":
        return _fans(shape[1], shape[0] // 3)
    if len(shape) < 2:
        return _fans(prod(shape), prod(shape))
    return _fans(prod(shape[1:]), shape[0] * kernel)


def _transposed_fan_in(module: _ConvTransposeNd, shape: Sequence[int]) -> int:
    # Tap j of a kernel lands on outputs ≡ j · dilation (mod stride). These are min(k, stride / gcd) residue
    # classes, and the taps are spread over them; other outputs get no edge and do not count.
    classes = prod(
        min(size, stride // gcd(stride, dilation))
        for size, stride, dilation in zip(shape[2:], module.stride, module.dilation, strict=True)
    )
    edges = shape[0] // module.groups * prod(shape[2:])
    return round(edges / max(1, classes))


def _fans(fan_in: int, fan_out: int) -> Fans:
    return Fans(max(1, fan_in), max(1, fan_out))
