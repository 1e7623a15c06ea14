"""What one layer of torch is as an operation, and what shape comes out of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise

from torch import nn

from ...weights import BinaryActivation
from .operations import (
    Add,
    AveragePool,
    Convolution,
    Flatten,
    Linear,
    MaxPool,
    Normalisation,
    Operation,
    Pair,
    Relu,
    Sign,
    Silu,
)

Shape = tuple[int, ...]


class InexpressibleError(Exception):
    """A layer is no operation; the message says what about it, in a few words, or nothing if its kind says it."""


def operation_of(layer: nn.Module, shape: Shape) -> Operation | None:
    """Return what ``layer`` computes in evaluation mode on one example of this shape; None if it changes nothing.

    Raises InexpressibleError for a layer that no operation stands for.
    """
    if type(layer) not in _READERS:
        raise InexpressibleError
    if layer._forward_pre_hooks or layer._forward_hooks:
        raise InexpressibleError("has hooks")
    return _READERS[type(layer)](layer, shape)


def output_shape(operation: Operation, *shapes: Shape) -> Shape:
    """Return the shape of one example's output; InexpressibleError if the operation does not take these shapes."""
    shape = shapes[0]
    match operation:
        case Convolution(weight=weight, stride=stride, padding=padding, dilation=dilation, groups=groups):
            _check(len(shape) == 3 and shape[0] == weight.shape[1] * groups, shape)
            kernel = (weight.shape[2], weight.shape[3])
            return (len(weight), *_windows(shape, kernel, stride, padding, dilation))
        case Linear(weight=weight):
            _check(shape == (weight.shape[1],), shape)
            return (len(weight),)
        case Normalisation(mean=mean):
            _check(len(shape) in (1, 3) and shape[0] == len(mean), shape)
            return shape
        case MaxPool(kernel=kernel, stride=stride, padding=padding):
            _check(len(shape) == 3, shape)
            return (shape[0], *_windows(shape, kernel, stride, padding))
        case AveragePool(kernel=kernel, stride=stride, padding=padding):
            _check(len(shape) == 3, shape)
            return (shape[0], *_windows(shape, kernel, stride, padding))
        case Add():
            _check(shape == shapes[1], *shapes)
            return shape
        case Flatten():
            return (math.prod(shape),)
        case Relu() | Silu() | Sign():
            return shape


def _check(fits: bool, *shapes: Shape) -> None:
    if not fits:
        raise InexpressibleError(f"reads {' and '.join('x'.join(map(str, shape)) for shape in shapes)} an example")


def _windows(shape: Shape, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair = (1, 1)) -> Pair:
    """Return (height, width) of what windows that lie inside the padded image give."""
    height, width = (
        (size + 2 * pad - step * (extent - 1) - 1) // move + 1
        for size, extent, move, pad, step in zip(shape[1:], kernel, stride, padding, dilation, strict=True)
    )
    _check(height > 0 and width > 0, shape)
    return height, width


def _convolution(layer: nn.Conv2d, shape: Shape) -> Operation:
    padding = _padding_of(layer)
    if layer.padding_mode != "zeros" and padding != (0, 0):
        raise InexpressibleError(f"has padding_mode {layer.padding_mode!r}")
    return Convolution(
        layer.weight.detach(),
        None if layer.bias is None else layer.bias.detach(),
        stride=_pair(layer.stride),
        padding=padding,
        dilation=_pair(layer.dilation),
        groups=layer.groups,
    )


def _padding_of(layer: nn.Conv2d) -> Pair:
    if not isinstance(layer.padding, str):
        return _pair(layer.padding)
    if layer.padding == "valid":
        return (0, 0)
    total = [step * (extent - 1) for step, extent in zip(layer.dilation, layer.kernel_size, strict=True)]
    if any(pad % 2 for pad in total):
        raise InexpressibleError("has padding 'same' with an even kernel, one row or column more at one side")
    return (total[0] // 2, total[1] // 2)


def _linear(layer: nn.Linear, shape: Shape) -> Operation:
    return Linear(layer.weight.detach(), None if layer.bias is None else layer.bias.detach())


def _normalisation(layer: nn.BatchNorm1d | nn.BatchNorm2d, shape: Shape) -> Operation:
    if layer.running_mean is None or layer.running_var is None:
        raise InexpressibleError("has no running statistics")
    affine = [None if value is None else value.detach() for value in (layer.weight, layer.bias)]
    return Normalisation(layer.running_mean.detach(), layer.running_var.detach(), layer.eps, *affine)


def _max_pool(layer: nn.MaxPool2d, shape: Shape) -> Operation | None:
    if _pair(layer.dilation) != (1, 1):
        raise InexpressibleError(f"has dilation {layer.dilation}")
    if layer.return_indices:
        raise InexpressibleError("has return_indices True")
    kernel = _pair(layer.kernel_size)
    pool = MaxPool(kernel, _pair(layer.stride), _pair(layer.padding))
    return _pooling(pool, shape, ceil_mode=layer.ceil_mode)


def _average_pool(layer: nn.AvgPool2d, shape: Shape) -> Operation | None:
    kernel, padding = _pair(layer.kernel_size), _pair(layer.padding)
    if not layer.count_include_pad and padding != (0, 0):
        raise InexpressibleError("has count_include_pad False")
    if layer.divisor_override not in (None, math.prod(kernel)):
        raise InexpressibleError(f"has divisor_override {layer.divisor_override}")
    return _pooling(AveragePool(kernel, _pair(layer.stride), padding), shape, ceil_mode=layer.ceil_mode)


def _pooling(pool: MaxPool | AveragePool, shape: Shape, *, ceil_mode: bool) -> Operation | None:
    output_shape(pool, shape)
    spare = [
        (size + 2 * pad - extent) % move
        for size, extent, move, pad in zip(shape[1:], pool.kernel, pool.stride, pool.padding, strict=True)
    ]
    if ceil_mode and any(spare):
        raise InexpressibleError("has ceil_mode True with windows that reach beyond the image")
    return None if pool.kernel == pool.stride == (1, 1) and pool.padding == (0, 0) else pool


def _adaptive_pool(layer: nn.AdaptiveAvgPool2d, shape: Shape) -> Operation | None:
    _check(len(shape) == 3, shape)
    sizes = _pair(layer.output_size)
    windows = [_fixed_window(size, wanted) for size, wanted in zip(shape[1:], sizes, strict=True)]
    (height, down), (width, across) = windows
    if (height, width) == (1, 1) and (down, across) == (1, 1):
        return None
    return AveragePool((height, width), (down, across))


def _fixed_window(size: int, wanted: int | None) -> tuple[int, int]:
    """Return kernel and stride of adaptive pooling from ``size`` to ``wanted`` pixels, if they are the same for all."""
    wanted = size if wanted is None else wanted
    starts = [index * size // wanted for index in range(wanted)]
    ends = [-(-(index + 1) * size // wanted) for index in range(wanted)]
    kernels = {end - start for start, end in zip(starts, ends, strict=True)}
    strides = {after - before for before, after in pairwise(starts)} or {1}
    if len(kernels) > 1 or len(strides) > 1 or 0 in strides:
        raise InexpressibleError(f"has windows of several sizes, from {size} pixels to {wanted}")
    return kernels.pop(), strides.pop()


def _flatten(layer: nn.Flatten, shape: Shape) -> Operation | None:
    dimensions = len(shape) + 1
    if (layer.start_dim % dimensions, layer.end_dim % dimensions) != (1, len(shape)):
        raise InexpressibleError(f"flattens dimensions {layer.start_dim} to {layer.end_dim}")
    return Flatten() if len(shape) > 1 else None


def _pair(value: object) -> Pair:
    first, second = value if isinstance(value, tuple | list) else (value, value)
    return first, second  # None stands in the output_size of adaptive pooling


_READERS: Mapping[type[nn.Module], Callable[..., Operation | None]] = {
    nn.Conv2d: _convolution,
    nn.Linear: _linear,
    nn.BatchNorm1d: _normalisation,
    nn.BatchNorm2d: _normalisation,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _average_pool,
    nn.AdaptiveAvgPool2d: _adaptive_pool,
    nn.Flatten: _flatten,
    nn.ReLU: lambda layer, shape: Relu(),
    nn.SiLU: lambda layer, shape: Silu(),
    BinaryActivation: lambda layer, shape: Sign(),
    **dict.fromkeys(
        (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
        lambda layer, shape: None,
    ),
}
