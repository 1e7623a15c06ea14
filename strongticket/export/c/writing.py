"""Writing a C program and making sure that it computes what the network computes."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ...errors import ConfigError, ExportError
from ..graph import Graph, Sign
from ..source import Source
from ..verify import Comparison, Run, check_batches, compare, reference_run, require_equal
from .compiler import compile_program, find_compiler, run_program
from .layers import BinaryLayer
from .lowering import lower
from .plan import Program
from .quanta import calibrated, run
from .runtime_text import main_program
from .text import sources_of

ACTIVATIONS = ("float", "binary", "int8")
"""What layers may read: real numbers beside ±1; the same, with some layer that reads ±1; 8 bits beside ±1."""

INT8_TOLERANCE = 2e-2
"""Largest difference of 8-bit arithmetic in C and in torch, as a share of the largest output.

Where a value lies between two of 8 bits, rounding decides, and one step of an activation is nearly 1 % of its range.
"""


@dataclass(frozen=True)
class Memory:
    """What a C program takes when it runs: bytes of its constant tables, and of the buffer that it is given."""

    table_bytes: int
    buffer_bytes: int


def write(source: Source, path: Path, *, with_main: bool = False, activations: str = "float") -> Comparison:
    """Write ``ticket.h`` and ``ticket.c`` into the folder ``path``, and ``main.c`` if asked; compare them with torch.

    Layers that read ±1 and have ternary weights work on bits, whatever ``activations`` says. Other layers read real
    numbers, or 8 bits with ``activations="int8"``, which is calibrated on the example; ``"binary"`` asks for at least
    one layer on bits. The program is compiled and run. It is compared with the network in torch, in float64 if
    there are binary activations, since sums of ± one gain are exact there. In 8 bits it must do what the same
    arithmetic does in torch, and what is returned is how far that lies from the network on the example alone.

    Raises ConfigError for unknown activations, and ExportError for a network that no graph expresses, for activations
    that do not go with it, if there is no compiler, or if the outputs differ. No file is left then.
    """
    if activations not in ACTIVATIONS:
        raise ConfigError(f"activations is {activations!r}; choose one of {', '.join(ACTIVATIONS)}")
    graph = source.require_graph()
    quanta = calibrated(graph, source.example) if activations == "int8" else {}
    program = lower(graph, quanta=quanta)
    if activations == "binary" and not any(isinstance(step, BinaryLayer) for step in program.steps):
        raise ExportError(
            "activations 'binary' were asked for, but no layer of this network reads ±1 with binary weights; search "
            "with binary weights and activations, or use activations 'float'"
        )
    sources = sources_of(program, weights_digest=source.ticket.weights_digest)
    files = {"ticket.h": sources.header, "ticket.c": sources.source, "main.c": main_program()}
    command = find_compiler()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_files(folder, files)
        compile_program([folder / "ticket.c", folder / "main.c"], folder / "ticket", command)
        comparison = _verified(source, graph, quanta, partial(_run, folder / "ticket", program))
    if not with_main:
        del files["main.c"]
    path.mkdir(exist_ok=True)
    _write_files(path, files)
    return comparison


def table_bytes(graph: Graph, *, activations: str = "float", example: Tensor | None = None) -> int:
    """Return how many bytes the constant tables of the program of a graph take; raises as ``write`` does."""
    return lower(graph, quanta=calibrated(graph, example) if activations == "int8" else {}).table_bytes


def read_memory(path: Path) -> Memory:
    """Return the memory that ``ticket.h`` in the folder ``path`` states."""
    found = dict(re.findall(r"^#define TICKET_(\w+) (\d+)$", (path / "ticket.h").read_text("utf-8"), re.MULTILINE))
    return Memory(int(found["TABLE_BYTES"]), int(found["BUFFER_BYTES"]))


def _verified(source: Source, graph: Graph, quanta: Mapping[str, float], found: Run) -> Comparison:
    """Return how a program compares with the network; ExportError if it does not compute the same."""
    example = source.example
    if example is None:
        example = torch.randn(2, *graph.input_shape, generator=torch.Generator().manual_seed(1))
    binary = any(isinstance(node.operation, Sign) for node in graph.nodes)
    reference = reference_run(source.reference, binary_activations=binary)
    batches = check_batches(example.float())
    if not quanta:
        comparison = compare(reference, found, batches)
        require_equal(comparison, binary_activations=binary)
        return comparison

    def in_8_bits(batch: Tensor) -> list[Tensor]:
        return [run(graph, batch, quanta)[graph.output]]

    require_equal(compare(in_8_bits, found, batches), tolerance=INT8_TOLERANCE, binary_activations=binary)
    return compare(reference, found, [example.float()])


def _run(program: Path, plan: Program, batch: Tensor) -> list[Tensor]:
    return [run_program(program, batch, plan.outputs).reshape(len(batch), *plan.output_shape)]


def _write_files(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (folder / name).write_text(text, "utf-8", newline="\n")
