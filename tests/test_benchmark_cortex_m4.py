"""The benchmark on a Cortex-M4: what it measures of programs whose stack, instructions and sections are known."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from c_export import NETWORKS, exact_batch, exact_graph, expected, write_program

from strongticket.cli import main
from strongticket.errors import ExportError

FOLDER = Path(__file__).parents[1] / "benchmarks"
HEADER = """#include <stdint.h>
#define TICKET_INPUTS 2
#define TICKET_OUTPUTS 1
#define TICKET_BUFFER_WORDS 5
void ticket_predict(const float *input, float *output, uint32_t *buffer);
"""
# 1000 bytes of stack, 2 instructions 100,000 times, 10 words of tables, 3 words that are set, and 7 that are not.
KNOWN = """#include "ticket.h"
const uint32_t table[10] = {1, 2, 3};
uint32_t set[3] = {4, 5, 6};
uint32_t zeroed[7];
void ticket_predict(const float *input, float *output, uint32_t *buffer)
{
    volatile uint32_t stack[250];
    uint32_t turns = 100000;
    __asm__ volatile("1: subs %0, %0, #1\\n\\tbne 1b" : "+r"(turns) : : "cc");
    stack[0] = table[1];
    for (int i = 0; i < 5; i++) buffer[i] = 0xffffffffu;
    output[0] = input[0] * input[1] + (float)(stack[0] + set[2] + zeroed[3]);
}
"""


@pytest.fixture(scope="module")
def benchmark_module() -> ModuleType:
    """Return the benchmark as a module."""
    spec = importlib.util.spec_from_file_location("cortex_m4", FOLDER / "cortex_m4.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cortex_m4"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cortex_m4(benchmark_module: ModuleType) -> ModuleType:
    """Return it where its tools are installed."""
    if missing := benchmark_module.missing_tools():
        pytest.skip(f"{', '.join(missing)} not installed")
    return benchmark_module


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """Return a folder with a program whose figures are known."""
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / "ticket.h").write_text(HEADER)
    (folder / "ticket.c").write_text(KNOWN)
    return folder


def test_stack_sections_and_instructions_are_those_of_the_program(
    cortex_m4: ModuleType, exported: Path, tmp_path: Path
) -> None:
    inputs = torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.5, -8.0]])
    outputs, measured = cortex_m4.run_image(exported, tmp_path, inputs)
    assert outputs.tolist() == [[10.0], [20.0], [4.0]]
    assert 1000 <= measured.network_stack < 1000 + 64
    assert measured.network_static_ram == 4 * (3 + 7 + 5)
    assert 4 * (10 + 3) < measured.network_flash < 4 * (10 + 3) + 150
    assert measured.network_flash + 64 < measured.image_flash < measured.network_flash + 3000
    assert measured.image_static_ram > measured.network_static_ram + 4 * (2 + 1)
    assert measured.network_stack < measured.image_stack < measured.network_stack + 400
    assert 200_000 <= measured.instructions < 200_200


def test_more_instructions_than_the_timer_counts_are_not_counted(
    cortex_m4: ModuleType, exported: Path, tmp_path: Path
) -> None:
    most = 2**24 * cortex_m4.INSTRUCTIONS_A_TICK
    (exported / "ticket.c").write_text(KNOWN.replace("100000", str(most // 2 + 5000)))
    assert cortex_m4.run_image(exported, tmp_path, torch.ones(1, 2))[1].instructions is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("*(volatile uint32_t *)0xf0000000u = 1;", "the processor faulted"),
        ('__asm__ volatile(".hword 0xde00");', "the processor faulted"),
        (
            "volatile uint32_t deep[16384]; int at = 0; while (at < 16384) deep[at++] = 1; at = (int)deep[9];\n",
            "the stack is full",
        ),
    ],
)
def test_a_program_that_fails_is_an_error_of_one_line(
    cortex_m4: ModuleType, exported: Path, tmp_path: Path, line: str, reason: str
) -> None:
    (exported / "ticket.c").write_text(KNOWN.replace("uint32_t turns", f"{line} uint32_t turns"))
    with pytest.raises(ExportError, match=f"^qemu-system-arm failed: {reason}$"):
        cortex_m4.run_image(exported, tmp_path, torch.ones(1, 2))


def test_an_example_that_is_cut_off_is_an_error(cortex_m4: ModuleType, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"^qemu-system-arm failed: the last example is cut off$"):
        cortex_m4.run_image(exported, tmp_path, torch.ones(3, 1))


def test_what_does_not_compile_is_an_error_with_the_first_complaint(
    cortex_m4: ModuleType, exported: Path, tmp_path: Path
) -> None:
    (exported / "ticket.c").write_text(KNOWN.replace("turns = 100000", "turns = many"))
    with pytest.raises(ExportError, match=r"^arm-none-eabi-gcc failed: .*ticket\.c:.*many") as raised:
        cortex_m4.run_image(exported, tmp_path, torch.ones(3, 2))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("seed", [0, 3, 11])
def test_a_graph_of_exact_numbers_gives_the_same_bits(cortex_m4: ModuleType, seed: int, tmp_path: Path) -> None:
    graph = exact_graph(seed)
    write_program(graph, tmp_path / "exported")
    inputs = exact_batch(graph, 0)
    outputs, _ = cortex_m4.run_image(tmp_path / "exported", tmp_path, inputs)
    torch.testing.assert_close(torch.from_numpy(outputs).double(), expected(graph, inputs), rtol=0, atol=0)


def test_a_network_of_bits_keeps_its_tables_in_flash(cortex_m4: ModuleType, tmp_path: Path) -> None:
    source = NETWORKS["mlp-1/1"]()
    program = write_program(source.require_graph(), tmp_path / "exported")
    inputs = source.require_example("c")[:4]
    outputs, measured = cortex_m4.run_image(tmp_path / "exported", tmp_path, inputs)
    wanted = expected(source.require_graph(), inputs).numpy()
    row = cortex_m4.compared(outputs, wanted, torch.from_numpy(outputs.argmax(1)))
    assert (row["examples"], row["equal_decisions"], row["right"]) == (4, 4, 4)
    assert row["max_difference"] < 1e-5 * row["max_output"]
    assert program.table_bytes < measured.network_flash < program.table_bytes + 12_000


def test_decisions_and_differences_are_counted(benchmark_module: ModuleType) -> None:
    wanted = torch.tensor([[1.0, 2.0], [5.0, 4.0], [-8.0, 7.0]]).numpy()
    outputs = torch.tensor([[1.0, 2.5], [4.0, 4.5], [-8.0, 7.0]]).numpy()
    found = benchmark_module.compared(outputs, wanted, torch.tensor([1, 1, 0]))
    assert found == {"examples": 3, "equal_decisions": 2, "max_difference": 1.0, "max_output": 8.0, "right": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("binary", "activations"), [("weights+activations", "float"), ("weights", "float"), ("weights", "int8")]
)
def test_a_run_folder_gives_a_row_over_the_whole_test_split(
    cortex_m4: ModuleType,
    binary: str,
    activations: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, file = tmp_path / "run", tmp_path / "rows.json"
    search = ["search", "--binary", binary, "--width", "0.25", "--epochs", "2", "--out", str(run)]
    assert main(search) == 0
    command = ["cortex_m4.py", "--run", str(run), "--activations", activations, "--json", str(file)]
    monkeypatch.setattr(sys, "argv", command)
    cortex_m4.main()
    (row,) = json.loads(file.read_text())
    assert (row["examples"], row["equal_decisions"]) == (359, 359)
    report = json.loads((run / "report.json").read_text("utf-8"))
    assert abs(row["right"] / 359 - report["ticket"]["test_accuracy"]) <= 3 / 359  # level pairs in float32, 8 bits
    assert "359 of 359" in capsys.readouterr().out


def test_missing_tools_are_named(benchmark_module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["cortex_m4.py"])
    with pytest.raises(SystemExit, match=r"^error: arm-none-eabi-gcc, arm-none-eabi-size, qemu-system-arm not inst"):
        benchmark_module.main()
