"""``search --profile`` says where the time of a step goes and leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runs import TINY

from strongticket.cli import main

PHASES = ["data", "forward", "backward", "optimizer", "masks", "rest"]


def test_every_phase_is_a_row_and_nothing_is_written(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    assert main(["search", *TINY, "--profile"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.split()[0] in PHASES] == PHASES
    assert "search ÷ dense training: " in lines[-2]
    assert lines[-1].startswith("on cpu, ")
    assert not list(tmp_path.iterdir())


def test_the_phases_of_the_json_are_seconds_of_both_and_give_the_ratio(capsys: pytest.CaptureFixture[str]):
    assert main(["search", *TINY, "--profile", "--json", "--precision", "fp32"]) == 0
    found = json.loads(capsys.readouterr().out)
    search, dense = (found["seconds"][side] for side in ("search", "dense"))
    assert list(search) == list(dense) == PHASES
    assert search["masks"] > dense["masks"] >= 0
    without_data = (sum(side[phase] for phase in PHASES[1:]) for side in (search, dense))
    assert found["ratio"] == pytest.approx(next(without_data) / next(without_data))
    assert found["placement"] == "cpu, fp32"


def test_a_run_is_not_resumed_to_be_profiled(capsys: pytest.CaptureFixture[str]):
    assert main(["search", "--profile", "--resume", "--out", "nowhere"]) == 2
    assert "without --resume" in capsys.readouterr().err
