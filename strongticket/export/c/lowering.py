"""From a graph to the steps of a C program: operations are merged where one function computes several of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ...errors import ExportError
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
from .identifiers import Names
from .layers import Affine, BinaryLayer, RealLayer
from .plan import Kind, Program, Step, Value, Window, image_of, window_of
from .quanta import held_as_int8
from .simple import Call, Normalise, Pool
from .tables import Array
from .thresholds import directions, integer_thresholds, real_thresholds

_GOAL = 1 / 16
"""Tables of binary layers take no more than this share of float weights, if lists of edges can do it."""


def lower(graph: Graph, *, quanta: Mapping[str, float] | None = None) -> Program:
    """Return the program that computes a graph.

    A layer with ternary weights that reads ±1 works on bits, any other on real numbers, or, where ``quanta`` (from
    ``calibrated``) names it, on 8 bits. A sign goes into the layer before it as thresholds, through normalisation,
    ReLU and max-pools; a normalisation or ReLU alone as the layer's scale and shift. Raises ExportError, with the
    name of the layer, for numbers that are not finite.
    """
    program = _Lowering(graph, quanta or {}).program()
    _choose_codes(program)
    return program


def _choose_codes(program: Program) -> None:
    """Decide for each binary layer whether its table holds planes or the list of edges they are made from.

    Planes are read as they are. A list takes time to become planes, once for all pixels: it is taken where it is at
    most half as large, and for further layers, those with the most pixels first, until the goal is met.
    """
    layers = [step for step in program.steps if isinstance(step, BinaryLayer)]
    for layer in layers:
        layer.coded = 2 * len(layer.code.bytes) <= layer.plane_bytes
    missing = program.table_bytes - _GOAL * 4 * program.weights
    for layer in sorted(layers, key=lambda layer: -layer.window.output[1] * layer.window.output[2]):
        saved = layer.plane_bytes - len(layer.code.bytes)
        if missing > 0 and not layer.coded and saved > 0:
            layer.coded = True
            missing -= saved


class _Lowering:
    """Goes through a graph once; each node becomes a value, and the steps that compute it."""

    def __init__(self, graph: Graph, quanta: Mapping[str, float]) -> None:
        self._graph, self._quanta = graph, quanta
        self._held = held_as_int8(graph, quanta)
        self._readers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in node.inputs:
                self._readers.setdefault(name, []).append(node)
        given = Value(Graph.INPUT, "input", image_of(graph.input_shape))
        self._values: dict[str, Value] = {Graph.INPUT: given}
        self._reals: dict[str, Value] = {}
        self._steps: list[Step] = []
        self._merged: set[str] = set()  # nodes that an earlier step computes
        self._names = Names()
        self._edges = self._weights = 0

    def program(self) -> Program:
        """Return the program."""
        for node in self._graph.nodes:
            if node.name not in self._merged:
                self._node(node)
        output = self._real(self._graph.output)
        count = output.image[0] * output.image[1] * output.image[2]
        self._steps.append(Call((output,), Value("output", "input", output.image), "store", (count,)))
        shapes = {Graph.INPUT: self._graph.input_shape} | {node.name: node.shape for node in self._graph.nodes}
        shape = shapes[self._graph.output]
        return Program(self._graph.input_shape, shape, self._steps, self._edges, self._weights)

    def _node(self, node: Node) -> None:
        operation, read = node.operation, self._values[node.inputs[0]]
        match operation:
            case Convolution() | Linear():
                self._layer(node, operation)
            case Flatten():
                # Bits stay as they are: a linear layer reads them as a convolution over the whole image.
                image = read.image if read.kind == "bits" else image_of(node.shape)
                self._values[node.name] = Value(read.place, read.kind, image)
            case Sign() if read.kind == "bits":
                self._values[node.name] = read
            case Sign():
                real = self._real(node.inputs[0])
                channels, height, width = real.image
                self._call(node.name, "signs", (real,), (channels, height * width), kind="bits", shape=node.shape)
            case Normalisation():
                name, relu = self._with_relu(node)
                scale, shift = _scale_and_shift(operation, node.name)
                real = self._real(node.inputs[0])
                output = self._new(name, "real", node.shape)
                self._steps.append(
                    Normalise(
                        (real,), output, self._names.take(node.name), scale.float().numpy(), shift.float().numpy(), relu
                    )
                )
            case Relu() | Silu():
                real = self._real(node.inputs[0])
                function = "relu" if isinstance(operation, Relu) else "silu"
                self._call(node.name, function, (real,), (_count(real),), shape=node.shape)
            case Add():
                name, relu = self._with_relu(node)
                reals = tuple(self._real(name) for name in node.inputs)
                self._call(name, "add", reals, (_count(reals[0]), int(relu)), shape=node.shape)
            case MaxPool() | AveragePool():
                average = isinstance(operation, AveragePool)
                if read.kind == "input":
                    read = self._real(node.inputs[0])
                kind: Kind = "real" if average else read.kind
                self._pool(node, operation, read, self._new(node.name, kind, node.shape))

    def _layer(self, node: Node, operation: Convolution | Linear) -> None:
        read = self._values[node.inputs[0]]
        weight, bias = _weights(operation, node.name)
        ternary = as_ternary(weight)
        if read.kind == "bits" and ternary is None:
            read = self._real(node.inputs[0])
        self._edges += int(torch.count_nonzero(weight))
        self._weights += weight.numel()
        if isinstance(operation, Convolution):
            window = window_of(operation, read.image, image_of(node.shape))
        else:
            image = read.image if read.kind == "bits" else image_of((weight.shape[1],))
            window = Window(image, image_of(node.shape), kernel=image[1:])
            weight = weight.reshape(len(weight), *image)
        quantum = self._quanta.get(node.name)
        gain = torch.ones(len(weight)) if ternary is None else ternary.gain
        values = (weight if ternary is None else _signs(ternary, weight)).flatten(2).transpose(1, 2)
        if quantum is not None:
            gain = gain * quantum
        signs = self._until_sign(node)
        if signs is not None:
            self._layer_to_bits(node, read, window, values, gain, bias, signs)
            return
        name, affine = self._affine(node, gain, bias)
        held = self._held.get(name)
        if held is not None and quantum is not None:
            affine = Affine(affine.scale / np.float32(held), affine.shift / np.float32(held), affine.relu)
        output = self._new(name, "int8" if held is not None and quantum is not None else "real", node.shape)
        self._add_layer(node, read, output, window, values, affine)

    def _layer_to_bits(
        self,
        node: Node,
        read: Value,
        window: Window,
        values: Tensor,
        gain: Tensor,
        bias: Tensor,
        after: Sequence[Node],
    ) -> None:
        """Add a layer whose outputs are signs, and the pools between; ``after`` are the nodes up to the sign."""
        self._merged.update(following.name for following in after)
        operations = [following.operation for following in after[:-1]]
        for following in after[:-1]:
            if isinstance(following.operation, Normalisation):
                _scale_and_shift(following.operation, following.name)
        turned = directions(operations, len(gain))
        values, gain = values * turned.to(values.dtype)[:, None, None], gain * turned
        quantum = self._quanta.get(node.name)
        reach = (values != 0).flatten(1).sum(1)
        limits: Array
        if read.kind == "bits" and values.dtype == torch.int8:
            limits = integer_thresholds(operations, gain, bias, reach).numpy()
        elif quantum is not None:
            limits = integer_thresholds(operations, gain, bias, 127 * reach).to(torch.int32).numpy()
        else:
            limits = real_thresholds(operations, gain, bias).numpy()
        pools = [following for following in after if isinstance(following.operation, MaxPool)]
        names = [*(pool.name + " before" for pool in pools), after[-1].name]
        output = self._new(names[0], "bits", node.shape)
        self._add_layer(node, read, output, window, values, limits)
        for index, pool in enumerate(pools):
            assert isinstance(pool.operation, MaxPool)
            behind = [following.operation for following in after[after.index(pool) + 1 : -1]]
            smallest = (directions(behind, len(gain)) < 0).numpy()
            pooled = self._new(names[index + 1], "bits", pool.shape)
            self._pool(pool, pool.operation, output, pooled, smallest)
            output = pooled

    def _add_layer(
        self, node: Node, read: Value, output: Value, window: Window, values: Tensor, after: Array | Affine
    ) -> None:
        name, weights = self._names.take(node.name), values.contiguous().numpy()
        if read.kind == "bits":
            self._steps.append(BinaryLayer((read,), output, name, window, weights, after))
        else:
            quantum = self._quanta.get(node.name)
            self._steps.append(RealLayer((read,), output, name, window, weights, after, quantum))

    def _until_sign(self, node: Node) -> list[Node] | None:
        """Return the nodes behind a layer up to a sign, if thresholds can do all of them; else None."""
        found: list[Node] = []
        while (following := self._only_reader(node)) is not None:
            found.append(following)
            if isinstance(following.operation, Sign):
                return found
            if not isinstance(following.operation, Normalisation | Relu | MaxPool):
                return None
            node = following
        return None

    def _affine(self, node: Node, gain: Tensor, bias: Tensor) -> tuple[str, Affine]:
        """Return what follows a layer's sum up to the last node that an affine can do, and that node's name."""
        scale, shift = gain.double(), bias.double()
        following = self._only_reader(node)
        if following is not None and isinstance(following.operation, Normalisation):
            factor, added = _scale_and_shift(following.operation, following.name)
            scale, shift = scale * factor, shift * factor + added
            self._merged.add(following.name)
            node = following
        name, relu = self._with_relu(node)
        return name, Affine(scale.float().numpy(), shift.float().numpy(), relu)

    def _with_relu(self, node: Node) -> tuple[str, bool]:
        """Return the name of the ReLU that alone reads a node, and True; else the node's own name, and False."""
        following = self._only_reader(node)
        if following is not None and isinstance(following.operation, Relu):
            self._merged.add(following.name)
            return following.name, True
        return node.name, False

    def _only_reader(self, node: Node) -> Node | None:
        readers = self._readers.get(node.name, [])
        return readers[0] if len(readers) == 1 and node.name != self._graph.output else None

    def _real(self, name: str) -> Value:
        """Return a value as real numbers; the step that makes it so is added once."""
        value = self._values[name]
        if value.kind == "real":
            return value
        if value.place not in self._reals:
            channels, height, width = value.image
            numbers = (channels, height * width) if value.kind == "bits" else (_count(value),)
            function = {"input": "load", "bits": "unpack"}[value.kind]
            real = Value(f"{value.place} as real", "real", value.image)
            self._steps.append(Call((value,), real, function, numbers))
            self._reals[value.place] = real
        real = self._reals[value.place]
        return Value(real.place, "real", value.image)

    def _new(self, name: str, kind: Kind, shape: Sequence[int]) -> Value:
        value = Value(name, kind, image_of(shape))
        self._values[name] = value
        return value

    def _call(
        self,
        name: str,
        function: str,
        reads: tuple[Value, ...],
        numbers: tuple[int, ...],
        *,
        shape: Sequence[int],
        kind: Kind = "real",
    ) -> None:
        self._steps.append(Call(reads, self._new(name, kind, shape), function, numbers))

    def _pool(
        self, node: Node, operation: MaxPool | AveragePool, read: Value, output: Value, smallest: Array | None = None
    ) -> None:
        window = window_of(operation, read.image, output.image)
        average = isinstance(operation, AveragePool)
        self._steps.append(Pool((read,), output, self._names.take(node.name), window, average, smallest))


def _count(value: Value) -> int:
    channels, height, width = value.image
    return channels * height * width


def _weights(operation: Convolution | Linear, name: str) -> tuple[Tensor, Tensor]:
    """Return weight and bias in float32."""
    weight = operation.weight.detach().float()
    bias = torch.zeros(len(weight)) if operation.bias is None else operation.bias.detach().float()
    _check_finite(name, weight, bias)
    return weight, bias


def _signs(ternary: Ternary, weight: Tensor) -> Tensor:
    return ternary.signs.reshape(weight.shape)


def _scale_and_shift(operation: Normalisation, name: str) -> tuple[Tensor, Tensor]:
    """Return y = x · scale + shift of a normalisation, in float64 (channels)."""
    scale = 1 / torch.sqrt(operation.variance.double() + operation.epsilon)
    if operation.weight is not None:
        scale = scale * operation.weight.double()
    shift = -operation.mean.double() * scale
    if operation.bias is not None:
        shift = shift + operation.bias.double()
    _check_finite(name, scale.float(), shift.float())
    return scale, shift


def _check_finite(name: str, *tensors: Tensor) -> None:
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise ExportError(f"{name} has numbers that are not finite in float32; a C program needs finite ones")
