"""The digits network on a Cortex-M4: ``python benchmarks/cortex_m4.py [--run RUN] [--json FILE]``.

Each network is exported to C, compiled for a bare Cortex-M4, and run by qemu on the whole test split; every decision is
compared with torch. Printed are flash and RAM, of the network alone and of the whole image. The runtime around the
network is in ``benchmarks/cortex_m4/``. ``benchmarks/README.md`` says what the columns mean.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from strongticket import Ticket, apply, bake, export
from strongticket.cli.assembly import assemble, network_of
from strongticket.cli.run_folder import config_of, open_ticket
from strongticket.errors import ExportError, StrongTicketError
from strongticket.export.c.quanta import calibrated
from strongticket.export.c.quanta import run as run_in_8_bits
from strongticket.export.source import source_of

RUNTIME = Path(__file__).with_name("cortex_m4")
COMPILER = (
    *("arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16", "-Os", "-std=c99"),
    *("-Wall", "-Wextra", "-Wpedantic", "-Werror"),
)
# With -icount shift=0 the emulated clock goes on by 1 ns with each instruction, and nothing of the host is in it.
EMULATOR = (
    *("qemu-system-arm", "-M", "mps2-an386", "-cpu", "cortex-m4", "-icount", "shift=0", "-display", "none"),
    *("-serial", "none", "-monitor", "none", "-semihosting-config", "enable=on,target=native", "-kernel"),
)
TOOLS = (COMPILER[0], "arm-none-eabi-size", EMULATOR[0])
INSTRUCTIONS_A_TICK = 40  # the board's clock has 25 MHz
UNCOUNTED = 2**64 - 1
TIME_LIMIT = 1800  # seconds
FAULTS = {
    2: "a file could not be opened or written",
    3: "the last example is cut off",
    4: "the processor faulted",
    5: "the stack is full",
}


@dataclass(frozen=True)
class Case:
    """A row: how a digits ticket is searched, and what layers of the C program read."""

    name: str
    search: tuple[str, ...] = ()
    activations: str = "float"


CASES = (
    Case("default search"),
    Case("default search, int8 activations", activations="int8"),
    Case("1/32", ("--binary", "weights", "--weights", "kaiming-normal")),
    Case("1/1", ("--binary", "weights+activations")),
)


@dataclass(frozen=True)
class Measured:
    """What a network takes on the processor, in bytes, and how many instructions an inference has on average.

    ``flash`` and ``static_ram`` are text + data and data + bss; of the network alone the second includes the buffer
    that it is given. ``stack`` is the deepest that any example reached. ``instructions`` is None if a call had more
    than the timer counts.
    """

    network_flash: int
    network_static_ram: int
    network_stack: int
    image_flash: int
    image_static_ram: int
    image_stack: int
    instructions: int | None


def missing_tools() -> list[str]:
    """Return the commands that are not installed, and newlib if the compiler has no C library."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if COMPILER[0] not in missing and _called([*COMPILER, "-print-file-name=libc.a"]).strip() == "libc.a":
        missing.append("newlib")
    return missing


def compile_image(exported: Path, folder: Path) -> Path:
    """Compile ``ticket.c`` of an exported folder with the runtime, and return the image; objects lie beside it."""
    objects = []
    for source in (exported / "ticket.c", RUNTIME / "startup.c", RUNTIME / "run.c"):
        objects.append(folder / f"{source.stem}.o")
        _called([*COMPILER, f"-I{exported}", f"-I{RUNTIME}", "-c", str(source), "-o", str(objects[-1])])
    image = folder / "image.elf"
    link = ["-nostartfiles", "-nostdlib", "-Wl,--fatal-warnings", "-T", str(RUNTIME / "link.ld")]
    _called([*COMPILER, *link, *map(str, objects), "-lc", "-lgcc", "-o", str(image)])
    return image


def section_sizes(file: Path) -> tuple[int, int, int]:
    """Return the bytes of text, data and bss of an object or image."""
    line = _called(["arm-none-eabi-size", str(file)]).splitlines()[1]
    text, data, bss = map(int, line.split()[:3])
    return text, data, bss


def run_image(exported: Path, folder: Path, inputs: Tensor) -> tuple[NDArray[np.float32], Measured]:
    """Compile an exported folder, run it on ``inputs`` (examples, …), and return the outputs (examples, outputs).

    Raises ExportError if a tool fails or the program does not end well.
    """
    image = compile_image(exported, folder)
    (folder / "examples.f32").write_bytes(inputs.flatten(1).numpy().astype("<f4").tobytes())
    _called([*EMULATOR, image.name], folder)
    outputs = np.fromfile(folder / "outputs.f32", "<f4").reshape(len(inputs), -1)
    count, network_stack, image_stack, low, high = (int(word) for word in np.fromfile(folder / "measured.u32", "<u4"))
    if count != len(inputs):
        raise ExportError(f"the program took {count} of {len(inputs)} examples")
    ticks = low | high << 32
    header = (exported / "ticket.h").read_text()
    buffer = int(header.split("#define TICKET_BUFFER_WORDS ", 1)[1].split()[0]) * 4
    network, whole = section_sizes(folder / "ticket.o"), section_sizes(image)
    return outputs, Measured(
        network_flash=network[0] + network[1],
        network_static_ram=network[1] + network[2] + buffer,
        network_stack=network_stack,
        image_flash=whole[0] + whole[1],
        image_static_ram=whole[1] + whole[2],
        image_stack=image_stack,
        instructions=None if ticks == UNCOUNTED else round(ticks * INSTRUCTIONS_A_TICK / count),
    )


def reference(network: nn.Module, inputs: Tensor, ticket: Ticket, case: Case, example: Tensor) -> NDArray[np.floating]:
    """Return what torch computes with the arithmetic of a case, as the verification of an export does.

    That is in float64 where activations are ±1, since sums of ± one gain are exact there, in 8 bits where the case
    asks for them, and in float32 otherwise.
    """
    with torch.no_grad():
        if case.activations == "int8":
            graph = source_of(network, ticket, example).require_graph()
            outputs = run_in_8_bits(graph, inputs, calibrated(graph, example))[graph.output]
        else:
            dtype = torch.float64 if ticket.binary.activations else torch.float32
            outputs = network.to(dtype)(inputs.to(dtype))
        wanted: NDArray[np.floating] = outputs.flatten(1).numpy()
        return wanted


def compared(outputs: NDArray[np.float32], wanted: NDArray[np.floating], labels: Tensor) -> dict[str, Any]:
    """Return how outputs compare with those of torch, and how many decisions are right."""
    decisions = outputs.argmax(1)
    return {
        "examples": len(outputs),
        "equal_decisions": int((decisions == wanted.argmax(1)).sum()),
        "max_difference": float(np.abs(outputs - wanted).max()),
        "max_output": float(np.abs(wanted).max()),
        "right": int((decisions == labels.numpy()).sum()),
    }


def search(case: Case, run: Path, seed: int) -> Path:
    """Search the ticket of a case into the folder ``run``, and return it."""
    words = ["search", *case.search, "--seed", str(seed), "--out", str(run)]
    _called([sys.executable, "-m", "strongticket.cli", *words])
    return run


def measured_case(case: Case, run: Path, folder: Path) -> dict[str, Any]:
    """Return the row of a case, whose ticket lies in ``run``."""
    ticket, place = open_ticket(run)
    parts = assemble(config_of(ticket, place, {"device": "cpu"})).fitted_to(ticket)
    batches = list(parts.test())
    inputs, labels = (torch.cat([batch[part] for batch in batches]) for part in (0, 1))
    exported, example = folder / "exported", inputs[:64]
    export(ticket, network_of(ticket.model), exported, to="c", example=example, activations=case.activations)
    outputs, measured = run_image(exported, folder, inputs)
    wanted = reference(bake(apply(ticket, network_of(ticket.model))).eval(), inputs, ticket, case, example)
    return {"network": case.name, **asdict(measured), **compared(outputs, wanted, labels)}


def _called(command: list[str], folder: Path | None = None) -> str:
    """Run a tool and return what it prints; ExportError with its first complaint if it fails."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        raise ExportError(f"{command[0]} did not end within {TIME_LIMIT} seconds") from None
    if done.returncode != 0:
        reason = FAULTS.get(done.returncode, "") if command[0] == EMULATOR[0] else ""
        complaints = sorted(done.stderr.splitlines(), key=lambda line: "error" not in line)
        reason = reason or next(iter(complaints), f"status {done.returncode}")
        raise ExportError(f"{command[0]} failed: {reason}")
    return done.stdout


def print_row(row: dict[str, Any]) -> None:
    """Print a row of the table in docs/results.md."""
    ram, image_ram = (row[f"{what}_static_ram"] + row[f"{what}_stack"] for what in ("network", "image"))
    instructions = "not counted" if row["instructions"] is None else f"{row['instructions'] / 1e6:.2f} M"
    print(
        f"| {row['network']} | {row['network_flash']:,} | {ram:,} ({row['network_static_ram']:,} + "
        f"{row['network_stack']:,}) | {row['image_flash']:,} | {image_ram:,} | "
        f"{row['equal_decisions']} of {row['examples']} | {row['max_difference']:.2g} of {row['max_output']:.3g} | "
        f"{row['right'] / row['examples']:.4f} | {instructions} |",
        flush=True,
    )


def main() -> None:
    """Search what is not given, measure, print a table, and write the rows down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="Measure the ticket of this run folder instead of searching.")
    parser.add_argument("--activations", choices=["float", "int8"], default="float", help="With --run. [float]")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the searches.")
    parser.add_argument("--json", type=Path, help="File for the rows.")
    options = parser.parse_args()
    if missing := missing_tools():
        sys.exit(
            f"error: {', '.join(missing)} not installed (Debian: apt-get install gcc-arm-none-eabi "
            "libnewlib-arm-none-eabi qemu-system-arm)"
        )
    for tool in (COMPILER[0], EMULATOR[0]):
        print(_called([tool, "--version"]).splitlines()[0])
    print(
        "\n| network | flash | RAM (buffer + stack) | flash, image | RAM, image | decisions as in torch | "
        "largest difference | test accuracy | instructions |\n|" + "---|" * 9
    )
    cases = (Case(str(options.run), activations=options.activations),) if options.run else CASES
    rows: list[dict[str, Any]] = []
    runs: dict[tuple[str, ...], Path] = {} if options.run is None else {(): options.run}
    with tempfile.TemporaryDirectory() as name:
        for number, case in enumerate(cases):
            folder = Path(name) / str(number)
            folder.mkdir()
            try:
                if case.search not in runs:
                    runs[case.search] = search(case, folder / "run", options.seed)
                rows.append(measured_case(case, runs[case.search], folder))
            except StrongTicketError as error:
                sys.exit(f"error: {error}")
            print_row(rows[-1])
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
