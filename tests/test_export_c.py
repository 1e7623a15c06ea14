"""A ticket as a C program."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from c_export import BINARY, DIGEST, NETWORKS, GraphBuilder, compiled, needed, run, ticketed
from torch import nn

from strongticket.errors import ConfigError, ExportError
from strongticket.export import c
from strongticket.export.c import compiler as compiling
from strongticket.export.c import text, writing
from strongticket.export.c.lowering import lower
from strongticket.export.c.plan import Program
from strongticket.export.graph import Graph, Linear, Relu, Sign
from strongticket.export.source import Source
from strongticket.models import build

pytestmark = needed("gcc")


@pytest.fixture(scope="module")
def digits() -> Source:
    """A network for the digits in which weights are binary, and activations real."""
    return NETWORKS["conv2-1/32"]()


@pytest.fixture(scope="module")
def binary() -> Source:
    """One in which both are binary."""
    return NETWORKS["mlp-1/1"]()


def test_a_header_and_a_source_are_written_and_found_right(digits: Source, tmp_path: Path) -> None:
    comparison = c.write(digits, tmp_path / "net")
    assert sorted(file.name for file in (tmp_path / "net").iterdir()) == ["ticket.c", "ticket.h"]
    assert comparison.inputs == 16 + 1 + 8 + 1
    assert comparison.max_relative < 1e-5
    assert comparison.equal_decisions == 1


def test_a_main_program_comes_along_if_asked(binary: Source, tmp_path: Path) -> None:
    c.write(binary, tmp_path, with_main=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["main.c", "ticket.c", "ticket.h"]
    example = binary.require_example("c")
    found = run(compiled(tmp_path, "gcc", "-std=c99"), example)
    assert torch.equal(found.argmax(1), binary.reference(example).argmax(1))


def test_the_header_says_what_a_caller_has_to_know(digits: Source, tmp_path: Path) -> None:
    c.write(digits, tmp_path)
    header = (tmp_path / "ticket.h").read_text()
    words = re.sub(r"\s*\n \* ", " ", header)
    assert digits.ticket.weights_digest in words
    assert "Input: 1x8x8 floats (channels, rows, columns)" in words
    assert "is not part of this" in words
    memory = c.read_memory(tmp_path)
    assert f"Constant tables: {memory.table_bytes} bytes" in words
    assert f"Buffer: {memory.buffer_bytes} bytes" in words
    assert "#define TICKET_INPUTS 64\n#define TICKET_OUTPUTS 10\n" in header
    assert f"#define TICKET_BUFFER_WORDS {memory.buffer_bytes // 4}\n" in header


def test_table_bytes_are_those_of_the_arrays_in_the_source(digits: Source, tmp_path: Path) -> None:
    c.write(digits, tmp_path)
    source = (tmp_path / "ticket.c").read_text()
    width = {"uint8_t": 1, "int16_t": 2, "uint32_t": 4, "float": 4}
    arrays = re.findall(r"^static const (\w+) \w+\[(\d+)\] = \{$", source, re.MULTILINE)
    total = sum(width[kind] * int(count) for kind, count in arrays)
    assert total == c.read_memory(tmp_path).table_bytes == c.table_bytes(digits.require_graph())


def test_eight_bits_take_less_of_the_buffer_and_are_compared_on_the_example(digits: Source, tmp_path: Path) -> None:
    c.write(digits, tmp_path / "float")
    comparison = c.write(digits, tmp_path / "int8", activations="int8")
    assert comparison.inputs == 8
    assert 1e-4 < comparison.max_relative < 0.05
    assert comparison.equal_decisions >= 7 / 8
    assert 3 * c.read_memory(tmp_path / "int8").buffer_bytes < c.read_memory(tmp_path / "float").buffer_bytes
    assert ".inverse_quantum" not in (tmp_path / "float" / "ticket.c").read_text()


def test_bit_planes_can_be_insisted_on(binary: Source, digits: Source, tmp_path: Path) -> None:
    c.write(binary, tmp_path, activations="binary")
    with pytest.raises(ExportError, match="no layer of this network reads ±1 with binary weights; search"):
        c.write(digits, tmp_path / "none", activations="binary")
    assert not (tmp_path / "none").exists()


def test_activations_that_are_not_known_are_refused(digits: Source, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="activations is 'int4'; choose one of float, binary, int8"):
        c.write(digits, tmp_path, activations="int4")


def test_eight_bits_need_an_example_and_binary_weights(digits: Source, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="pass example=batch"):
        c.write(replace(digits, example=None), tmp_path, activations="int8")
    with pytest.raises(ExportError, match="those of conv1 have more than one magnitude"):
        c.write(NETWORKS["conv2-float"](), tmp_path, activations="int8")
    assert list(tmp_path.iterdir()) == []


def test_without_an_example_random_inputs_are_checked(digits: Source, tmp_path: Path) -> None:
    assert c.write(replace(digits, example=None), tmp_path).inputs == 16 + 1 + 2 + 1


def test_sums_of_nothing_at_the_threshold_do_not_count_as_differences(tmp_path: Path) -> None:
    """Without a norm a sum is often 0; in float32 torch gives it the sign of a rounding error."""
    network = build("mlp", input_shape=(1, 8, 8), classes=10, width=0.2, activation="binary", norm="none")
    source = ticketed(network, (1, 8, 8), **BINARY)
    assert c.write(source, tmp_path).beyond == 0


def test_a_network_that_no_graph_expresses_is_refused_with_the_reason(digits: Source, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="gelu1 is a GELU"):
        c.write(replace(digits, graph=None, reason="gelu1 is a GELU"), tmp_path)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("no_compiler")
def test_a_missing_compiler_is_one_line_that_says_what_to_do(digits: Source, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"^no C compiler was found.*install gcc or clang.*CC$"):
        c.write(digits, tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_a_compiler_that_is_named_and_missing_is_said_so(
    digits: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "tcc-of-nowhere -O1")
    with pytest.raises(ExportError, match="CC names the C compiler 'tcc-of-nowhere', which is not installed"):
        c.write(digits, tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_a_compiler_command_that_cannot_be_read_is_said_so(
    digits: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", 'gcc "-O1')
    with pytest.raises(ExportError, match=r"which is no command \(No closing quotation\); set it to a C compiler"):
        c.write(digits, tmp_path / "net")


def compiler(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let CC be a shell script."""
    file = folder / "compiler"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    monkeypatch.setenv("CC", os.fspath(file))


def test_the_compiler_that_cc_names_is_used_with_its_options(
    binary: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler(tmp_path, monkeypatch, f'echo "$@" >> {tmp_path}/calls; shift; exec gcc "$@"')
    monkeypatch.setenv("CC", os.environ["CC"] + " -first")
    c.write(binary, tmp_path / "net")
    assert (tmp_path / "calls").read_text().startswith("-first -std=c99")


def test_what_a_compiler_complains_about_is_said(
    digits: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler(tmp_path, monkeypatch, "echo 'ticket.c:1: error: no room' >&2; echo 'error: more' >&2; exit 1")
    with pytest.raises(ExportError, match=r"cannot compile the exported program \(ticket.c:1: error: no room\)$"):
        c.write(digits, tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_a_compiler_that_does_not_end_is_stopped(
    digits: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler(tmp_path, monkeypatch, "exec sleep 600")
    monkeypatch.setattr(compiling, "TIME_LIMIT", 0.2)
    with pytest.raises(ExportError, match=r"/compiler did not end within 0\.2 seconds and was stopped$"):
        c.write(digits, tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_a_program_that_does_not_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a time of its own for each of the two examples, which it does not even read."""
    program = tmp_path / "ticket"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setattr(compiling, "TIME_LIMIT", 0.25)
    monkeypatch.setattr(compiling, "TIME_LIMIT_AN_EXAMPLE", 0.125)
    with pytest.raises(ExportError, match=r"^the exported program did not end within 0\.5 seconds and was stopped$"):
        compiling.run_program(program, torch.zeros(2, 100_000), 10)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("cat > /dev/null; exit 3", "fails with status 3"),
        ("cat > /dev/null; echo why >&2; exit 1", r"fails with status 1 \(why\)"),
        ("cat > /dev/null; echo 1 2 3", "printed 1 lines for 16 examples"),
        ("cat > /dev/null; for i in $(seq 26); do echo 1 2; done", "for 16 examples"),
        ("cat > /dev/null; for i in $(seq 16); do echo x; done", "printed what are no 10 numbers a line"),
        ("cat > /dev/null; for i in $(seq 16); do echo 1 2 3; done", "printed what are no 10 numbers a line"),
    ],
)
def test_a_program_that_does_not_run_leaves_no_files(
    digits: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, reason: str
) -> None:
    body = f"#!/bin/sh\\n{program}\\n".replace("$", r"\$")
    compiler(
        tmp_path, monkeypatch, f'for a; do [ "$b" = -o ] && out=$a; b=$a; done; printf "{body}" > $out; chmod +x $out'
    )
    with pytest.raises(ExportError, match=reason):
        c.write(digits, tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_a_program_that_computes_something_else_leaves_no_files(
    digits: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(graph: Graph, **options: object) -> Program:
        nodes = [
            replace(node, operation=replace(node.operation, weight=-node.operation.weight))
            if isinstance(node.operation, Linear)
            else node
            for node in graph.nodes
        ]
        return lower(replace(graph, nodes=tuple(nodes)), **options)  # type: ignore[arg-type]

    monkeypatch.setattr(writing, "lower", spoiled)
    for activations in ("float", "int8"):
        with pytest.raises(ExportError, match="does not compute what the network computes"):
            c.write(digits, tmp_path / "net", activations=activations)
    assert not (tmp_path / "net").exists()


def test_a_network_too_large_for_its_indices_is_refused() -> None:
    builder = GraphBuilder((2**16, 2**9, 2**5))
    program = lower(builder.graph(builder.add(Relu(), Graph.INPUT)))
    with pytest.raises(ExportError, match="needs a buffer of 4294967296 bytes"):
        text.sources_of(program, weights_digest=DIGEST)


def test_names_of_layers_cannot_get_out_of_a_comment_or_a_name(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("*/ int x; /*", "window", "for", "größe"):
                self.add_module(name, nn.Linear(4, 4))

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            for layer in self.children():
                values = layer(values)
            return values

    assert c.write(ticketed(Odd(), (4,), binary="weights", density=0.9), tmp_path).max_relative < 1e-5


def test_a_network_without_weights_is_a_program_too(tmp_path: Path) -> None:
    builder = GraphBuilder((3,))
    program = lower(builder.graph(builder.add(Sign(), Graph.INPUT)))
    sources = text.sources_of(program, weights_digest=DIGEST)
    (tmp_path / "ticket.h").write_text(sources.header)
    (tmp_path / "ticket.c").write_text(sources.source)
    (tmp_path / "main.c").write_text((Path(c.__file__).parent / "main.c").read_text())
    found = run(compiled(tmp_path, "gcc", "-std=c99", "-Wall", "-Werror"), torch.tensor([[0.0, -0.5, 2.0]]))
    assert found.tolist() == [[1.0, -1.0, 1.0]]
