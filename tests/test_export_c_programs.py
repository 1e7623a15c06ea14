"""C programs, compiled and run: on this machine, under sanitizers, and on other machines under qemu."""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch
from c_export import (
    NETWORKS,
    SANITIZED,
    STRICT,
    GraphBuilder,
    compiled,
    exact_batch,
    exact_graph,
    expected,
    needed,
    run,
    sanitizers_link,
    write_program,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from strongticket.export.c.quanta import calibrated
from strongticket.export.c.quanta import run as run_graph
from strongticket.export.graph import Convolution, Flatten, Graph, Linear, MaxPool, Normalisation, Sign
from strongticket.export.source import Source

MACHINES = {
    "arm": ("arm-linux-gnueabihf-gcc", "qemu-arm"),
    "powerpc (big-endian)": ("powerpc-linux-gnu-gcc", "qemu-ppc"),
    "s390x (big-endian)": ("s390x-linux-gnu-gcc", "qemu-s390x"),
}
FEW = ["conv2-1/32", "conv2-1/1", "mobile"]
MANY = [pytest.param(name, marks=[] if name in FEW else [pytest.mark.slow]) for name in NETWORKS]
KINDS = [
    *((name, "float") for name in NETWORKS),
    *((name, "int8") for name in ("mlp-1/32", "conv2-1/32", "conv2-1/1", "resnet-1/32", "mobile")),
]
FAST_KINDS = [("conv2-1/32", "float"), ("conv2-1/1", "float"), ("mobile", "int8")]


@functools.cache
def network(name: str) -> Source:
    return NETWORKS[name]()


@functools.cache
def quanta(name: str, activations: str) -> dict[str, float]:
    source = network(name)
    return calibrated(source.require_graph(), source.example) if activations == "int8" else {}


def batch(name: str) -> torch.Tensor:
    example = network(name).require_example("c")
    return torch.cat([example, torch.randn(4, *example.shape[1:], generator=torch.Generator().manual_seed(2))])


def check_exact(seed: int, *command: str, coded: bool | None = None, runner: tuple[str, ...] = ()) -> None:
    check_graph(exact_graph(seed), *command, coded=coded, runner=runner)


def check_graph(graph: Graph, *command: str, coded: bool | None = None, runner: tuple[str, ...] = ()) -> None:
    inputs = exact_batch(graph, 0)
    with tempfile.TemporaryDirectory() as name:
        write_program(graph, Path(name), coded=coded)
        found = run(compiled(Path(name), *command), inputs, *runner)
    torch.testing.assert_close(found.double(), expected(graph, inputs), rtol=0, atol=0)


def check_close(name: str, activations: str, found: torch.Tensor) -> None:
    """Assert that a program does what torch does in float64; a value at a threshold may fall on either side."""
    graph, inputs = network(name).require_graph(), batch(name)
    if activations == "float":
        wanted, tolerance = expected(graph, inputs), 1e-5
    else:
        wanted, tolerance = run_graph(graph, inputs, quanta(name, activations))[graph.output].double(), 2e-2
    apart = (found.double() - wanted).abs().amax(1) > tolerance * wanted.abs().max()
    assert int(apart.sum()) <= (2 if "/1" in name and "/32" not in name else 0)


@needed("gcc")
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), coded=st.sampled_from([None, True, False]))
def test_a_program_computes_what_torch_computes_bit_for_bit(seed: int, coded: bool | None) -> None:
    check_exact(seed, "gcc", *STRICT, "-O0", coded=coded)


@needed("gcc")
@pytest.mark.parametrize("reads", ["signs", "real"])
@pytest.mark.parametrize("gives", ["signs", "real"])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [
        ((3, 2), (1, 1), (0, 0), (1, 1)),
        ((2, 3), (1, 1), (1, 2), (1, 1)),
        ((3, 3), (2, 1), (2, 1), (1, 1)),
        ((3, 2), (1, 3), (1, 0), (2, 1)),
        ((2, 3), (3, 2), (0, 3), (1, 3)),
        ((1, 1), (2, 2), (0, 0), (1, 1)),
        ((2, 2), (2, 2), (0, 0), (1, 1)),  # the last row and column are read by nobody
        ((2, 2), (3, 3), (1, 1), (1, 1)),
        ((5, 7), (1, 1), (0, 0), (1, 1)),
    ],
)
def test_a_kernel_reads_what_it_does_in_torch(
    reads: str,
    gives: str,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> None:
    generator = torch.Generator().manual_seed(1)
    builder = GraphBuilder((40, 5, 7))
    value = builder.add(Sign(), Graph.INPUT) if reads == "signs" else Graph.INPUT
    weight = torch.randint(-1, 2, (35, 40, *kernel), generator=generator) / 2
    value = builder.add(Convolution(weight, torch.arange(35) / 4, stride, padding, dilation), value)
    value = builder.add(Sign(), value) if gives == "signs" else value
    check_graph(builder.graph(value), "gcc", *STRICT)


@needed("gcc")
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("real", [True, False])
def test_a_norm_that_turns_round_turns_the_pool_before_it_round(before: bool, real: bool) -> None:
    """max(x) under a negative gain is the smallest: a pool of signs must know."""
    generator = torch.Generator().manual_seed(1)
    builder = GraphBuilder((3, 6, 7))
    value = Graph.INPUT if real else builder.add(Sign(), Graph.INPUT)
    weight = torch.randint(-1, 2, (40, 3, 3, 3), generator=generator) / 2
    value = builder.add(Convolution(weight, padding=(1, 1)), value)
    gain = torch.randint(0, 2, (40,), generator=generator) * 2.0 - 1
    norm = Normalisation(torch.arange(40) / 8 - 2.5, torch.full((40,), 3.5), 0.5, gain, torch.zeros(40))
    pool = MaxPool((3, 2), (2, 2), (1, 1))
    for operation in (pool, norm) if before else (norm, pool):
        value = builder.add(operation, value)
    check_graph(builder.graph(builder.add(Sign(), value)), "gcc", *STRICT)


@needed("gcc")
def test_a_pool_of_8_bits_knows_negative_numbers(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    builder = GraphBuilder((3, 6, 6))
    first = torch.where(torch.rand(8, 3, 3, 3, generator=generator) < 0.5, 0.5, 0)
    value = builder.add(Convolution(first), Graph.INPUT)
    value = builder.add(MaxPool((2, 2), (2, 2)), value)
    last = torch.randint(-1, 2, (5, 8, 2, 2), generator=generator) / 2
    graph = builder.graph(builder.add(Convolution(last), value))
    batch = -torch.rand(4, 3, 6, 6, generator=generator)
    quanta = calibrated(graph, batch)
    program = write_program(graph, tmp_path, quanta=quanta)
    assert [step.output.kind for step in program.steps[:2]] == ["int8", "int8"]
    found = run(compiled(tmp_path, "gcc", *STRICT), batch)
    wanted = run_graph(graph, batch, quanta)[graph.output].flatten(1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=float(wanted.abs().max()) * 5e-3)


@needed("gcc")
@pytest.mark.parametrize("coded", [True, False])
@pytest.mark.parametrize(("groups", "outputs", "channels"), [(64, 128, 1), (2, 70, 48), (3, 99, 20), (1, 40, 70)])
def test_groups_read_the_words_of_their_own_channels(groups: int, outputs: int, channels: int, coded: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    builder = GraphBuilder((groups * channels, 3, 4))
    weight = torch.randint(-1, 2, (outputs, channels, 3, 3), generator=generator) / 2
    convolution = Convolution(weight, padding=(1, 1), groups=groups)
    value = builder.add(Sign(), builder.add(convolution, builder.add(Sign(), Graph.INPUT)))
    flat = builder.add(Flatten(), value)
    head = torch.randint(-1, 2, (40, outputs * 12), generator=generator).float()
    value = builder.add(Sign(), builder.add(Linear(head), flat))
    check_graph(builder.graph(value), "gcc", *STRICT, coded=coded)


@pytest.mark.slow
@needed("gcc")
@settings(max_examples=100)
@given(seed=st.integers(0, 2**32), coded=st.sampled_from([None, True, False]))
def test_a_program_is_clean_under_sanitizers(seed: int, coded: bool | None) -> None:
    if not sanitizers_link("gcc"):
        pytest.skip("gcc has no sanitizers here")
    check_exact(seed, "gcc", *SANITIZED, coded=coded)


@pytest.mark.slow
@needed("gcc")
@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), coded=st.sampled_from([None, True, False]))
def test_the_vector_code_of_this_machine_computes_the_same(seed: int, coded: bool | None) -> None:
    check_exact(seed, "gcc", *STRICT, "-O3", "-march=native", coded=coded)


@pytest.mark.slow
@pytest.mark.parametrize("machine", [pytest.param(name, marks=needed(*MACHINES[name])) for name in MACHINES])
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32), coded=st.sampled_from([None, True, False]))
def test_other_machines_compute_the_same(machine: str, seed: int, coded: bool | None) -> None:
    compiler, emulator = MACHINES[machine]
    check_exact(seed, compiler, *STRICT, "-O1", "-static", coded=coded, runner=(emulator,))


@pytest.mark.parametrize(
    ("name", "activations"),
    [pytest.param(*kind, marks=[] if kind in FAST_KINDS else [pytest.mark.slow]) for kind in KINDS],
)
@needed("gcc")
def test_networks_are_clean_and_right(name: str, activations: str, tmp_path: Path) -> None:
    """Without a warning, under sanitizers, and the same on every machine there is, bit for bit."""
    write_program(network(name).require_graph(), tmp_path, quanta=quanta(name, activations))
    inputs = batch(name)
    flags = SANITIZED if sanitizers_link("gcc") else STRICT
    found = run(compiled(tmp_path, "gcc", *flags), inputs)
    check_close(name, activations, found)
    fast = run(compiled(tmp_path, "gcc", *STRICT, "-O3", "-march=native"), inputs)
    assert torch.equal(fast, found)
    for compiler, emulator in MACHINES.values():
        if needed(compiler, emulator).args[0]:
            continue
        foreign = run(compiled(tmp_path, compiler, *STRICT, "-O2", "-static"), inputs, emulator)
        assert torch.equal(foreign, found)


@pytest.mark.parametrize("name", MANY)
@needed("clang")
def test_clang_has_nothing_to_complain_about(name: str, tmp_path: Path) -> None:
    write_program(network(name).require_graph(), tmp_path)
    check_close(name, "float", run(compiled(tmp_path, "clang", *STRICT, "-O1"), batch(name)))


@pytest.mark.parametrize("name", MANY)
@needed("arm-none-eabi-gcc", "arm-none-eabi-size")
def test_a_microcontroller_needs_the_tables_in_flash_and_no_memory_of_its_own(name: str, tmp_path: Path) -> None:
    program = write_program(network(name).require_graph(), tmp_path)
    compiler = ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard"]
    command = [*compiler, *STRICT, "-Os", "-c", str(tmp_path / "ticket.c"), "-o", str(tmp_path / "ticket.o")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    sizes = subprocess.check_output(["arm-none-eabi-size", str(tmp_path / "ticket.o")], text=True).splitlines()[1]
    text, data, zeroed = map(int, sizes.split()[:3])
    assert (data, zeroed) == (0, 0)  # constants are read where they lie; the buffer is the caller's
    assert program.table_bytes < text < program.table_bytes + 12_000


def test_the_c_source_needs_two_headers_and_allocates_nothing() -> None:
    folder = Path(__file__).parents[1] / "strongticket" / "export" / "c"
    text = "".join(file.read_text("utf-8") for file in folder.glob("*.c") if file.name != "main.c")
    assert "#include" not in text  # the writer adds ticket.h and string.h
    assert all(word not in text for word in ("malloc", "alloca", "printf", "double", "goto"))


@needed("gcc")
def test_functions_do_not_call_themselves(tmp_path: Path) -> None:
    write_program(network("conv2-1/1").require_graph(), tmp_path)
    command = ["gcc", "-std=c99", "-O0", "-fcallgraph-info", "-c", "ticket.c", "-o", "ticket.o"]
    subprocess.run(command, cwd=tmp_path, check=True)
    graph = next(tmp_path.glob("*.ci")).read_text()
    calls: dict[str, set[str]] = {}
    for line in graph.splitlines():
        if line.startswith("edge:"):
            caller, called = (part.split('"')[1] for part in line.split("targetname") if '"' in part)
            calls.setdefault(caller, set()).add(called)
    assert calls

    def reached(name: str, seen: frozenset[str]) -> None:
        assert name not in seen
        for called in calls.get(name, ()):
            reached(called, seen | {name})

    for name in calls:
        reached(name, frozenset())


@needed("gcc")
def test_a_program_reads_example_after_example(tmp_path: Path) -> None:
    graph = exact_graph(11)
    write_program(graph, tmp_path)
    program = compiled(tmp_path, "gcc", *STRICT)
    inputs = exact_batch(graph, 0, examples=5)
    assert torch.equal(run(program, inputs), torch.cat([run(program, one[None]) for one in inputs]))
    assert subprocess.run([program], input=b"", capture_output=True).stdout == b""


@needed("gcc")
def test_a_truncated_example_is_an_error_behind_the_whole_ones(tmp_path: Path) -> None:
    graph = exact_graph(11)
    write_program(graph, tmp_path)
    program = compiled(tmp_path, "gcc", *STRICT)
    given_bytes = exact_batch(graph, 0, examples=2).flatten(1).numpy().astype("<f4").tobytes()
    done = subprocess.run([program], input=given_bytes[:-1], capture_output=True)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1
    size = len(given_bytes) // 2
    assert done.stderr.decode() == f"error: the last example ends after {size - 1} of {size} bytes\n"


@needed("gcc")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_output_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    graph = exact_graph(11)
    write_program(graph, tmp_path)
    program = compiled(tmp_path, "gcc", *STRICT)
    with Path("/dev/full").open("wb") as full:
        given_bytes = exact_batch(graph, 0).flatten(1).numpy().astype("<f4").tobytes()
        done = subprocess.run([program], input=given_bytes, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert b"error:" in done.stderr


@needed("gcc", "g++")
def test_the_header_can_be_used_from_c_plus_plus(tmp_path: Path) -> None:
    write_program(exact_graph(11), tmp_path)
    user = """#include "ticket.h"
    static float input[TICKET_INPUTS], output[TICKET_OUTPUTS];
    static uint32_t buffer[TICKET_BUFFER_WORDS];
    int main() { ticket_predict(input, output, buffer); }
    """
    (tmp_path / "user.cc").write_text(user)
    subprocess.run(["gcc", "-c", "ticket.c", "-o", "ticket.o"], cwd=tmp_path, check=True)
    subprocess.run(["g++", "-Wall", "-Werror", "user.cc", "ticket.o", "-o", "user"], cwd=tmp_path, check=True)
    assert subprocess.run([os.fspath(tmp_path / "user")], check=False).returncode == 0


def test_an_exact_graph_is_exact() -> None:
    """The reference of these tests needs no more than 24 bits, which is what float32 has."""
    for seed in range(30):
        graph: Graph = exact_graph(seed)
        output = expected(graph, exact_batch(graph, seed))
        assert torch.equal(output, output.float().double())
