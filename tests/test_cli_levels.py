"""Tickets whose masks have levels, by the command line: found, evaluated, inspected, exported, resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from cli_runs import refusal, search

import strongticket as st
from strongticket.cli import inspect, main

RULES = {
    "coats": ("--rule", "multicoated", "--coats", "3"),
    "draws": ("--rule", "iterand", "--redraw-every", "2", "--redraw-share", "0.5"),
}
CONTROLS = "random,shuffled,redrawn,inverted,initial,untrained,trained"


@pytest.fixture(scope="module", params=sorted(RULES))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, named after its levels; no test changes its ticket."""
    return search(tmp_path_factory.mktemp("levels") / request.param, *RULES[request.param], "--density", "0.4")


def test_a_run_says_what_its_masks_tell(run: Path) -> None:
    ticket, report = st.load(run / "ticket.safetensors"), json.loads((run / "report.json").read_text())
    assert ticket.levels == report["ticket"]["levels"] == run.name
    assert report["ticket"]["density"] == pytest.approx(0.4, abs=0.001)
    assert report["prizes"]["weights"]["unchanged"] is (run.name == "coats")
    options = {"coats": {"coats": 3}, "draws": {"redraw_every": 2, "redraw_share": 0.5}}
    assert options[run.name].items() <= ticket.search.items()


def test_every_control_of_it_can_be_had(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--controls", CONTROLS, "--seeds", "0", "--json"]) == 0
    controls = json.loads(capsys.readouterr().out)["controls"]
    assert set(controls) == set(CONTROLS.split(","))
    for name in ("random", "shuffled", "redrawn", "initial"):
        assert controls[name]["density"] == pytest.approx(0.4, abs=0.001)


def test_inspect_counts_the_edges_of_every_level(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ticket = st.load(run / "ticket.safetensors")
    counts: dict[str, int] = {}
    for mask in ticket.masks.values():
        for level in mask[mask > 0].tolist():
            counts[str(level)] = counts.get(str(level), 0) + 1
    assert main(["inspect", str(run), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["levels"] == {"kind": run.name, "edges": dict(sorted(counts.items(), key=lambda entry: int(entry[0])))}
    assert sum(counts.values()) == facts["kept"] == ticket.kept
    assert main(["inspect", str(run)]) == 0
    assert f"levels: {run.name}; {counts['1']:,} edges of 1, {counts['2']:,} edges of 2" in capsys.readouterr().out


def test_inspect_draws_no_weights_that_are_too_many_for_the_file(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect, "_FREE_VALUES", 3000)  # the network has 64·30 + 30·10 + 10·10 weights and 50 biases
    monkeypatch.setattr(inspect, "_VALUES_PER_BYTE", 0)
    assert main(["inspect", str(run), "--json"]) == 0
    seen = {layer["inputs"] for layer in json.loads(capsys.readouterr().out)["layers"]}
    assert seen == ({"real"} if run.name == "coats" else {"not seen"})


def test_an_export_has_the_weights_that_kept_edges_carry(run: Path, tmp_path: Path) -> None:
    assert main(["export", str(run), "--to", "safetensors", "--out", str(tmp_path / "t")]) == 0
    ticket, baked = st.load(run / "ticket.safetensors"), safetensors.torch.load_file(tmp_path / "t")
    for name, mask in ticket.masks.items():
        magnitudes, scale = baked[name].abs(), ticket.tensors[name].scale
        expected = mask if run.name == "coats" else mask > 0
        torch.testing.assert_close(magnitudes, expected * torch.tensor(scale))


def test_weights_in_several_coats_are_not_called_binary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = search(tmp_path / "run", *RULES["coats"], "--binary", "weights")
    capsys.readouterr()
    assert main(["inspect", str(run), "--json"]) == 0
    assert {layer["weights"] for layer in json.loads(capsys.readouterr().out)["layers"]} == {"real"}
    assert json.loads((run / "report.json").read_text())["prizes"]["bits"]["weight"] == 32
    line = refusal(capsys, "export", run, "--to", "onnx", "--weights", "int8", "--out", tmp_path / "t.onnx")
    assert "without coats" in line


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--coats", "3"], "coats is an option of rule 'multicoated', the rule is 'edge-popup'"),
        (["--rule", "multicoated", "--redraw-every", "3"], "redraw_every is an option of rule 'iterand'"),
        (["--rule", "multicoated", "--coats", "1"], "coats 1 was given; expected a whole number from 2 to 31"),
        (["--rule", "iterand", "--redraw-every", "0"], "redraw_every 0 was given; expected a number of steps"),
        (["--rule", "iterand", "--redraw-share", "1.5"], "redraw_share 1.5 was given; expected a probability"),
    ],
)
def test_options_that_a_rule_cannot_use_are_one_line_and_leave_nothing(
    arguments: list[str], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert part in refusal(capsys, "search", "--out", tmp_path / "run", *arguments)
    assert list(tmp_path.iterdir()) == []
