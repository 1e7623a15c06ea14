"""Steps without weights: pools, sums, signs and normalisation by itself."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .plan import Placed, Step, Struct, Window
from .tables import Array, Table


@dataclass
class Call(Step):
    """A call of one function with whole numbers: ``function(inputs…, numbers…, output)``."""

    function: str
    numbers: tuple[int, ...]

    def __post_init__(self) -> None:
        self.in_place = self.function in ("add", "relu", "silu")

    @property
    def sections(self) -> tuple[str, ...]:
        """The sections of the C source that it needs."""
        return (self.function,)

    def calls(self, at: Placed, scratch: str) -> list[str]:
        """Return its statement."""
        arguments = [*map(at, self.reads), *map(str, self.numbers), at(self.output)]
        return [f"{self.function}({', '.join(arguments)});"]


@dataclass
class Normalise(Step):
    """image · scale + shift, float32 (channels) each, and then the larger of it and 0 if ``relu``."""

    name: str
    scale: Array
    shift: Array
    relu: bool = False
    in_place: bool = field(default=True, init=False)

    @property
    def sections(self) -> tuple[str, ...]:
        """The sections of the C source that it needs."""
        return ("normalise",)

    def tables(self) -> list[Table]:
        """Return its constant arrays."""
        return [Table(f"{self.name}_scale", "float", self.scale), Table(f"{self.name}_shift", "float", self.shift)]

    def calls(self, at: Placed, scratch: str) -> list[str]:
        """Return its statement."""
        channels, height, width = self.output.image
        numbers = f"{channels}, {height * width}, {int(self.relu)}"
        return [f"normalise({at(self.reads[0])}, {self.name}_scale, {self.name}_shift, {numbers}, {at(self.output)});"]


@dataclass
class Pool(Step):
    """The largest value of each window, or the mean. ``smallest`` (channels, bool) takes the smallest of bits there."""

    name: str
    window: Window
    average: bool = False
    smallest: Array | None = None

    @property
    def _function(self) -> str:
        kind = "" if self.reads[0].kind == "real" else f"_{self.reads[0].kind}"
        return f"{'average' if self.average else 'max'}_pool{kind}"

    @property
    def _flipped(self) -> Array | None:
        return self.smallest if self.smallest is not None and self.smallest.any() else None

    @property
    def sections(self) -> tuple[str, ...]:
        """The sections of the C source that it needs."""
        return ("bounds", self._function)

    def tables(self) -> list[Table]:
        """Return its constant array, if it has one."""
        if self._flipped is None:
            return []
        bits = np.zeros(-(-len(self._flipped) // 32) * 32, np.uint8)
        bits[: len(self._flipped)] = self._flipped
        words = np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32)
        return [Table(f"{self.name}_smallest", "uint32_t", words)]

    def structs(self) -> list[Struct]:
        """Return the pool's window."""
        return [
            Struct("window", f"{self.name}_window", {name: str(value) for name, value in self.window.fields().items()})
        ]

    def calls(self, at: Placed, scratch: str) -> list[str]:
        """Return its statement."""
        arguments = [f"&{self.name}_window", at(self.reads[0]), at(self.output)]
        if self._function == "max_pool_bits":
            arguments.insert(2, "0" if self._flipped is None else f"{self.name}_smallest")
        if self._function == "max_pool_int8":
            arguments[1:] = [f"(int8_t *)({argument})" for argument in arguments[1:]]
        return [f"{self._function}({', '.join(arguments)});"]
