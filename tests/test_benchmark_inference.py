"""The benchmark of exported networks, as far as it does not measure."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from strongticket.errors import MissingExtraError

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

KEYS = ["quantity", "network", "batch", "processor", "ratio", "goal"]


@pytest.fixture(scope="module")
def inference() -> ModuleType:
    """Return the benchmark as a module."""
    file = Path(__file__).parents[1] / "benchmarks" / "inference.py"
    spec = importlib.util.spec_from_file_location("inference", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["inference"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_ratios_are_those_of_the_goals_table(inference: ModuleType) -> None:
    vgg, resnet = inference.CASES
    assert (vgg.name, vgg.activation, vgg.density) == ("vgg-small", "binary", 0.25)
    assert vgg.goals == {"onnxruntime float": 5, "onnxruntime int8": 1}
    assert (resnet.name, resnet.activation, resnet.density) == ("cifar-resnet18", None, 0.05)
    assert resnet.goals == {"onnxruntime float": 1}
    assert resnet.options == {"binary": "weights"}
    assert inference.SIZE_GOAL == 1 / 16
    assert all(list(rounds) == [1, 64] for rounds in (inference.ROUNDS, inference.QUICK))


def test_what_is_missing_is_reported_and_the_rest_measured(
    inference: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write_ticket(case: Any, width: float, density: float, target: str, folder: Path) -> Path:
        if target == "c":
            raise MissingExtraError("no C here")
        return folder

    ticks = iter(range(1000))
    monkeypatch.setattr(inference, "write_dense", lambda *_: {"onnxruntime float": Path(), "onnxruntime int8": Path()})
    monkeypatch.setattr(inference, "onnxruntime_run", lambda *_: lambda: [next(ticks) for _ in range(9)])
    monkeypatch.setattr(inference, "write_ticket", write_ticket)
    monkeypatch.setitem(inference.RUNS, "openvino", lambda *_: lambda: [next(ticks) for _ in range(2)])
    monkeypatch.setattr(inference.time, "process_time", lambda: next(ticks))
    rows = list(inference.speed_rows(inference.CASES[0], 1.0, {2: 3}))
    assert [list(row) for row in rows] == [KEYS] * 4
    # Each call takes as many ticks as it draws, and one more to read the clock.
    assert [row["ratio"] for row in rows] == [10 / 3, None, 10 / 3, None]
    assert {row["batch"] for row in rows} == {2}
    assert {row["network"] for row in rows} == {"vgg-small 1/1 d 0.25"}
    assert capsys.readouterr().out.count("not measured  (goal at least") == 2
    assert [row["goal"] for row in rows] == [5, 5, 1, 1]


def test_a_missing_compiler_is_reported(inference: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = inference.attempted(lambda: inference.c_run(tmp_path, np.zeros((1, 3, 4, 4), np.float32)))
    assert "gcc" in found


def test_runs_are_taken_in_turns(inference: ModuleType) -> None:
    calls: list[str] = []
    seconds = inference.in_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert "".join(calls) == "baabbaab"
    assert {name: len(each) for name, each in seconds.items()} == {"a": 2, "b": 2}


@pytest.mark.slow
def test_a_narrow_run_fills_every_row(inference: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "QUICK", {1: 1, 2: 1})
    file, threads = tmp_path / "rows.json", torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["inference.py", "--quick", "--width", "0.125", "--json", str(file)])
    inference.main()
    torch.set_num_threads(threads)
    rows = json.loads(file.read_text())
    assert len(rows) == 2 * 4 + 2 * 2 + 1
    assert all(row["ratio"] > 0 and row["processor"] for row in rows)
