from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import file_size_limit, image_folder, refusal, search
from torch import nn

import strongticket as st
from strongticket.cli import main
from strongticket.errors import TicketError

QUICK = ("--seeds", "0", "--controls", "random")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; no test changes it."""
    return search(tmp_path_factory.mktemp("evaluate") / "run")


@pytest.fixture
def run(done: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(done, tmp_path / "run"))


def evaluate(capsys: pytest.CaptureFixture[str], place: Path, *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["evaluate", str(place), "--json", *arguments]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def report_of(run: Path) -> Any:
    return json.loads((run / "report.json").read_text("utf-8"))


def test_controls_are_added_to_the_report_and_the_earlier_ones_stay(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = report_of(run)
    found = evaluate(capsys, run, "--controls", "shuffled,inverted", "--seeds", "3,4")
    assert found == report_of(run)
    assert list(found["controls"]) == ["random", "untrained", "shuffled", "inverted"]
    for name in ("random", "untrained"):
        assert found["controls"][name] == before["controls"][name]
    assert found["ticket"] == before["ticket"]
    assert found["seeds"] == [0, 1, 2, 3, 4]
    assert (found["controls"]["shuffled"]["n"], found["controls"]["inverted"]["n"]) == (2, 1)


def test_dense_training_says_how_far_it_has_come(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["evaluate", str(run), "--controls", "trained", "--seeds", "4"]) == 0
    _, said = capsys.readouterr().err.split("control trained, seed 4\n")
    assert said.startswith("epoch 1/")


def test_a_control_measured_again_is_replaced(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = report_of(run)["controls"]["random"]
    found = evaluate(capsys, run, "--controls", "random", "--seeds", "1")["controls"]["random"]
    assert (found["n"], found["sd"]) == (1, 0.0)
    assert found["accuracies"] == before["accuracies"][1:2]


def test_every_control_is_measured_and_the_ticket_compared_with_the_trained_network(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluate(capsys, run, "--controls", "all", "--seeds", "0,1")
    assert set(found["controls"]) == {
        "random",
        "shuffled",
        "redrawn",
        "inverted",
        "initial",
        "untrained",
        "trained",
    }
    difference = found["ticket"]["test_accuracy"] - found["controls"]["trained"]["mean"]
    assert found["against_trained"]["difference"] == pytest.approx(difference)
    # What was compared stays in the report when something else is measured later.
    later = evaluate(capsys, run, *QUICK)
    assert later["against_trained"] == found["against_trained"]


def test_without_controls_the_ticket_alone_is_measured(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = report_of(run)
    assert evaluate(capsys, run, "--controls", "") == before


def test_the_default_controls_are_random_shuffled_and_redrawn(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluate(capsys, done / "ticket.safetensors")
    assert list(found["controls"]) == ["random", "shuffled", "redrawn"]
    assert {control["n"] for control in found["controls"].values()} == {3}


def test_json_is_all_of_stdout_and_progress_is_on_stderr(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--json", "--controls", "random,random, redrawn", "--seeds", "0,2"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == report_of(run)
    assert captured.err.splitlines() == [
        f"control {name}, seed {seed}" for name in ("random", "redrawn") for seed in (0, 2)
    ]


def test_without_json_there_is_a_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), *QUICK]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    accuracy = report_of(run)["ticket"]["test_accuracy"]
    assert ["ticket", f"{accuracy:.4f}", "1"] in [row[:3] for row in rows]


def test_a_bare_ticket_is_evaluated_from_its_provenance_and_nothing_is_written(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(done / "ticket.safetensors", tmp_path / "found")
    monkeypatch.chdir(tmp_path)
    found = evaluate(capsys, Path("found"), "--controls", "random,untrained")
    expected = report_of(done)
    assert found["ticket"] == expected["ticket"]
    assert found["controls"] == expected["controls"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["found"]


def test_other_data_are_only_printed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "report.json").read_bytes()
    root = image_folder(tmp_path / "noise", classes=[str(digit) for digit in range(10)], colour=False, count=3)
    found = evaluate(capsys, run, *QUICK, "--data", f"imagefolder:{root}")
    assert (found["dataset"], found["ticket"]["examples"]) == (f"imagefolder:{root}", 30)
    assert set(found["controls"]) == {"random"}
    assert (run / "report.json").read_bytes() == before


def test_another_test_time_augmentation_is_only_printed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "report.json").read_bytes()
    found = evaluate(capsys, run, *QUICK, "--tta", "flip")
    assert found["tta"] == "flip"
    assert found["ticket"]["nll"] != report_of(run)["ticket"]["nll"]
    assert (run / "report.json").read_bytes() == before
    assert evaluate(capsys, run, *QUICK, "--tta", "none") == report_of(run)


@pytest.mark.parametrize("tta", ["flip", "flip-shift"])
def test_a_search_and_its_evaluation_augment_alike(
    tta: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = search(tmp_path / "run", "--tta", tta)
    before = report_of(run)
    assert before["tta"] == tta
    assert evaluate(capsys, run, "--controls", "") == before


def test_other_data_are_normalised_as_the_data_of_the_search_were(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = image_folder(tmp_path / "noise", classes=[str(digit) for digit in range(10)], colour=False, count=3)
    found = evaluate(capsys, run, "--controls", "", "--data", f"imagefolder:{root}")
    from strongticket.data import load
    from strongticket.models import build

    ticket, data = st.load(run / "ticket.safetensors"), load(f"imagefolder:{root}")
    model = st.apply(ticket, build("mlp", input_shape=(1, 8, 8), classes=10, width=0.1))
    mean, std = ticket.model["mean"][0], ticket.model["std"][0]
    logits = model((data.test.images.float() / 255 - mean) / std)  # type: ignore[union-attr]
    nll = nn.functional.cross_entropy(logits, data.test.labels)
    assert found["ticket"]["nll"] == pytest.approx(float(nll), rel=1e-5)


# Wrong input


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--controls", "rando"], "control 'rando' is not known (did you mean 'random'?); the controls are random"),
        (["--controls", "random,all"], "control 'all' is not known"),
        (["--seeds", "one"], "--seeds 'one' was given; expected whole numbers"),
        (["--seeds", ""], "--seeds '' was given; expected whole numbers"),
        (["--seeds", "0,-1"], "--seeds '0,-1' was given; expected whole numbers from 0"),
        (["--seeds", str(2**64)], "expected whole numbers from 0 to 2**64 - 1"),
        (["--seeds", "1,1"], "--seeds '1,1' names a seed twice"),
        (["--data", "digit"], "unknown data 'digit'; did you mean digits?"),
        (["--data", "imagefolder:nowhere"], "there is no folder nowhere"),
        (["--data", "mnist", "--data-dir", "nowhere"], "mnist is not in nowhere/MNIST/raw"),
    ],
)
def test_a_wrong_option_is_one_line_and_the_report_stays(
    arguments: list[str], part: str, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (done / "report.json").read_bytes()
    assert part in refusal(capsys, "evaluate", done, *arguments)
    assert (done / "report.json").read_bytes() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_where_there_is_none_is_refused(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, "evaluate", done, "--device", "cuda")
    assert "torch sees no CUDA device here; use 'cpu' or 'auto'" in line


@pytest.mark.parametrize("arguments", [["--device", "tpu"], ["--nope"]])
def test_wrong_usage_exits_with_2(arguments: list[str], done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "strongticket evaluate --help" in refusal(capsys, "evaluate", done, *arguments, code=2)


def test_what_is_no_ticket_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("not a ticket")
    for place in (tmp_path / "text", tmp_path / "missing", tmp_path):
        assert str(place) in refusal(capsys, "evaluate", place)


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_a_truncated_ticket_is_named(kept: int, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = (done / "ticket.safetensors").read_bytes()
    (tmp_path / "ticket").write_bytes(data[:kept])
    for command in (["evaluate"], ["inspect"], ["export", "--to", "safetensors", "--out", tmp_path / "out"]):
        assert str(tmp_path / "ticket") in refusal(capsys, *command, tmp_path / "ticket")
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_not_finished_says_how_to_go_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "ticket.safetensors").unlink()
    line = refusal(capsys, "evaluate", run)
    assert line == f"error: {run} holds no ticket.safetensors; its search is not finished: go on with --resume\n"


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("model: mlp", "model: conv2", "name mlp, not conv2; put the options back"),
        ("width: 0.1", "width: 0.2", "width 0.1, not 0.2; put the options back"),
        ("activation: null", "activation: silu", "activation None, not silu; put the options back"),
    ],
)
def test_a_run_whose_config_names_another_network_is_refused(
    old: str, new: str, part: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(old, new))
    before = (run / "report.json").read_bytes()
    line = refusal(capsys, "evaluate", run)
    assert f"this ticket is of another network than {config} names: {part}" in line
    assert (run / "report.json").read_bytes() == before


def test_a_ticket_is_not_applied_to_another_network(done: Path) -> None:
    with pytest.raises(TicketError, match="this ticket is of another network"):
        st.apply(st.load(done / "ticket.safetensors"), nn.Sequential(nn.Linear(64, 10)))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (
            {"classes": ("cat", "dog"), "colour": False},
            "has 2 classes and 1 channels: use data like those of its search",
        ),
        ({"classes": "0123456789", "colour": True}, "has 10 classes and 3 channels: use data like those of its search"),
        (
            {"classes": "0123456789", "colour": False, "size": 9},
            "this ticket is of another network: fc1.weight has shape",
        ),
    ],
)
def test_data_that_do_not_fit_the_ticket_are_refused(
    options: dict[str, Any], part: str, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = image_folder(tmp_path / "pictures", count=2, **options)
    assert part in refusal(capsys, "evaluate", done, "--data", f"imagefolder:{root}")


def test_classes_in_another_order_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # As where the ticket was found on a set with an order of its own, and the image folder sorts by name.
    data = image_folder(tmp_path / "pictures", classes=("cat", "dog"), count=3)
    run = search(tmp_path / "run", "--data", f"imagefolder:{data}")
    found = st.load(run / "ticket.safetensors")
    found.model["classes"] = ["dog", "cat"]  # type: ignore[index]
    st.save(found, tmp_path / "ticket")
    line = refusal(capsys, "evaluate", tmp_path / "ticket")
    assert "stand in another order than in the ticket (dog, cat, …)" in line


def test_a_ticket_that_does_not_say_how_it_was_found_is_refused(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = nn.Sequential(nn.Linear(4, 8))
    st.attach(model)
    st.save(st.extract(model), tmp_path / "own")
    assert "use strongticket.evaluate with your own network and data" in refusal(capsys, "evaluate", tmp_path / "own")
    later = st.load(done / "ticket.safetensors")
    later.provenance["config"]["option_of_a_later_release"] = 1
    st.save(later, tmp_path / "later")
    assert "use strongticket.evaluate with your own" in refusal(capsys, "evaluate", tmp_path / "later")


def test_no_space_for_the_report_leaves_the_old_one(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    capsys.readouterr()
    with file_size_limit(100):
        assert main(["evaluate", str(run), *QUICK]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1] == f"error: {run / 'report.json'}: File too large"
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before


# Code that a ticket names


@pytest.fixture
def of_a_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of a network of the user's own, whose module afterwards writes down that it was imported."""
    module = tmp_path / "strangers_network.py"
    module.write_text(
        "from torch import nn\n"
        "def make(num_classes, input_shape):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[1] ** 2, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    assert main(["search", "--model", "strangers_network:make", "--epochs", "1", "--out", str(run)]) == 0
    monkeypatch.delitem(sys.modules, "strangers_network")
    module.write_text(module.read_text() + "open('was_run', 'w').close()\n")
    return run


@pytest.mark.parametrize(
    "command", [("evaluate", *QUICK), ("export", "--to", "safetensors", "--out", "out.safetensors")]
)
def test_code_that_only_a_ticket_file_names_is_not_run_until_the_user_names_it(
    command: tuple[str, ...], of_a_factory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *options = command
    ticket, was_run = of_a_factory / "ticket.safetensors", of_a_factory.parent / "was_run"
    error = refusal(capsys, name, ticket, *options)
    assert "code that would be imported and run" in error
    assert "--model 'strangers_network:make'" in error
    assert "'strangers_network:make'" in refusal(capsys, name, ticket, *options, "--model", "mlp")
    assert not was_run.exists()
    assert main([name, str(ticket), *options, "--model", "strangers_network:make"]) == 0
    assert was_run.exists()


def test_the_configuration_of_a_run_names_its_code(of_a_factory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (of_a_factory / "config.yaml").unlink()
    assert "code that would be imported and run" in refusal(capsys, "evaluate", of_a_factory)
    assert not (of_a_factory.parent / "was_run").exists()


def test_code_that_only_the_options_in_a_ticket_name_is_not_run(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("strangers_network.py").write_text("open('was_run', 'w').close()\n")
    ticket = st.load(done / "ticket.safetensors")
    options = {**ticket.provenance["config"], "model": "strangers_network:make"}
    st.save(replace(ticket, provenance={**ticket.provenance, "config": options}), "odd.safetensors")
    assert "code that would be imported and run" in refusal(capsys, "evaluate", "odd.safetensors")
    assert not Path("was_run").exists()
