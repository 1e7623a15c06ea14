"""What a C program consists of: values in its buffer, and steps that read and write them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..graph.operations import AveragePool, Convolution, MaxPool, Pair
from .tables import Table

Kind = Literal["input", "real", "bits", "int8"]
"""How a value is held: ``input`` is what the caller gives; a real number takes a word, ±1 a bit, the rest a byte."""

Image = tuple[int, int, int]
"""(channels, height, width); a vector is an image of one pixel."""


@dataclass(frozen=True)
class Value:
    """What one step hands to others: an image. Values with one ``place`` are one and the same in the buffer."""

    place: str
    kind: Kind
    image: Image

    @property
    def words(self) -> int:
        """How many words of the buffer it takes."""
        channels, height, width = self.image
        match self.kind:
            case "input":
                return 0
            case "real":
                return channels * height * width
            case "bits":
                return -(-channels // 32) * height * width
            case "int8":
                return -(-channels * height * width // 4)


@dataclass(frozen=True)
class Window:
    """How a layer walks over an image; see ``window`` in the C source."""

    image: Image
    output: Image
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def taps(self) -> int:
        """How many places the kernel has."""
        return self.kernel[0] * self.kernel[1]

    @property
    def reach(self) -> Pair:
        """Rows and columns of the padded image that are read at all."""
        rows, columns = (
            (size - 1) * stride + (kernel - 1) * dilation + 1
            for size, stride, kernel, dilation in zip(
                self.output[1:], self.stride, self.kernel, self.dilation, strict=True
            )
        )
        return rows, columns

    def fields(self) -> dict[str, int]:
        """Return the members of the C struct."""
        both = {"kernel_height": self.kernel[0], "kernel_width": self.kernel[1]}
        for name, (y, x) in (("stride", self.stride), ("padding", self.padding), ("dilation", self.dilation)):
            both |= {f"{name}_y": y, f"{name}_x": x}
        image = dict(zip(("channels", "height", "width"), self.image, strict=True))
        output = dict(zip(("outputs", "out_height", "out_width"), self.output, strict=True))
        return {**image, **output, "groups": self.groups, **both}


def window_of(operation: Convolution | MaxPool | AveragePool, image: Image, output: Image) -> Window:
    """Return the window of an operation."""
    if isinstance(operation, Convolution):
        height, width = operation.weight.shape[2:]
        return Window(
            image,
            output,
            (height, width),
            operation.stride,
            operation.padding,
            operation.dilation,
            operation.groups,
        )
    return Window(image, output, operation.kernel, operation.stride, operation.padding)


def image_of(shape: Sequence[int]) -> Image:
    """Return a shape of one example, (channels, height, width) or (features), as an image."""
    channels, height, width = (*shape, 1, 1)[:3] if len(shape) in (1, 3) else (math.prod(shape), 1, 1)
    return channels, height, width


Placed = Callable[[Value], str]
"""Where a value lies, as an expression of C."""


@dataclass(frozen=True)
class Struct:
    """A constant struct: its type and name in C, and its members in text."""

    type: str
    name: str
    members: dict[str, str]

    def declaration(self) -> str:
        """Return its definition in C."""
        members = "".join(f"    .{name} = {text},\n" for name, text in self.members.items())
        return f"static const {self.type} {self.name} = {{\n{members}}};\n"


@dataclass
class Step(ABC):
    """One call, or a few, of the C program.

    ``scratch`` words of the buffer are its own while it runs. ``in_place``: its output may overwrite its first input.
    """

    reads: tuple[Value, ...]
    output: Value
    in_place: bool = field(default=False, init=False)

    @property
    def scratch(self) -> int:
        """How many words it needs beside its inputs and its output."""
        return 0

    @property
    @abstractmethod
    def sections(self) -> tuple[str, ...]:
        """The sections of the C source that it needs."""

    def tables(self) -> list[Table]:
        """Return its constant arrays."""
        return []

    def structs(self) -> list[Struct]:
        """Return its constant structs."""
        return []

    @abstractmethod
    def calls(self, at: Placed, scratch: str) -> list[str]:
        """Return its statements; ``scratch`` is where its scratch lies."""


def initialiser(window: Window) -> str:
    """Return a window as an initialiser of C."""
    return "{" + ", ".join(f".{name} = {value}" for name, value in window.fields().items()) + "}"


@dataclass
class Program:
    """A whole program: its steps in order, and the shapes of its input and output."""

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    steps: list[Step]
    edges: int
    weights: int

    @property
    def table_bytes(self) -> int:
        """How many bytes its constant arrays take."""
        return sum(table.bytes for step in self.steps for table in step.tables())

    @property
    def outputs(self) -> int:
        """How many numbers it gives for one example."""
        return math.prod(self.output_shape)
