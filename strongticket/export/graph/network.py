"""From a graph to a module of ordinary layers, which computes it in torch and exports as any other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...weights import BinaryActivation
from .operations import (
    Add,
    AveragePool,
    Convolution,
    Flatten,
    Graph,
    Linear,
    MaxPool,
    Normalisation,
    Operation,
    Relu,
    Sign,
    Silu,
)


def as_module(graph: Graph) -> nn.Module:
    """Return a module in evaluation mode that computes ``graph`` on batches.

    Its layers are those of ``torch.nn`` under the names of the nodes, so that its state_dict has the names of the
    network that the graph was read from. Tensors are those of the graph, not copies.
    """
    return _Network(graph).requires_grad_(False).eval()


@torch.no_grad()
def compute(operation: Operation, *values: Tensor) -> Tensor:
    """Return what an operation gives for batches of what it reads, in torch's own arithmetic."""
    output: Tensor = _layer(operation, tuple(values[0].shape[1:])).eval()(*values)
    return output


def _layer(operation: Operation, shape: tuple[int, ...]) -> nn.Module:
    """Return the layer of ``torch.nn`` that computes an operation on examples of this shape."""
    match operation:
        case Convolution(weight=weight, bias=bias):
            outputs, inputs, *kernel = weight.shape
            return _holding(
                nn.Conv2d(
                    inputs * operation.groups,
                    outputs,
                    (kernel[0], kernel[1]),
                    stride=operation.stride,
                    padding=operation.padding,
                    dilation=operation.dilation,
                    groups=operation.groups,
                    bias=bias is not None,
                    device="meta",  # nothing is drawn
                ),
                weight=weight,
                bias=bias,
            )
        case Linear(weight=weight, bias=bias):
            linear = nn.Linear(weight.shape[1], len(weight), bias=bias is not None, device="meta")
            return _holding(linear, weight=weight, bias=bias)
        case Normalisation():
            kind = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
            norm = kind(len(operation.mean), eps=operation.epsilon, affine=False, device="meta")
            del norm.num_batches_tracked  # evaluation does not read it
            norm.register_buffer("num_batches_tracked", None)
            norm.running_mean, norm.running_var = operation.mean, operation.variance
            return _holding(norm, weight=operation.weight, bias=operation.bias)
        case Relu():
            return nn.ReLU()
        case Silu():
            return nn.SiLU()
        case Sign():
            return BinaryActivation()
        case MaxPool():
            return nn.MaxPool2d(operation.kernel, operation.stride, operation.padding)
        case AveragePool():
            if _is_global(operation, shape):
                return nn.AdaptiveAvgPool2d(1)
            return nn.AvgPool2d(operation.kernel, operation.stride, operation.padding)
        case Add():
            return _Sum()
        case Flatten():
            return nn.Flatten()


def _holding(layer: nn.Module, **tensors: Tensor | None) -> nn.Module:
    for name, value in tensors.items():
        layer.register_parameter(name, None if value is None else nn.Parameter(value, requires_grad=False))
    return layer


def _is_global(pool: AveragePool, shape: tuple[int, ...]) -> bool:
    """Say whether a pool was adaptive, to one pixel: torch sums it in another order than a window of that size."""
    return pool.kernel == shape[1:] and pool.stride == (1, 1) and pool.padding == (0, 0)


class _Sum(nn.Module):
    """y = a + b."""

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the sum of two values of one shape."""
        return one + other


class _Network(nn.Module):
    """The nodes of a graph in a row, each a layer under its name."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._steps = [(node.name, node.inputs) for node in graph.nodes]
        self._output = graph.output
        shapes = {Graph.INPUT: graph.input_shape}
        for node in graph.nodes:
            shapes[node.name] = node.shape
            self._put(node.name, _layer(node.operation, shapes[node.inputs[0]]))

    def _put(self, name: str, layer: nn.Module) -> None:
        *path, last = name.split(".")
        holder: nn.Module = self
        for part in path:
            if part not in holder._modules:
                holder.add_module(part, nn.Module())
            holder = holder.get_submodule(part)
        if before := holder._modules.get(last):  # a function may be called as a module that holds layers
            for child, below in before.named_children():
                layer.add_module(child, below)
        holder.add_module(last, layer)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the output of a batch of examples."""
        values = {Graph.INPUT: inputs}
        for name, read in self._steps:
            values[name] = self.get_submodule(name)(*(values[value] for value in read))
        output = values[self._output]
        return output
