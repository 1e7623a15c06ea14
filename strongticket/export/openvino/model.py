"""A graph as a model of OpenVINO, with layers over ±1 as xnor and popcount."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from ..graph import (
    Add,
    AveragePool,
    Convolution,
    Flatten,
    Graph,
    Linear,
    MaxPool,
    Node,
    Normalisation,
    Relu,
    Sign,
    Silu,
)
from ..graph.ternary import Ternary, as_ternary
from .xnor import MOST_PRODUCTS, Affine, Array, has_kernel, little_endian, planes, threshold

CHANNELS = 4
"""Channels come in fours: twice as many must fill whole bytes."""


def build(graph: Graph, batch: int) -> Any:
    """Return the model of a graph for a batch of that size, with input ``input`` and output ``output``.

    A convolution or linear layer over ±1 with ternary weights becomes a BinaryConvolution, where that has a
    kernel; other ternary weights are int8. Batch norm and sign become one threshold a channel. Nothing but the
    input depends on the batch, so the model can be reshaped to another.
    """
    import openvino
    from openvino import opset13 as ops

    parameter = ops.parameter([batch, *graph.input_shape], np.float32, name="input")
    parameter.output(0).set_names({"input"})
    values = {Graph.INPUT: Value(parameter.output(0), graph.input_shape)}
    for node in graph.nodes:
        values[node.name] = _apply(node, [values[name] for name in node.inputs])
    result = ops.result(values[graph.output].real, name="output")
    result.output(0).set_names({"output"})
    return openvino.Model([result], [parameter], "ticket")


@dataclass(frozen=True, eq=False)
class Value:
    """What a node of the graph gives: ``port`` of the model (batch, *shape), and what is still to be done to it.

    That is ``affine``, then the sign if ``sign``: batch norm is not computed where only a sign reads it. With
    ``whole`` the numbers of ``port`` are whole. Whoever reads takes ``real`` or, of a sign, ``bits``.
    """

    port: Any
    shape: tuple[int, ...]
    affine: Affine | None = None
    whole: bool = False
    sign: bool = False

    @cached_property
    def real(self) -> Any:
        """The value in float32, (batch, *shape)."""
        from openvino import opset13 as ops

        rank = len(self.shape) + 1
        if self.sign:
            # No FakeQuantize: one of two levels is right before a BinaryConvolution only.
            found = threshold(self.to_do, whole=self.whole)
            one = np.where(found.above, 1.0, -1.0)
            greater = ops.greater(self.port, _channels(found.level, rank))
            return ops.select(greater, _channels(one, rank), _channels(-one, rank)).output(0)
        port = self.port
        if self.affine is not None and (self.affine.scale != 1).any():
            port = ops.multiply(port, _channels(self.affine.scale, rank)).output(0)
        if self.affine is not None and self.affine.shift.any():
            port = ops.add(port, _channels(self.affine.shift, rank)).output(0)
        return port

    @cached_property
    def bits(self) -> Any:
        """The sign for a BinaryConvolution, 1 for +1 and 0 for −1: (batch, 2 · channels, height, width).

        The channels stand there twice, once for each plane of weights, so that one convolution adds both: two
        of them, added, would be fused with the FakeQuantize that follows, and go wrong. Each half ends in channels that
        only fill whole bytes; their weights are 0.
        """
        from openvino import opset13 as ops

        found = threshold(self.to_do, whole=self.whole)
        missing = -self.shape[0] % CHANNELS
        level, above = (np.tile(np.pad(part, (0, missing)), 2) for part in (found.level, found.above))
        port = self.port
        if len(self.shape) == 1:
            port = ops.reshape(port, np.array([0, 0, 1, 1]), special_zero=True).output(0)
        if missing:
            before, after = np.zeros(4, np.int64), np.array([0, missing, 0, 0])
            port = ops.pad(port, before, after, "constant", np.float32(0)).output(0)
        # A constant for each end of the range: a shared one hides from the runtime that they are equal.
        ends = _channels(level, 4), _channels(level, 4), _channels(~above, 4), _channels(above, 4)
        return ops.fake_quantize(ops.concat([port, port], 1), *ends, levels=2).output(0)

    @property
    def to_do(self) -> Affine:
        """The scale and shift that are still to be applied, of every channel."""
        return self.affine or _identity(self.shape[0])


def _identity(channels: int) -> Affine:
    return Affine(np.ones(channels), np.zeros(channels))


def _apply(node: Node, inputs: list[Value]) -> Value:
    """Return what a node gives."""
    from openvino import opset13 as ops

    (value, *_), shape = inputs, node.shape
    match node.operation:
        case Convolution() | Linear() as layer:
            return _weighted(layer, value, shape)
        case Normalisation() as norm:
            base = Value(value.real, value.shape, whole=True) if value.sign else value
            return replace(base, affine=base.to_do.then(*_scale_and_shift(norm)))
        case Sign():
            return replace(value, sign=True)
        case MaxPool() as pool:
            rising = bool((value.to_do.scale >= 0).all())
            base = value if rising else Value(replace(value, sign=False).real, value.shape, sign=value.sign)
            padding = list(pool.padding)
            port = ops.max_pool(base.port, list(pool.stride), [1, 1], padding, padding, list(pool.kernel)).output(0)
            return replace(base, port=port, shape=shape)
        case Flatten():
            each = int(np.prod(value.shape[1:]))
            affine = Affine(value.to_do.scale.repeat(each), value.to_do.shift.repeat(each))
            port = ops.reshape(value.port, np.array([0, -1]), special_zero=True).output(0)
            return replace(value, port=port, shape=shape, affine=affine)
        case Relu():
            return Value(ops.relu(value.real).output(0), shape)
        case Silu():
            return Value(ops.swish(value.real).output(0), shape)
        case AveragePool() as pool:
            padding = list(pool.padding)
            port = ops.avg_pool(value.real, list(pool.stride), padding, padding, list(pool.kernel), False).output(0)
            return Value(port, shape)
        case Add():
            return Value(ops.add(*(each.real for each in inputs)).output(0), shape)


def _scale_and_shift(norm: Normalisation) -> tuple[Array, Array]:
    """Return batch norm as a scale and a shift, in float64."""
    scale = 1 / np.sqrt(_numbers(norm.variance) + norm.epsilon)
    if norm.weight is not None:
        scale = scale * _numbers(norm.weight)
    shift = -_numbers(norm.mean) * scale
    return scale, shift if norm.bias is None else shift + _numbers(norm.bias)


def _numbers(tensor: Tensor) -> Array:
    """Return a tensor in float64."""
    return tensor.detach().double().numpy()


def _weighted(layer: Convolution | Linear, value: Value, shape: tuple[int, ...]) -> Value:
    """Return what a layer with weights gives, with gain and bias still to be applied."""
    from openvino import opset13 as ops

    image = layer if isinstance(layer, Convolution) else Convolution(layer.weight[:, :, None, None])
    found = as_ternary(image.weight)
    scale = np.ones(shape[0]) if found is None else _numbers(found.gain)
    shift = np.zeros(shape[0]) if layer.bias is None else _numbers(layer.bias)
    counted = found is not None and value.sign and image.weight[0].numel() <= MOST_PRODUCTS
    rows = (value.shape[2], shape[2]) if isinstance(layer, Convolution) else (1, 1)
    if found is not None and counted and has_kernel(image, *rows):
        port = _binary_convolution(image, found, value.bits)
        if isinstance(layer, Linear):
            port = ops.reshape(port, np.array([0, -1]), special_zero=True).output(0)
        return Value(port, shape, Affine(scale / 2, shift), whole=True)
    # Small integers in the file; the runtime turns them into float32 when it compiles the model.
    numbers = layer.weight.detach().float() if found is None else found.signs.reshape(layer.weight.shape)
    weight = ops.convert(ops.constant(numbers.contiguous().numpy()), np.float32)
    if isinstance(layer, Linear):
        port = ops.matmul(value.real, weight, False, True).output(0)
    else:
        port = _convolution(layer, value.real, weight)
    return Value(port, shape, Affine(scale, shift), whole=counted)


def _binary_convolution(layer: Convolution, weight: Ternary, bits: Any) -> Any:
    """Return the sum over both planes of a ternary weight, twice the convolution with its signs.

    A pad value of 0 leaves the padding out of the sum, which is what a zero does.
    """
    from openvino import opset13 as ops

    missing = -weight.signs.shape[1] % CHANNELS
    both = [
        np.pad(plane, ((0, 0), (0, missing), (0, 0), (0, 0)), constant_values=fill)
        for plane, fill in zip(planes(weight.signs), (True, False), strict=True)
    ]
    filters = _bits(np.concatenate(both, 1))
    padding = list(layer.padding)
    return ops.binary_convolution(
        bits, filters, list(layer.stride), padding, padding, [1, 1], "xnor-popcount", 0.0
    ).output(0)


def _convolution(layer: Convolution, port: Any, weight: Any) -> Any:
    """Return an ordinary convolution, grouped or not."""
    from openvino import opset13 as ops

    stride, padding, dilation = list(layer.stride), list(layer.padding), list(layer.dilation)
    if layer.groups == 1:
        return ops.convolution(port, weight, stride, padding, padding, dilation).output(0)
    grouped = np.array([layer.groups, len(layer.weight) // layer.groups, *layer.weight.shape[1:]])
    weight = ops.reshape(weight, grouped, special_zero=False)
    return ops.group_convolution(port, weight, stride, padding, padding, dilation).output(0)


def _bits(bits: Array) -> Any:
    """Return a constant of one bit a value."""
    import openvino
    from openvino import opset13 as ops

    # The tensor owns its memory: one made from an array would point into it.
    tensor = openvino.Tensor(openvino.Type.u1, openvino.Shape(bits.shape))
    tensor.data.reshape(-1)[:] = little_endian(bits)
    return ops.constant(tensor)


def _channels(values: Array, rank: int) -> Any:
    """Return a float32 constant with one number a channel, for values of that rank."""
    from openvino import opset13 as ops

    return ops.constant(values.astype(np.float32).reshape(1, -1, *(1,) * (rank - 2)))
