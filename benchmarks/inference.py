"""What an exported ticket costs beside its dense network: ``python benchmarks/inference.py [--quick] [--json FILE]``.

Every row is a ratio of two things measured in turns in one process, each in one thread; the median over the turns is
taken.
``benchmarks/README.md`` says what the rows mean.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import importlib.metadata
import json
import os
import platform
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import numpy as np
import torch
from torch import nn

from strongticket import attach, export, extract
from strongticket.errors import StrongTicketError
from strongticket.export import TARGETS
from strongticket.export.openvino import core as openvino_core
from strongticket.models import build

IMAGE = (3, 32, 32)
ROUNDS = {1: 25, 64: 9}  # turns by batch size
QUICK = {1: 9, 64: 3}
RIVALS = ("onnxruntime float", "onnxruntime int8")
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_vpopcntdq", "avx512_bf16", "amx_int8", "amx_bf16", "asimd")
Run = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A ticket to export, and what its targets are held against.

    ``goals`` are of {rival: least factor by which each of ``targets`` is faster than it}.
    """

    name: str
    label: str
    density: float
    options: dict[str, Any]
    activation: str | None
    goals: dict[str, float]
    targets: tuple[str, ...] = ("openvino", "c")


CASES = (
    Case("vgg-small", "1/1", 0.25, {}, "binary", {RIVALS[0]: 5.0, RIVALS[1]: 1.0}),
    Case("cifar-resnet18", "1/32", 0.05, {"binary": "weights"}, None, {RIVALS[0]: 1.0}),
)
SIZE_DENSITIES = (0.5, 0.25, 0.05)
SIZE_GOAL = 1 / 16


def network(case: Case, width: float, *, dense: bool) -> nn.Module:
    """Return the network of a case: the one that is searched, or the same one as it is trained densely, with ReLU."""
    activation = None if dense else case.activation
    return build(case.name, input_shape=IMAGE, classes=10, width=width, norm="batch", activation=activation)


def images(count: int, seed: int = 0) -> torch.Tensor:
    """Return random images."""
    return torch.randn(count, *IMAGE, generator=torch.Generator().manual_seed(seed))


def settled(model: nn.Module) -> nn.Module:
    """Return a network with batch-norm statistics of a few random batches; no speed depends on training."""
    model.train()
    with torch.no_grad():
        for seed in range(3):
            model(images(32, seed))
    return model.eval()


# The rivals.


def write_dense(case: Case, width: float, folder: Path) -> dict[str, Path]:
    """Write the dense network for onnxruntime, in float32 and in 8 bits, and return {rival: file}."""
    from onnxruntime import quantization

    files = {rival: folder / f"{rival.split()[1]}.onnx" for rival in RIVALS}
    model = settled(network(case, width, dense=True))
    program = torch.onnx.export(
        model, (images(2),), dynamo=True, input_names=["input"], dynamic_shapes=({0: "batch"},), verbose=False
    )
    program.save(files[RIVALS[0]])

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        batches = iter([{"input": images(16, seed).numpy()} for seed in range(4)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    prepared = folder / "prepared.onnx"
    quantization.quant_pre_process(files[RIVALS[0]], prepared, skip_symbolic_shape=True)
    # Unsigned activations and signed weights are what the processors' 8-bit instructions take.
    quantization.quantize_static(
        prepared,
        files[RIVALS[1]],
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )
    return files


def onnxruntime_run(file: Path, batch: np.ndarray) -> Run:
    """Return a run of an ONNX file on a batch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"input": batch})


# The targets.


def write_ticket(case: Case, width: float, density: float, target: str, folder: Path) -> Path:
    """Export a ticket with a random mask to a target, verified, and return the path."""
    attach(model := network(case, width, dense=False), density=density, **case.options)
    ticket = extract(settled(model))
    path = folder / {"openvino": "ticket.xml"}.get(target, target)
    export(ticket, network(case, width, dense=False), path, to=target, example=images(4))
    return path


def openvino_run(path: Path, batch: np.ndarray) -> Run:
    """Return a run of an OpenVINO file on a batch, in the precision that it was verified in."""
    core = openvino_core()
    model = core.read_model(path)
    model.reshape(list(batch.shape))
    # No streams: in the thread that calls, as onnxruntime does, not in one bound to a core that may have other work.
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 0}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda: request.infer([batch], share_outputs=True)


def c_run(path: Path, batch: np.ndarray) -> Run:
    """Return a run of a C program on a batch, one example after another, compiled for this very processor."""
    library = path / "ticket.so"
    if not library.exists():
        command = ["gcc", "-std=c99", "-O3", "-march=native", "-shared", "-fPIC"]
        subprocess.run([*command, "-o", str(library), str(path / "ticket.c")], check=True, capture_output=True)
    header = (path / "ticket.h").read_text()
    words, outputs = (
        int(header.split(f"#define TICKET_{name} ", 1)[1].split()[0]) for name in ("BUFFER_WORDS", "OUTPUTS")
    )
    predict = ctypes.CDLL(str(library)).ticket_predict
    result, buffer = np.zeros((len(batch), outputs), np.float32), np.zeros(words, np.uint32)

    def place(array: np.ndarray) -> ctypes.c_void_p:
        return ctypes.c_void_p(array.ctypes.data)

    def run() -> np.ndarray:
        for image, logits in zip(batch, result, strict=True):
            predict(place(image), place(logits), place(buffer))
        return result

    return run


RUNS: dict[str, Callable[[Path, np.ndarray], Run]] = {"openvino": openvino_run, "c": c_run}


# Measuring.


def in_turns(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of runs taken in turns, forwards and backwards; the first two turns warm up.

    They are seconds of this process on the processor: in one thread the same as those of the clock, but other work on
    the machine does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 2):
        names = list(runs) if number % 2 else list(reversed(runs))
        for name in names:
            started = time.process_time()
            runs[name]()
            seconds[name].append(time.process_time() - started)
    return {name: values[2:] for name, values in seconds.items()}


def speed_rows(case: Case, width: float, rounds: dict[int, int]) -> Iterator[dict[str, Any]]:
    """Measure the targets of one case beside its rivals, batch size by batch size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dense, written = write_dense(case, width, folder), {}
        for target in case.targets:
            written[target] = attempted(lambda: write_ticket(case, width, case.density, target, folder))  # noqa: B023
        for size, turns in rounds.items():
            batch = images(size, seed=9).numpy()
            runs: dict[str, Run] = {rival: onnxruntime_run(dense[rival], batch) for rival in case.goals}
            failed: dict[str, str] = {}
            for target, path in written.items():
                found = path if isinstance(path, str) else attempted(functools.partial(RUNS[target], path, batch))
                if isinstance(found, str):
                    failed[target] = found
                else:
                    runs[target] = found
            seconds = in_turns(runs, turns)
            for rival, goal in case.goals.items():
                for target in case.targets:
                    what, label = f"{rival} ÷ {target}", label_of(case, width, case.density)
                    if target in failed:
                        yield row(what, label, size, None, goal, failed[target])
                    else:
                        times = list(zip(seconds[rival], seconds[target], strict=True))
                        note = " ÷ ".join(f"{1000 * median(column):.2f}" for column in zip(*times, strict=True))
                        yield row(what, label, size, median(a / b for a, b in times), goal, f"{note} ms")


def size_rows(case: Case, width: float, densities: tuple[float, ...]) -> Iterator[dict[str, Any]]:
    """Measure the constant tables of the C program beside the weights in float32."""
    weights = sum(p.numel() for name, p in network(case, width, dense=True).named_parameters() if p.dim() > 1)
    for density in densities:
        label = label_of(case, width, density)
        with tempfile.TemporaryDirectory() as name:
            path = attempted(lambda: write_ticket(case, width, density, "c", Path(name)))  # noqa: B023
            if isinstance(path, str):
                yield row("C tables ÷ float weights", label, None, None, SIZE_GOAL, path)
                continue
            tables = int((path / "ticket.h").read_text().split("#define TICKET_TABLE_BYTES ", 1)[1].split()[0])
        note = f"{tables / 1e3:.1f} ÷ {4 * weights / 1e3:.1f} kB"
        yield row("C tables ÷ float weights", label, None, tables / (4 * weights), SIZE_GOAL, note)


def attempted(function: Callable[[], Any]) -> Any:
    """Return what a function returns, or in words why it cannot: a target, a package or a compiler that is missing."""
    try:
        return function()
    except subprocess.CalledProcessError as error:
        return f"{error.cmd[0]} failed: {error.stderr.decode(errors='replace').splitlines()[:1]}"
    except (StrongTicketError, ImportError, OSError) as error:
        return str(error)


def label_of(case: Case, width: float, density: float) -> str:
    """Return what stands in the column of networks."""
    return f"{case.name} {case.label} d {density:g}" + ("" if width == 1 else f" {width:g}x")


def row(quantity: str, name: str, batch: int | None, ratio: float | None, goal: float, note: str) -> dict[str, Any]:
    """Return one line of the table, and print it."""
    found = "not measured" if ratio is None else f"{ratio:12.3f}"
    least = "at most" if goal == SIZE_GOAL else "at least"
    print(f"{quantity:29} {name:28} {batch or '':>3}  {found}  (goal {least} {goal:g})  {note}", flush=True)
    return {
        "quantity": quantity,
        "network": name,
        "batch": batch,
        "processor": processor(),
        "ratio": ratio,
        "goal": goal,
    }


@functools.cache
def processor() -> str:
    """Return the name of the processor, and which instructions for short numbers it has."""
    name, flags = platform.processor() or platform.machine(), set()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        if key.strip() in ("flags", "Features"):
            flags = set(value.split())
    return f"{name} ({', '.join(flag for flag in FLAGS if flag in flags)})"


def main() -> None:
    """Measure, print a line for each ratio, and write them down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Fewer turns, and one size.")
    parser.add_argument("--width", type=float, default=1.0, help="Width of the networks; the goals are for 1.")
    parser.add_argument("--json", type=Path, help="File for the rows.")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime", "openvino"))
    print(f"{processor()}, one thread; {versions}, Python {platform.python_version()}; targets {', '.join(TARGETS)}")
    rows = []
    for case in CASES:
        rows += list(speed_rows(case, options.width, QUICK if options.quick else ROUNDS))
    densities = (CASES[0].density,) if options.quick else SIZE_DENSITIES
    rows += list(size_rows(CASES[0], options.width, densities))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def version(package: str) -> str:
    """Return the version of a package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


if __name__ == "__main__":
    main()
