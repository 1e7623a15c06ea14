"""What the tests of the c target share: graphs with exact arithmetic, and programs that are compiled and run."""

from __future__ import annotations

import functools
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import strongticket as st
from strongticket.export.c.layers import BinaryLayer
from strongticket.export.c.lowering import lower
from strongticket.export.c.plan import Program
from strongticket.export.c.runtime_text import main_program
from strongticket.export.c.text import sources_of
from strongticket.export.graph import (
    Add,
    AveragePool,
    Convolution,
    Flatten,
    Graph,
    Linear,
    MaxPool,
    Node,
    Normalisation,
    Operation,
    Relu,
    Sign,
)
from strongticket.export.graph.layers import output_shape
from strongticket.export.graph.network import as_module
from strongticket.export.source import Source, source_of
from strongticket.masks import bake
from strongticket.models import build

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
SANITIZED = (*STRICT, "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
DIGEST = "0123" * 16


def needed(*commands: str) -> pytest.MarkDecorator:
    """Skip a test where one of these commands is not installed."""
    missing = [command for command in commands if shutil.which(command) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed")


@functools.cache
def sanitizers_link(compiler: str) -> bool:
    """Say whether programs with sanitizers can be made here."""
    command = [compiler, "-fsanitize=address,undefined", "-x", "c", "-", "-o", "/dev/null"]
    return subprocess.run(command, input=b"int main(void) { return 0; }", capture_output=True).returncode == 0


def write_program(
    graph: Graph, folder: Path, *, quanta: Mapping[str, float] | None = None, coded: bool | None = None
) -> Program:
    """Write a graph's program into a folder, without any check; ``coded`` says how all binary layers are held."""
    program = lower(graph, quanta=quanta)
    if coded is not None:
        for step in program.steps:
            if isinstance(step, BinaryLayer):
                step.coded = coded
    sources = sources_of(program, weights_digest=DIGEST)
    folder.mkdir(exist_ok=True)
    (folder / "ticket.h").write_text(sources.header)
    (folder / "ticket.c").write_text(sources.source)
    (folder / "main.c").write_text(main_program())
    return program


def compiled(folder: Path, *command: str, name: str = "program") -> Path:
    """Compile the program in a folder; what the compiler complains about fails the test."""
    program = folder / name
    files = [str(folder / "ticket.c"), str(folder / "main.c")]
    done = subprocess.run([*command, *files, "-o", str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:2000]
    assert done.stderr == ""
    return program


def run(program: Path, batch: Tensor, *runner: str) -> Tensor:
    """Return what a program prints for a batch, (batch, outputs)."""
    given = batch.flatten(1).numpy().astype("<f4").tobytes()
    done = subprocess.run([*runner, str(program)], input=given, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[:3000]
    return torch.tensor([[float(number) for number in line.split()] for line in done.stdout.decode().splitlines()])


def expected(graph: Graph, batch: Tensor) -> Tensor:
    """Return what torch computes in float64, (batch, outputs)."""
    network = as_module(graph).to(torch.float64)
    with torch.no_grad():
        return network(batch.double()).flatten(1)


@dataclass
class GraphBuilder:
    """Builds a graph node by node; each method returns the name of the value that it adds."""

    input_shape: tuple[int, ...]
    nodes: list[Node] = field(default_factory=list)

    def shape(self, name: str) -> tuple[int, ...]:
        shapes = {Graph.INPUT: self.input_shape} | {node.name: node.shape for node in self.nodes}
        return shapes[name]

    def add(self, operation: Operation, *inputs: str) -> str:
        shape = output_shape(operation, *map(self.shape, inputs))
        name = f"{type(operation).__name__.lower()}{len(self.nodes)}"
        self.nodes.append(Node(name, operation, inputs, shape))
        return name

    def graph(self, output: str) -> Graph:
        return Graph(self.input_shape, tuple(self.nodes), output)


def exact_graph(seed: int) -> Graph:
    """Return a random graph whose numbers are all small multiples of a power of two: no sum of them is ever rounded.

    So every correct program gives the same bits, whatever order it adds in.
    """
    return _ExactGraph(random.Random(seed)).build()


def exact_batch(graph: Graph, seed: int, examples: int = 3) -> Tensor:
    """Return inputs for an exact graph: multiples of 1/4 in [-2, 2]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-8, 9, (examples, *graph.input_shape), generator=generator) / 4


def check_exact(seed: int, *command: str, coded: bool | None = None, runner: tuple[str, ...] = ()) -> None:
    """Assert that the program of an exact graph computes it, bit for bit."""
    check_graph(exact_graph(seed), *command, coded=coded, runner=runner)


def check_graph(graph: Graph, *command: str, coded: bool | None = None, runner: tuple[str, ...] = ()) -> None:
    """Assert that the program of a graph of exact numbers computes it; ``command`` compiles, ``runner`` runs it."""
    inputs = exact_batch(graph, 0)
    with tempfile.TemporaryDirectory() as name:
        write_program(graph, Path(name), coded=coded)
        found = run(compiled(Path(name), *command), inputs, *runner)
    torch.testing.assert_close(found.double(), expected(graph, inputs), rtol=0, atol=0)


class _ExactGraph:
    """Draws operations until there are enough; ``_bits`` says how many bits the numbers of a value need at most."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._torch = torch.Generator().manual_seed(draw.getrandbits(32))
        shape = (draw.choice([1, 2, 3, 5, 8, 33]), draw.randint(1, 7), draw.randint(1, 7))
        self._builder = GraphBuilder(shape)
        self._bits = {Graph.INPUT: 5}
        self._signs: set[str] = set()

    def build(self) -> Graph:
        value = Graph.INPUT
        for _ in range(self._draw.randint(2, 9)):
            value = self._image_step(value)
        if self._draw.random() < 0.7:
            value = self._put(Flatten(), value)
            for _ in range(self._draw.randint(1, 4)):
                value = self._vector_step(value)
        return self._builder.graph(value)

    def _put(self, operation: Operation, *values: str, bits: int = 0, sign: bool = False) -> str:
        name = self._builder.add(operation, *values)
        self._bits[name] = 1 if sign else max(self._bits[value] for value in values) + bits
        if sign:
            self._signs.add(name)
        return name

    def _image_step(self, value: str) -> str:
        draw, shape = self._draw, self._builder.shape(value)
        same = [n.name for n in self._builder.nodes if n.shape == shape and self._bits[n.name] < 14]
        kind = draw.choice(["weights", "weights", "binary", "binary", "norm", "relu", "sign", "max", "mean", "add"])
        if self._bits[value] > 14:
            kind = "sign"
        if kind == "weights":
            return self._convolution(value)
        if kind == "binary":
            return self._binary_block(value)
        if kind == "add" and same:
            return self._put(Add(), value, draw.choice(same), bits=1)
        if kind == "max":
            return self._max_pool(value)
        if kind == "mean" and shape[1] > 1:
            kernel = (2, draw.choice([1, 2]) if shape[2] > 1 else 1)
            return self._put(AveragePool(kernel, (draw.randint(1, 2), 1), (draw.randint(0, 1), 0)), value, bits=4)
        return self._pointwise(value, kind)

    def _binary_block(self, value: str) -> str:
        """Add a layer over ±1, what stands between it and a sign, and the sign."""
        value = value if value in self._signs else self._pointwise(value, "sign")
        value = self._convolution(value, ternary=True)
        for kind in self._draw.choice([(), ("norm",), ("max", "norm"), ("norm", "max"), ("norm", "relu", "norm")]):
            value = self._max_pool(value) if kind == "max" else self._pointwise(value, kind)
        return self._pointwise(value, "sign")

    def _max_pool(self, value: str) -> str:
        draw, (_, height, width) = self._draw, self._builder.shape(value)
        kernel = (draw.randint(1, min(3, height)), draw.randint(1, min(3, width)))
        padding = (draw.randint(0, kernel[0] // 2), draw.randint(0, kernel[1] // 2))
        stride = (draw.randint(1, 3), draw.randint(1, 3))
        return self._put(MaxPool(kernel, stride, padding), value, sign=value in self._signs)

    def _vector_step(self, value: str) -> str:
        kind = self._draw.choice(["weights", "weights", "binary", "binary", "norm", "relu", "sign"])
        if self._bits[value] > 14:
            kind = "sign"
        if kind == "weights":
            return self._linear(value)
        if kind == "binary":
            value = value if value in self._signs else self._pointwise(value, "sign")
            return self._pointwise(self._pointwise(self._linear(value, ternary=True), "norm"), "sign")
        return self._pointwise(value, kind)

    def _pointwise(self, value: str, kind: str) -> str:
        if kind == "relu":
            return self._put(Relu(), value)
        if kind == "norm":
            return self._put(self._normalisation(self._builder.shape(value)[0]), value, bits=5)
        return self._put(Sign(), value, sign=True)

    def _linear(self, value: str, *, ternary: bool = False) -> str:
        outputs, inputs = self._draw.choice([1, 3, 10, 32, 40]), self._builder.shape(value)[0]
        weight, bits = self._weight((outputs, inputs), ternary=ternary)
        return self._put(Linear(weight, self._bias(outputs)), value, bits=bits)

    def _convolution(self, value: str, *, ternary: bool = False) -> str:
        draw, shape = self._draw, self._builder.shape(value)
        groups = draw.choice([g for g in (1, 1, 1, 2, 3, 4, shape[0]) if shape[0] % g == 0])
        outputs = groups * draw.choice([1, 2, 3, 8, 33, 64] if groups < 8 else [1, 2])
        dilation = (draw.choice([1, 1, 2]), draw.choice([1, 1, 2]))
        padding = (draw.randint(0, 2), draw.randint(0, 2))
        most = [(size + 2 * pad - 1) // step + 1 for size, pad, step in zip(shape[1:], padding, dilation, strict=True)]
        kernel = [draw.randint(1, min(3, size)) for size in most]
        weight, bits = self._weight((outputs, shape[0] // groups, *kernel), ternary=ternary)
        stride = (draw.choice([1, 1, 2, 3]), draw.choice([1, 1, 2, 3]))
        operation = Convolution(weight, self._bias(outputs), stride, padding, dilation, groups)
        return self._put(operation, value, bits=bits)

    def _weight(self, shape: Sequence[int], *, ternary: bool = False) -> tuple[Tensor, int]:
        """Return a weight, and how many bits a sum over it adds."""
        density = self._draw.choice([0.03, 0.25, 0.5, 0.9, 1.0])
        mask = torch.rand(*shape, generator=self._torch) < density
        fan = int(mask.flatten(1).sum(1).max())
        if not ternary and self._draw.random() < 0.25:
            values = torch.randint(-3, 4, tuple(shape), generator=self._torch) / 4
            return torch.where(mask, values, 0), fan.bit_length() + 2
        signs = torch.where(torch.rand(*shape, generator=self._torch) < 0.5, -1.0, 1.0)
        gain = 2.0 ** torch.randint(-1, 1, (shape[0],), generator=self._torch)
        weight = signs * gain.reshape(-1, *[1] * (len(shape) - 1))
        return torch.where(mask, weight, 0), fan.bit_length() + 1

    def _bias(self, outputs: int) -> Tensor | None:
        if self._draw.random() < 0.7:
            return None
        return torch.randint(-4, 5, (outputs,), generator=self._torch) / 2

    def _normalisation(self, channels: int) -> Normalisation:
        """Return a normalisation by 1, 1/2 or 1/4, and by a gain that may be negative or 0."""
        root = 2.0 ** torch.randint(0, 3, (channels,), generator=self._torch)
        mean = torch.randint(-6, 7, (channels,), generator=self._torch) / 2
        affine: list[Tensor | None] = [None, None]
        if self._draw.random() < 0.6:
            affine = [torch.randint(-2, 3, (channels,), generator=self._torch) / d for d in (1, 2)]
        return Normalisation(mean, root**2 - 0.5, 0.5, *affine)


def ticketed(model: nn.Module, shape: tuple[int, ...], *, examples: int = 8, **options: Any) -> Source:
    """Return a network as an export gets it: with the ticket of random scores and batch-norm statistics of its own."""
    st.attach(model, **{"density": 0.25, "seed": 3, **options})
    generator = torch.Generator().manual_seed(5)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(16, *shape, generator=generator))
    model.eval()
    return source_of(bake(model).eval(), st.extract(model), torch.randn(examples, *shape, generator=generator))


class Mobile(nn.Module):
    """Depthwise, grouped and dilated convolutions with biases, strides and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 12, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.grouped = nn.Conv2d(12, 12, (1, 3), padding=(0, 2), dilation=2, groups=3, bias=False)
        self.pool = nn.AvgPool2d(2)
        self.norm = nn.BatchNorm2d(12)
        self.head = nn.Linear(12 * 9, 5)

    def forward(self, images: Tensor) -> Tensor:
        values = torch.relu(self.stem(images))
        values = torch.relu(self.norm(self.grouped(torch.relu(self.depthwise(values))) + values))
        return self.head(torch.flatten(self.pool(values), 1))


BINARY = {"binary": "weights+activations"}
NETWORKS: Mapping[str, Callable[[], Source]] = {
    "mlp-1/32": lambda: ticketed(build("mlp", input_shape=(1, 8, 8), classes=10), (1, 8, 8), binary="weights"),
    "mlp-1/1": lambda: ticketed(
        build("mlp", input_shape=(1, 8, 8), classes=10, width=0.2, activation="binary"), (1, 8, 8), **BINARY
    ),
    "conv2-1/32": lambda: ticketed(
        build("conv2", input_shape=(1, 8, 8), classes=10, width=0.25, norm="batch"), (1, 8, 8), binary="weights"
    ),
    "conv2-1/1": lambda: ticketed(
        build("conv2", input_shape=(1, 8, 8), classes=10, width=0.5, activation="binary"), (1, 8, 8), **BINARY
    ),
    "conv2-float": lambda: ticketed(
        build("conv2", input_shape=(1, 8, 8), classes=10, width=0.25), (1, 8, 8), weights="kaiming-normal"
    ),
    "vgg-1/1": lambda: ticketed(
        build("vgg-small", input_shape=(3, 16, 16), classes=10, width=0.25, activation="binary"), (3, 16, 16), **BINARY
    ),
    "resnet-1/1": lambda: ticketed(
        build("cifar-resnet18", input_shape=(3, 16, 16), classes=10, width=0.125, activation="binary"),
        (3, 16, 16),
        density=0.1,
        **BINARY,
    ),
    "resnet-1/32": lambda: ticketed(
        build("resnet18", input_shape=(3, 33, 33), classes=10, width=0.125), (3, 33, 33), binary="weights"
    ),
    "silu-1/32": lambda: ticketed(
        build("cifar-resnet9", input_shape=(3, 16, 16), classes=10, width=0.125, activation="silu"),
        (3, 16, 16),
        binary="weights",
    ),
    "mobile": lambda: ticketed(Mobile(), (2, 11, 13), binary="weights", density=0.5),
}
"""Networks of every kind that the target has, small."""
