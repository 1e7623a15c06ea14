"""C programs under sanitizers, by other compilers, and on other machines under qemu."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

import pytest
import torch
from c_export import (
    NETWORKS,
    SANITIZED,
    STRICT,
    check_exact,
    compiled,
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
    *((name, "int8") for name in ("mlp-1/32", "conv2-1/32", "conv2-1/1", "resnet-1/32", "silu-1/32", "mobile")),
]
FAST_KINDS = [("conv2-1/32", "float"), ("conv2-1/1", "float"), ("silu-1/32", "float"), ("mobile", "int8")]


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


def check_close(name: str, activations: str, found: torch.Tensor) -> None:
    """Assert that a program does what torch does in float64; a value at a threshold may fall on either side."""
    graph, inputs = network(name).require_graph(), batch(name)
    if activations == "float":
        wanted, tolerance = expected(graph, inputs), 1e-5
    else:
        wanted, tolerance = run_graph(graph, inputs, quanta(name, activations))[graph.output].double(), 2e-2
    apart = (found.double() - wanted).abs().amax(1) > tolerance * wanted.abs().max()
    assert int(apart.sum()) <= (2 if "/1" in name and "/32" not in name else 0)


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
