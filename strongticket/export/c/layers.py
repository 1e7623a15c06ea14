"""Steps with weights: layers that read ±1, and layers that read real numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .coding import EdgeCode, bit_planes, blocks_of, edge_code
from .plan import Placed, Step, Struct, Window, initialiser
from .tables import Array, Table, float_literal, smallest_type

LANES = 32
"""Outputs of a binary layer that are worked on together."""

_LANES_OF_ONE_PIXEL = 8  # where planes are made for one pixel only, fewer of them take less of the buffer
_TILE = 64  # the most sums that the C source adds up together


@dataclass(frozen=True)
class Affine:
    """What follows a sum: sum · scale + shift, float32 (outputs) each, and then the larger of it and 0 if ``relu``."""

    scale: Array
    shift: Array
    relu: bool = False

    def tables(self, name: str) -> list[Table]:
        """Return scale and shift as tables, of one number where all are equal."""
        return [Table(f"{name}_scale", "float", _once(self.scale)), Table(f"{name}_shift", "float", _once(self.shift))]

    def members(self, name: str) -> dict[str, str]:
        """Return the members of a layer's C struct."""
        return {
            "scale": f"{name}_scale",
            "shift": f"{name}_shift",
            "scale_step": str(int(len(_once(self.scale)) > 1)),
            "shift_step": str(int(len(_once(self.shift)) > 1)),
            "relu": str(int(self.relu)),
        }


def _once(values: Array) -> Array:
    """Return one of some values if all are the same, bit for bit; else all of them."""
    bits = values.view(np.uint32)
    return values[:1] if (bits == bits[0]).all() else values


@dataclass
class BinaryLayer(Step):
    """A layer that reads ±1 and has ternary weights, as bit planes; see ``binary_layer`` in the C source.

    ``signs`` (outputs, taps, channels of a group) is int8 in {−1, 0, +1}. ``after`` says what the outputs are:
    thresholds, int64 (outputs), from which on an output is +1; or an affine that makes it real. With ``coded`` the
    table lists kept edges, from which the program makes the planes.
    """

    name: str
    window: Window
    signs: Array
    after: Array | Affine
    coded: bool = False

    @property
    def sections(self) -> tuple[str, ...]:
        """The sections of the C source that it needs."""
        return ("edges", "binary_sums", "binary")

    @property
    def dense(self) -> bool:
        """Whether every edge is kept and the masks are left out."""
        return self._dense and not self.coded

    @cached_property
    def _dense(self) -> bool:
        return self.window.groups == 1 and bool((self.signs != 0).all())

    @property
    def lanes(self) -> int:
        """How many outputs stand in a block."""
        return _LANES_OF_ONE_PIXEL if self.coded and self.window.output[1:] == (1, 1) else LANES

    @property
    def plane_bytes(self) -> int:
        """How many bytes the planes take."""
        blocks = blocks_of(self.window.output[0], self.window.groups, self.signs.shape[2], LANES)
        words = sum(block.outputs * block.words for block in blocks) * self.window.taps
        return words * (4 if self._dense else 8)

    @cached_property
    def _planes(self) -> Array:
        return bit_planes(self.signs, self.window.groups, LANES, dense=self._dense)

    @cached_property
    def code(self) -> EdgeCode:
        """The kept edges as a list."""
        return edge_code(self.signs, signed=True)

    @property
    def scratch(self) -> int:
        """Words for the padded image, the taps' sums and places, and the planes of a block that is coded."""
        frame = 0
        if self.window.padding != (0, 0):
            rows, columns = self.window.reach
            frame = rows * columns * -(-self.window.image[0] // 32)
        blocks = blocks_of(self.window.output[0], self.window.groups, self.signs.shape[2], self.lanes)
        most = max(block.words + (2 * block.words * block.outputs if self.coded else 0) for block in blocks)
        return frame + self.window.taps * (self.lanes + most)

    def tables(self) -> list[Table]:
        """Return its constant arrays."""
        if self.coded:
            tables = [Table(f"{self.name}_edges", "uint8_t", self.code.bytes)]
        else:
            tables = [Table(f"{self.name}_planes", "uint32_t", self._planes)]
        if isinstance(self.after, Affine):
            return tables + self.after.tables(self.name)
        return [*tables, Table(f"{self.name}_thresholds", smallest_type([self.after]), self.after)]

    def structs(self) -> list[Struct]:
        """Return the layer's struct."""
        members = {"window": initialiser(self.window), "lanes": str(self.lanes), "dense": str(int(self.dense))}
        if self.coded:
            members |= {"edges": f"{self.name}_edges", "gap_bits": str(self.code.gap_bits)}
        else:
            members |= {"planes": f"{self.name}_planes"}
        if isinstance(self.after, Affine):
            members |= self.after.members(self.name)
        else:
            wide = smallest_type([self.after]) == "int32_t"
            members |= {"wide_thresholds" if wide else "thresholds": f"{self.name}_thresholds"}
        return [Struct("binary_layer", f"{self.name}_layer", members)]

    def calls(self, at: Placed, scratch: str) -> list[str]:
        """Return its statement."""
        return [f"binary(&{self.name}_layer, {at(self.reads[0])}, {at(self.output)}, {scratch});"]


@dataclass
class RealLayer(Step):
    """A layer that reads real numbers, as additions over kept edges; see ``real_layer`` in the C source.

    ``weights`` (outputs, taps, channels of a group) are signs (int8 in {−1, 0, +1}) or float32. ``after`` says what
    the outputs are: thresholds (outputs) from which on an output is +1, float32, or int32 with ``quantum``; or an
    affine that makes it real, or 8-bit if the output is. ``quantum`` is that of the input, in 8-bit arithmetic.
    """

    name: str
    window: Window
    weights: Array
    after: Array | Affine
    quantum: float | None = None

    @property
    def sections(self) -> tuple[str, ...]:
        """The sections of the C source that it needs."""
        arithmetic = "float" if self.quantum is None else "int8"
        weighted = ("weighted",) if self._weighted else ()
        filling = (f"fill_frame_{arithmetic}_{self.reads[0].kind}",) if self.framed else ()
        return (f"real_{arithmetic}", "edges", "real_layer", *filling, "sums", *weighted, "real")

    @property
    def _weighted(self) -> bool:
        return bool(self.weights.dtype != np.int8)

    @property
    def _single(self) -> bool:
        return self.window.output[1:] == (1, 1)

    @property
    def framed(self) -> bool:
        """Whether the input is copied into a frame; an output of one pixel can do without if it is held as needed."""
        held = "real" if self.quantum is None else "int8"
        return not (self._single and self.window.padding == (0, 0) and self.reads[0].kind == held)

    @property
    def _step(self) -> tuple[int, int]:
        """Rows and columns between neighbouring outputs; no matter where there is one output only."""
        _, height, width = self.window.output
        return (self.window.stride[0] if height > 1 else 1, self.window.stride[1] if width > 1 else 1)

    @property
    def _frame(self) -> tuple[int, int, int]:
        """Rows and columns of an image of the frame, and values of the whole frame."""
        channels, height, width = self.window.image
        if not self.framed:
            return height, width, channels * height * width
        rows, row = (-(-size // step) for size, step in zip(self.window.reach, self._step, strict=True))
        beyond = 0 if self._single else -self._positions(row) % _TILE
        return rows, row, channels * self._step[0] * self._step[1] * rows * row + beyond

    def _positions(self, row: int) -> int:
        """Return from the first output to the last how many places of a frame's image there are."""
        return (self.window.output[1] - 1) * row + self.window.output[2]

    @cached_property
    def _edges(self) -> EdgeCode:
        return edge_code(self.weights, signed=not self._weighted)

    @property
    def _most_edges(self) -> int:
        return int((self.weights != 0).reshape(len(self.weights), -1).sum(1).max())

    @property
    def _frame_words(self) -> int:
        values = self._frame[2] if self.framed else 0
        return values if self.quantum is None else -(-values // 4)

    @property
    def scratch(self) -> int:
        """Words for the frame, the taps' places, a list of edges, the sums of one output, and a word of each pixel."""
        sums = 1 if self._single else -(-self._positions(self._frame[1]) // _TILE) * _TILE
        plane = 0 if isinstance(self.after, Affine) else self.window.output[1] * self.window.output[2]
        return self._frame_words + self.window.taps + self._most_edges + sums + plane

    def tables(self) -> list[Table]:
        """Return its constant arrays."""
        tables = [Table(f"{self.name}_edges", "uint8_t", self._edges.bytes)]
        if self._weighted:
            flat = self.weights.ravel()
            tables.append(Table(f"{self.name}_values", "float", flat[flat != 0]))
        if isinstance(self.after, Affine):
            return tables + self.after.tables(self.name)
        return [*tables, Table(f"{self.name}_limits", "float" if self.quantum is None else "int32_t", self.after)]

    def structs(self) -> list[Struct]:
        """Return the layer's struct."""
        rows, row, values = self._frame
        members = {
            "window": initialiser(self.window),
            "step_y": str(self._step[0]),
            "step_x": str(self._step[1]),
            "rows": str(rows),
            "row": str(row),
            "frame_values": str(values),
            "edges_max": str(self._most_edges),
            "edges": f"{self.name}_edges",
            "gap_bits": str(self._edges.gap_bits),
        }
        if self._weighted:
            members["values"] = f"{self.name}_values"
        if self.quantum is not None:
            members["inverse_quantum"] = float_literal(float(np.float32(1 / self.quantum)))
        if isinstance(self.after, Affine):
            members |= self.after.members(self.name)
        else:
            members["limits"] = f"{self.name}_limits"
        if self.output.kind == "int8":
            members["to_int8"] = "1"
        return [Struct("real_layer", f"{self.name}_layer", members)]

    def calls(self, at: Placed, scratch: str) -> list[str]:
        """Return its statements: the frame is filled, and read."""
        eight, layer = self.quantum is not None, f"&{self.name}_layer"
        rest = f"{scratch} + {self._frame_words}" if self._frame_words else scratch
        image = _bytes(at(self.reads[0])) if self.reads[0].kind == "int8" else at(self.reads[0])
        frame = image
        if self.framed:
            frame = _bytes(scratch) if eight else scratch
        read = f"real_outputs({layer}, {frame}, {at(self.output)}, {rest});"
        return [f"fill_frame_from_{self.reads[0].kind}({layer}, {image}, {frame});", read] if self.framed else [read]


def _bytes(pointer: str) -> str:
    return f"(int8_t *)({pointer})"
