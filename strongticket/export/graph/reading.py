"""From a module of torch to a graph: its forward pass is traced, and each layer becomes an operation."""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ...errors import ExportError
from ...weights import BinaryActivation
from ..text import core_reason, quiet
from .layers import InexpressibleError, Shape, operation_of, output_shape
from .operations import Add, AveragePool, Flatten, Graph, Node, Operation, Relu, Silu

OTHER_TARGETS = "onnx (float weights), pt2 and safetensors"
"""Who takes a network that no graph can express."""


def read_graph(plain: nn.Module, input_shape: Shape) -> Graph:
    """Return what a baked network computes in evaluation mode on one example of this shape, without the batch.

    Layers that change nothing (identity, dropout) are left out. Tensors are those of the network, not copies. Raises
    ExportError for a layer that no operation stands for, by its name and class, and for a forward pass that decides
    by values.
    """
    name = type(plain).__name__
    if next(plain.children(), None) is None:  # a layer by itself
        plain = nn.Sequential(OrderedDict([(name.lower(), plain)])).eval()
    defaults = {
        parameter.name: parameter.default
        for parameter in list(inspect.signature(plain.forward).parameters.values())[1:]
        if parameter.default is not parameter.empty
    }
    try:
        with quiet():
            traced = _Tracer().trace(plain, concrete_args=defaults)
    except Exception as error:  # whatever a stranger's network raises
        raise ExportError(
            f"the forward pass of {name} cannot be followed layer by layer ({core_reason(error)}); "
            f"{OTHER_TARGETS} take it"
        ) from error
    return _Reader(plain, tuple(input_shape)).read(traced)


class _Tracer(fx.Tracer):
    """Looks into modules, but not into those that are one layer."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Say whether a module is one layer."""
        return isinstance(m, BinaryActivation) or super().is_leaf_module(m, module_qualified_name)


@dataclass(frozen=True)
class _Value:
    """The output of a node, or the input of the graph. What is no such value is an ordinary object: sizes, options."""

    name: str


_BATCH = object()
"""The size of the batch, which is free."""


def _max_pool(kernel: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, **options: Any) -> nn.Module:
    return nn.MaxPool2d(kernel, stride, padding, dilation, **options)


def _max_pool_of_torch(
    kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> nn.Module:
    return nn.MaxPool2d(kernel, stride or None, padding, dilation, ceil_mode=ceil_mode)


def _flatten(start_dim: int = 0, end_dim: int = -1) -> nn.Module:
    return nn.Flatten(start_dim, end_dim)


def _dropout(p: float = 0.5, training: bool = True, inplace: bool = False) -> nn.Module:
    if training:
        raise InexpressibleError("in training mode")
    return nn.Identity()


_LAYERS: Mapping[object, Callable[..., nn.Module]] = {
    F.max_pool2d: _max_pool,
    torch.max_pool2d: _max_pool_of_torch,
    F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    torch.flatten: _flatten,
    "flatten": _flatten,
    F.dropout: _dropout,
    F.dropout2d: _dropout,
    "contiguous": nn.Identity,
}
"""Functions (objects) and methods (names) of one value that have a layer, built from the other arguments."""

_ACTIVATIONS: Mapping[object, Operation] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"), Relu()),
    F.silu: Silu(),
}
_ADD = {torch.add, "add", "add_"}
_MEAN = {torch.mean, "mean"}
_VIEW = {torch.reshape, "reshape", "view"}


class _Reader:
    """Goes through a traced forward pass once, and keeps what each step of it gives."""

    def __init__(self, plain: nn.Module, input_shape: Shape) -> None:
        self._plain = plain
        self._nodes: list[Node] = []
        self._shapes: dict[str, Shape] = {Graph.INPUT: input_shape}
        self._found: dict[fx.Node, Any] = {}

    def read(self, traced: fx.Graph) -> Graph:
        """Return the graph of a forward pass; ExportError for a step that no operation stands for."""
        found = self._found
        for step in traced.nodes:
            arguments = fx.map_arg(step.args, found.__getitem__)
            options = fx.map_arg(step.kwargs, found.__getitem__)
            if step.op == "output":
                return self._graph(arguments[0])
            try:
                found[step] = self._step(step, arguments, options, first=not found)
            except Exception as error:  # a stranger's network may call anything with anything
                reason = str(error) if isinstance(error, InexpressibleError) else core_reason(error)
                raise ExportError(f"{self._label(step, reason)} has no form here; {OTHER_TARGETS} take it") from None
        raise ExportError(f"{type(self._plain).__name__} returns nothing")

    def _graph(self, output: Any) -> Graph:
        if not isinstance(output, _Value):
            raise ExportError(
                f"{type(self._plain).__name__} returns a {type(output).__name__} and not one tensor, which has no form "
                f"here; {OTHER_TARGETS} take it"
            )
        needed, nodes = {output.name}, []
        for node in reversed(self._nodes):
            if node.name in needed:
                needed.update(node.inputs)
                nodes.append(node)
        return Graph(self._shapes[Graph.INPUT], tuple(reversed(nodes)), output.name)

    def _step(self, step: fx.Node, arguments: tuple[Any, ...], options: dict[str, Any], *, first: bool) -> Any:
        if step.op == "placeholder":
            return _Value(Graph.INPUT) if first else (step.args[0] if step.args else None)
        if step.op == "call_module":
            return self._layer(step, self._plain.get_submodule(str(step.target)), arguments, options)
        if step.op in ("call_function", "call_method"):
            return self._call(step, arguments, options)
        raise InexpressibleError

    def _layer(self, step: fx.Node, layer: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> _Value:
        if len(arguments) != 1 or options or not isinstance(arguments[0], _Value):
            raise InexpressibleError("reads more than one value")
        operation = operation_of(layer, self._shapes[arguments[0].name])
        if operation is None:
            return arguments[0]
        return self._add(step, operation, arguments[0], in_place=bool(getattr(layer, "inplace", False)))

    def _call(self, step: fx.Node, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        values = [value for value in (*arguments, *options.values()) if isinstance(value, _Value)]
        if not values or step.target is getattr:
            return self._compute(step, arguments, options)
        value, rest = values[0], arguments[1:] if isinstance(arguments[0], _Value) else arguments
        options = {key: option for key, option in options.items() if not isinstance(option, _Value)}
        shape = self._shapes[value.name]
        if _is(step.target, "add") or step.target in _ADD:
            if len(values) == 1 and 0 in rest:  # how sum() begins
                return value
            if len(values) != 2 or options.get("alpha", 1) != 1:
                raise InexpressibleError("adds what is no value of the network")
            return self._add(step, Add(), *values, in_place=_called(step) in ("add_", "iadd"))
        if len(values) > 1:
            raise InexpressibleError
        if step.target in ("size", "dim"):
            sizes = (_BATCH, *shape)
            wanted = (*rest, *options.values())
            return len(sizes) if step.target == "dim" else sizes[wanted[0]] if wanted else sizes
        if step.target in _ACTIVATIONS:
            in_place = bool(rest[0] if rest else options.get("inplace")) or _called(step) == "relu_"
            return self._add(step, _ACTIVATIONS[step.target], value, in_place=in_place)
        if step.target in _MEAN:
            return self._mean(step, value, *rest, **options)
        if step.target in _VIEW:
            return self._view(step, value, *(rest or options.values()))
        if step.target in _LAYERS:
            return self._layer(step, _LAYERS[step.target](*rest, **options), (value,), {})
        raise InexpressibleError

    def _compute(self, step: fx.Node, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Compute with sizes and options; no value of the network is read but its shape."""
        if step.target is getattr:
            if not isinstance(arguments[0], _Value) or arguments[1] not in ("shape", "ndim"):
                raise InexpressibleError(f"reads {arguments[1]}")
            sizes = (_BATCH, *self._shapes[arguments[0].name])
            return sizes if arguments[1] == "shape" else len(sizes)
        if getattr(step.target, "__name__", "").startswith("_assert"):  # of arguments left at their default
            return None
        known = _is(step.target, "getitem") or not any(argument is _BATCH for argument in arguments)
        if not known or getattr(step.target, "__module__", None) not in ("_operator", "builtins", "math"):
            raise InexpressibleError
        assert callable(step.target)
        return step.target(*arguments, **options)

    def _mean(self, step: fx.Node, value: _Value, dim: Any = None, keepdim: bool = False) -> _Value:
        shape = self._shapes[value.name]
        dimensions = sorted(index % 4 for index in dim) if isinstance(dim, tuple | list) else None
        if len(shape) != 3 or dimensions != [2, 3]:
            raise InexpressibleError(f"over dimensions {dim}")
        value = self._add(step, AveragePool((shape[1], shape[2]), (1, 1)), value)
        return value if keepdim else self._add(step, Flatten(), value)

    def _view(self, step: fx.Node, value: _Value, *sizes: Any) -> _Value:
        shape = self._shapes[value.name]
        if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
            sizes = tuple(sizes[0])
        units = math.prod(shape)
        if len(sizes) != 2 or not (sizes == (-1, units) or (sizes[0] is _BATCH and sizes[1] in (-1, units))):
            raise InexpressibleError("gives another shape than a row for each example")
        return value if len(shape) == 1 else self._add(step, Flatten(), value)

    def _add(self, step: fx.Node, operation: Operation, *values: _Value, in_place: bool = False) -> _Value:
        """Append a node and return its value, which takes the place of the first it reads if ``in_place``."""
        shape = output_shape(operation, *(self._shapes[value.name] for value in values))
        base, number = self._name(step), 1
        name = base
        while name in self._shapes:
            number += 1
            name = f"{base}_{number}"
        self._shapes[name] = shape
        self._nodes.append(Node(name, operation, tuple(value.name for value in values), shape))
        if in_place:
            for before, value in self._found.items():
                self._found[before] = _Value(name) if value == values[0] else value
        return _Value(name)

    def _name(self, step: fx.Node) -> str:
        """Return the path of a layer, or of the module that calls a function with the function's name."""
        if step.op == "call_module":
            return str(step.target)
        path, _ = self._caller(step)
        return f"{path}.{_called(step)}".strip("._")

    def _label(self, step: fx.Node, reason: str) -> str:
        """Return how an error names a layer: by its path, its class and what about it is the reason."""
        if step.op == "call_module":
            path, kind, calls = str(step.target), type(self._plain.get_submodule(str(step.target))), ""
        else:
            path, kind = self._caller(step)
            calls = f"reads {step.target}" if step.op == "get_attr" else f"calls {_called(step)}"
        said = ": ".join(part for part in (calls, reason) if part)
        return f"{path or 'the network'} ({kind.__name__}{', which ' + said if said else ''})"

    def _caller(self, step: fx.Node) -> tuple[str, type[nn.Module]]:
        stack = step.meta.get("nn_module_stack")
        path, kind = next(reversed(stack.values())) if stack else ("", type(self._plain))
        return path, kind


def _called(step: fx.Node) -> str:
    return str(step.target if isinstance(step.target, str) else getattr(step.target, "__name__", step.target))


def _is(function: object, name: str) -> bool:
    """Say whether a traced function is the one of the module ``operator`` with this name."""
    return getattr(function, "__module__", None) == "_operator" and getattr(function, "__name__", None) == name
