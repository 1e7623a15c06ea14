"""Trackers: what they get, under which names, and what happens where one is missing or breaks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from cli_runs import TINY, refusal, search

from strongticket.cli.config import load_config
from strongticket.cli.trackers import check_tracker, tracking
from strongticket.errors import ConfigError, MissingExtraError

tracking_module = pytest.importorskip("accelerate.tracking")

KNOWN = sorted(tracking_module.LOGGER_TYPE_TO_CLASS)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Put a package wandb there that writes down what it is told."""
    told = SimpleNamespace(options={}, config={}, metrics=[], finished=0, fails_at=None)

    class Run:
        def log(self, values: dict[str, Any], step: int | None = None) -> None:
            print("wandb talks")
            if told.fails_at == step:
                raise ConnectionError("no route\nto host")
            told.metrics.append((step, values))

        def finish(self) -> None:
            told.finished += 1

    def init(**options: Any) -> Run:
        told.options = options
        return Run()

    module = ModuleType("wandb")
    module.init = init  # type: ignore[attr-defined]
    module.config = SimpleNamespace(update=lambda values, **_: told.config.update(values))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return told


def epochs(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_tracker_gets_the_metrics_of_every_epoch_the_options_and_the_name_of_the_run(
    wandb: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = search(tmp_path / "my run", "--track", "wandb", "--densities", "fc1*=0.3", "--json")
    assert json.loads(capsys.readouterr().out)["ticket"]["density"] > 0  # and nothing else on stdout
    assert wandb.options == {"project": "strongticket", "name": "my run", "dir": str(run)}
    assert wandb.config["model"] == "mlp"
    assert wandb.config["densities"] == '{"fc1*": 0.3}'
    assert [step for step, _ in wandb.metrics] == [1, 2]
    for (_, values), epoch in zip(wandb.metrics, epochs(run), strict=True):
        assert values == {key: value for key, value in epoch.items() if value is not None}
    assert wandb.finished == 1


def test_a_tracker_that_breaks_is_said_once_and_the_run_goes_on(
    wandb: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wandb.fails_at = 1
    run = search(tmp_path / "run", "--track", "wandb")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("the tracker")]
    assert said == [f"the tracker wandb takes no more: no route; the metrics are in {run / 'metrics.jsonl'}"]
    assert len(epochs(run)) == 2
    assert wandb.metrics == []


def test_tensorboard_gets_its_files_in_the_folder_of_the_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    with tracking("tensorboard", tmp_path, load_config()) as track:
        track({"loss": 0.5, "validation_accuracy": None, "note": "text"}, 3)
    (file,) = (tmp_path / "tensorboard").iterdir()
    found = [
        (event.step, value.tag, value.simple_value)
        for event in LegacyEventFileLoader(str(file)).Load()
        for value in event.summary.value
    ]
    assert found == [(3, "loss", 0.5)]


def test_no_tracker_is_no_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate.tracking", None)
    check_tracker("none")
    with tracking("none", tmp_path, load_config()) as track:
        track({"loss": 1.0}, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", KNOWN)
def test_every_tracker_that_accelerate_knows_is_known(name: str) -> None:
    check_tracker(name)


@pytest.mark.parametrize("name", [name for name in KNOWN if name != "tensorboard"])
def test_a_tracker_whose_package_is_missing_says_how_to_install_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with (
        pytest.raises(MissingExtraError, match=f"--track {name} needs a package .*: pip install {name}$"),
        tracking(name, tmp_path, load_config()),
    ):
        pytest.fail("it began")


def test_a_tracker_that_is_missing_leaves_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "comet_ml", None)
    line = refusal(capsys, "search", *TINY, "--track", "comet_ml", "--out", tmp_path / "run")
    assert "pip install comet_ml" in line
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_cannot_start_says_why(wandb: SimpleNamespace, tmp_path: Path) -> None:
    def refuse(**_: Any) -> None:
        raise PermissionError("no account\nsee the manual")

    sys.modules["wandb"].init = refuse  # type: ignore[attr-defined]
    with (
        pytest.raises(ConfigError, match="the tracker wandb cannot start: no account; set it up"),
        tracking("wandb", tmp_path, load_config()),
    ):
        pytest.fail("it began")


def test_an_unknown_tracker_is_refused_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, "search", *TINY, "--track", "tensorbord", "--out", tmp_path / "run")
    assert "--track 'tensorbord' was given (did you mean 'tensorboard'?)" in line
    assert all(name in line for name in ["none", *KNOWN])
    assert not (tmp_path / "run").exists()


def test_without_accelerate_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate.tracking", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'strongticket\[track\]'"):
        check_tracker("wandb")
