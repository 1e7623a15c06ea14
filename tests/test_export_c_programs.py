"""C programs, compiled and run on this machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
from c_export import (
    SANITIZED,
    STRICT,
    GraphBuilder,
    check_exact,
    check_graph,
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
from strongticket.export.graph import Add, Convolution, Flatten, Graph, Linear, MaxPool, Normalisation, Sign, Silu


@needed("gcc")
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), coded=st.sampled_from([None, True, False]))
def test_a_program_computes_what_torch_computes_bit_for_bit(seed: int, coded: bool | None) -> None:
    check_exact(seed, "gcc", *STRICT, "-O0", coded=coded)


@needed("gcc")
@pytest.mark.parametrize("reads", ["signs", "real", "input"])
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
        ((5, 7), (2, 3), (0, 0), (1, 1)),
        ((7, 9), (1, 1), (1, 1), (1, 1)),
    ],
)
def test_a_kernel_reads_what_it_does_in_torch(
    reads: str,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> None:
    generator = torch.Generator().manual_seed(1)
    builder = GraphBuilder((40, 5, 7))
    value = Graph.INPUT
    if reads != "input":
        value = builder.add(Sign(), value) if reads == "signs" else builder.add(Add(), value, value)
    weight = torch.randint(-1, 2, (35, 40, *kernel), generator=generator) / 2
    convolution = Convolution(weight, torch.arange(35) / 4, stride, padding, dilation)
    real, signs = builder.add(convolution, value), builder.add(Sign(), builder.add(convolution, value))
    value = builder.add(Add(), real, signs)
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


def test_the_c_source_needs_two_headers_and_allocates_nothing() -> None:
    folder = Path(__file__).parents[1] / "strongticket" / "export" / "c"
    text = "".join(file.read_text("utf-8") for file in folder.glob("*.c") if file.name != "main.c")
    assert "#include" not in text  # the writer adds ticket.h and string.h
    assert all(word not in text for word in ("malloc", "alloca", "printf", "double", "goto"))


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


def test_an_exact_graph_is_exact() -> None:
    """The reference of these tests needs no more than 24 bits, which is what float32 has."""
    for seed in range(30):
        graph: Graph = exact_graph(seed)
        output = expected(graph, exact_batch(graph, seed))
        assert torch.equal(output, output.float().double())


@needed("gcc")
@pytest.mark.parametrize("optimised", ["-O0", "-O3"])
def test_silu_has_the_digits_of_a_float_wherever_it_is_computed(optimised: str, tmp_path: Path) -> None:
    builder = GraphBuilder((1,))
    graph = builder.graph(builder.add(Silu(), Graph.INPUT))
    write_program(graph, tmp_path)
    fine, coarse = torch.linspace(-20, 20, 4001), 10.0 ** torch.linspace(-38, 38, 153)
    edges = torch.tensor([0.0, -0.0, -86.9999, -87.0, -87.0001, 87.0, 88.0, -88.0, -1e30, float("inf")])
    inputs = torch.cat([fine, coarse, -coarse, edges])[:, None]
    found = run(compiled(tmp_path, "gcc", *STRICT, optimised), inputs).double()
    # Below -87 the power is no normal number and counts as 0: -87 e^-87 is -1.4e-36.
    torch.testing.assert_close(found, expected(graph, inputs), rtol=4e-7, atol=2e-36)
    assert run(tmp_path / "program", torch.tensor([[float("nan")]])).isnan().all()


@needed("gcc")
def test_silu_stands_between_layers_of_8_bits(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    builder = GraphBuilder((3, 6, 6))
    first, last = (torch.randint(-1, 2, shape, generator=generator) / 2 for shape in ((8, 3, 3, 3), (5, 8, 4, 4)))
    value = builder.add(Silu(), builder.add(Convolution(first), Graph.INPUT))
    graph = builder.graph(builder.add(Convolution(last), value))
    batch = torch.randn(4, 3, 6, 6, generator=generator)
    quanta = calibrated(graph, batch)
    write_program(graph, tmp_path, quanta=quanta)
    found = run(compiled(tmp_path, "gcc", *SANITIZED if sanitizers_link("gcc") else STRICT), batch)
    wanted = run_graph(graph, batch, quanta)[graph.output].flatten(1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=float(wanted.abs().max()) * 5e-3)
