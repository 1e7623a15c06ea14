from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import TINY, file_size_limit, image_folder, refusal, search
from torch import nn

import strongticket as st
import strongticket.cli.search as command
from strongticket.cli import main
from strongticket.cli.config import load_config
from strongticket.data import load as load_data
from strongticket.search.checkpoint import has_checkpoint

CONTENTS = {
    "config.yaml",
    "metrics.jsonl",
    "environment.json",
    "ticket.safetensors",
    "ticket-last.safetensors",
    "report.json",
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; no test changes it."""
    return search(tmp_path_factory.mktemp("search") / "run")


def read(file: Path) -> Any:
    return json.loads(file.read_text("utf-8"))


def epochs(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


def write_module(folder: Path, name: str, body: str) -> None:
    (folder / f"{name}.py").write_text(f"from torch import nn\n\n{body}")


# What a run leaves


def test_a_run_folder_holds_what_was_promised_and_nothing_else(done: Path) -> None:
    assert {entry.name for entry in done.iterdir()} == CONTENTS


def test_the_resolved_config_reads_back_as_the_options_of_the_run(done: Path) -> None:
    asked = load_config(None, {"model": "mlp", "width": "0.1x", "epochs": 2})
    assert load_config(str(done / "config.yaml")) == asked
    assert "density: 0.5\n" in (done / "config.yaml").read_text()  # what was not asked for is written down too


def test_metrics_have_one_object_an_epoch(done: Path) -> None:
    found = epochs(done)
    assert [epoch["epoch"] for epoch in found] == [1, 2]
    for epoch in found:
        assert {"loss", "train_accuracy", "validation_accuracy", "learning_rate", "images_per_second"} <= epoch.keys()
        assert 0 <= epoch["validation_accuracy"] <= 1


def test_the_environment_says_where_and_how_the_run_ran(done: Path) -> None:
    found = read(done / "environment.json")
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["strongticket"] == st.__version__
    assert {"started", "command", "python", "system", "processor", "threads", "gpus", "git_commit"} <= found.keys()


def test_the_report_has_the_keys_of_the_contract(done: Path) -> None:
    report = read(done / "report.json")
    ticket = {"test_accuracy", "density", "bits_per_weight", "file_bytes", "weights_digest", "trained"}
    assert {"ticket", "controls", "dataset", "seeds"} <= report.keys()
    assert ticket <= report["ticket"].keys()
    assert set(report["controls"]) == {"random", "untrained"}
    assert (report["dataset"], report["seeds"], report["ticket"]["trained"]) == ("digits", [0, 1, 2], [])
    for control in report["controls"].values():
        assert control["n"] == len(control["accuracies"]) == 3
        assert control["mean"] == pytest.approx(sum(control["accuracies"]) / 3)
        assert control["sd"] > 0


def test_the_report_is_about_the_ticket_file(done: Path) -> None:
    file, report = done / "ticket.safetensors", read(done / "report.json")["ticket"]
    ticket = st.load(file)
    assert report["file_bytes"] == file.stat().st_size
    assert report["weights_digest"] == ticket.weights_digest
    kept = sum(int(mask.sum()) for mask in ticket.masks.values())
    assert report["density"] == kept / sum(mask.numel() for mask in ticket.masks.values())


def test_the_test_accuracy_is_that_of_the_ticket_in_a_network_built_by_hand(done: Path) -> None:
    ticket, data = st.load(done / "ticket.safetensors"), load_data("digits")
    # The names of strongticket's own mlp at a tenth of its width.
    layers = {"flatten": nn.Flatten(), "fc1": nn.Linear(64, 30, bias=False), "relu1": nn.ReLU()}
    layers |= {"fc2": nn.Linear(30, 10, bias=False), "relu2": nn.ReLU(), "head": nn.Linear(10, 10, bias=False)}
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    st.apply(ticket, model)
    mean, std = ticket.model["mean"][0], ticket.model["std"][0]
    decisions = model((data.test.images.float() / 255 - mean) / std).argmax(1)  # type: ignore[union-attr]
    accuracy = (decisions == data.test.labels).double().mean()
    assert read(done / "report.json")["ticket"]["test_accuracy"] == pytest.approx(float(accuracy), abs=2 / 359)


def test_the_ticket_is_of_the_best_validation_epoch_and_the_last_is_kept_too(tmp_path: Path) -> None:
    # A rate that overshoots: the best epoch is not the last.
    run = search(tmp_path / "run", "--epochs", "4", "--learning-rate", "30", "--schedule", "constant")
    accuracies = [epoch["validation_accuracy"] for epoch in epochs(run)]
    best, last = st.load(run / "ticket.safetensors"), st.load(run / "ticket-last.safetensors")
    assert (best.provenance["validation_accuracy"], best.provenance["epoch"]) == (
        max(accuracies),
        4 - accuracies[::-1].index(max(accuracies)),
    )
    assert (last.provenance["epoch"], last.provenance["validation_accuracy"]) == (4, accuracies[3])


def test_without_validation_data_the_ticket_is_of_the_last_epoch(tmp_path: Path) -> None:
    run = search(tmp_path / "run", "--validation", "0")
    ticket = st.load(run / "ticket.safetensors")
    assert (ticket.provenance["epoch"], ticket.provenance["validation_accuracy"]) == (2, None)
    assert [epoch["validation_accuracy"] for epoch in epochs(run)] == [None, None]


# What it prints


def test_json_is_one_object_on_stdout_and_progress_is_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search(tmp_path / "run", "--json")
    captured = capsys.readouterr()
    assert json.loads(captured.out) == read(tmp_path / "run" / "report.json")
    lines = captured.err.splitlines()
    assert lines[0] == f"run: {tmp_path / 'run'}"
    assert [line.split()[:3] for line in lines[1:]] == [["epoch", "1/2", "loss"], ["epoch", "2/2", "loss"]]
    assert "images/s" in lines[1]
    assert lines[1].endswith(" left")


def test_the_table_has_the_ticket_its_quick_controls_and_where_it_lies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search(tmp_path / "run")
    output = capsys.readouterr().out
    accuracy = read(tmp_path / "run" / "report.json")["ticket"]["test_accuracy"]
    rows = [line.split()[:2] for line in output.splitlines() if line]
    assert ["ticket", f"{accuracy:.4f}"] in rows
    assert {"random", "untrained"} <= {row[0] for row in rows}
    assert output.splitlines()[-1] == f"ticket: {tmp_path / 'run' / 'ticket.safetensors'}"


@pytest.mark.parametrize(("count", "names"), [(0, set()), (2, {"random", "untrained"})])
def test_a_search_ends_with_as_many_controls_as_are_asked_for(count: int, names: set[str], tmp_path: Path) -> None:
    report = read(search(tmp_path / "run", "--control-seeds", str(count)) / "report.json")
    assert report["seeds"] == list(range(count))
    assert {name: control["n"] for name, control in report["controls"].items()} == dict.fromkeys(names, count)


# That it can be repeated


def test_the_same_command_and_seed_give_the_same_ticket_byte_for_byte(done: Path, tmp_path: Path) -> None:
    again, other = search(tmp_path / "again"), search(tmp_path / "other", "--seed", "1")
    for name in ("ticket.safetensors", "ticket-last.safetensors"):
        assert (again / name).read_bytes() == (done / name).read_bytes()
        assert (other / name).read_bytes() != (done / name).read_bytes()


def test_a_run_repeated_from_its_own_config_gets_a_folder_of_its_own_and_the_same_ticket(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["search", str(done / "config.yaml")]) == 0
    found = tmp_path / "runs" / "mlp-digits-seed0" / "ticket.safetensors"
    assert found.read_bytes() == (done / "ticket.safetensors").read_bytes()
    assert main(["search", str(done / "config.yaml")]) == 0
    assert {run.name for run in (tmp_path / "runs").iterdir()} == {"mlp-digits-seed0", "mlp-digits-seed0-2"}


def test_flags_win_over_the_config_file(tmp_path: Path) -> None:
    config = tmp_path / "recipe.yaml"
    config.write_text("model: mlp\nwidth: 0.1x\nepochs: 1\ndensity: 0.3\nseed: 3\n")
    assert main(["search", str(config), "--density", "0.7", "--out", str(tmp_path / "run")]) == 0
    ticket = st.load(tmp_path / "run" / "ticket.safetensors")
    assert (ticket.seed, round(ticket.density, 3)) == (3, 0.7)


def test_tensorboard_gets_the_metrics_of_every_epoch(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    run = search(tmp_path / "run", "--track", "tensorboard")
    (file,) = (run / "tensorboard").iterdir()
    values = {
        (value.tag, event.step): value.simple_value
        for event in LegacyEventFileLoader(str(file)).Load()
        for value in event.summary.value
    }
    for epoch in epochs(run):
        assert values["validation_accuracy", epoch["epoch"]] == pytest.approx(epoch["validation_accuracy"])
        assert values["loss", epoch["epoch"]] == pytest.approx(epoch["loss"])


def test_tensorboard_that_is_not_installed_is_one_line_with_the_way_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.delattr("torch.utils.tensorboard", raising=False)
    line = refusal(capsys, "search", *TINY, "--track", "tensorboard", "--out", tmp_path / "run")
    assert "pip install 'strongticket[track]'" in line
    assert not (tmp_path / "run").exists()


# Networks and data of the user's own


def test_a_factory_in_the_working_directory_and_an_image_folder_go_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    image_folder(tmp_path / "pictures", classes=("cat", "dog", "owl"))
    # Dropout and a bare parameter draw from torch's global generator: the seed of the run decides them as well.
    write_module(
        tmp_path,
        "users_network",
        "import torch\n"
        "class Scaled(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.scale = nn.Parameter(torch.rand(3))\n"
        "    def forward(self, x):\n"
        "        return x * self.scale\n"
        "def make(num_classes, input_shape):\n"
        "    c, h, w = input_shape\n"
        "    return nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(c * h * w, num_classes), Scaled())\n",
    )
    arguments = ["--model", "users_network:make", "--data", "imagefolder:pictures", "--epochs", "1"]
    for out in ("a", "b"):
        assert main(["search", *arguments, "--out", out]) == 0
    assert Path("a/ticket.safetensors").read_bytes() == Path("b/ticket.safetensors").read_bytes()
    spec = st.load("a/ticket.safetensors").model
    assert (spec["name"], spec["input_shape"], spec["classes"]) == (
        "users_network:make",
        [3, 8, 8],
        ["cat", "dog", "owl"],
    )
    capsys.readouterr()
    assert main(["evaluate", "a", "--controls", "shuffled", "--seeds", "0", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["controls"]) == {"random", "untrained", "shuffled"}
    assert main(["export", "a", "--to", "safetensors", "--out", "a.safetensors"]) == 0
    assert main(["inspect", "a", "--json"]) == 0


def test_inspect_reads_the_run_and_its_ticket_alike(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for place in (done, done / "ticket.safetensors"):
        capsys.readouterr()
        assert main(["inspect", str(place), "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
    assert found[0]["weights_digest"] == read(done / "report.json")["ticket"]["weights_digest"]
    assert found[0]["bits_per_weight"] == pytest.approx(read(done / "report.json")["ticket"]["bits_per_weight"])


# Stopping and going on

LONG = ("--model", "mlp", "--width", "0.1x", "--epochs", "5", "--batch-size", "8")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert main(["search", *LONG, "--out", str(run)]) == 0
    return run


def stop_after_an_epoch(run: Path, number: int) -> tuple[int, str]:
    """Start the long search as a process, send it a signal after its first epoch; return its code and stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "strongticket.cli", "search", *LONG, "--out", str(run)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # As many threads as in this process, since the order of a sum decides its last bit.
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 100
    while not has_checkpoint(run / "checkpoint"):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    _, errors = process.communicate(timeout=100)
    return process.returncode, errors


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGKILL, -signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_goes_on_to_the_ticket_of_an_uninterrupted_one(
    number: int, code: int, uninterrupted: Path, tmp_path: Path
) -> None:
    run = tmp_path / "a run"
    returned, errors = stop_after_an_epoch(run, number)
    assert returned == code
    assert "Traceback" not in errors
    if code > 0:
        last = errors.splitlines()[-1]
        assert last.startswith("error: stopped after ")
        assert last.endswith(f"strongticket search --resume --out '{run}'")
    assert len(epochs(run)) < 5
    assert not (run / "ticket.safetensors").exists()

    assert main(["search", "--resume", "--out", str(run)]) == 0
    for name in ("ticket.safetensors", "ticket-last.safetensors", "report.json", "config.yaml"):
        assert (run / name).read_bytes() == (uninterrupted / name).read_bytes()
    assert [epoch["loss"] for epoch in epochs(run)] == [epoch["loss"] for epoch in epochs(uninterrupted)]
    assert {entry.name for entry in run.iterdir()} == CONTENTS
    assert len(read(run / "environment.json")["resumed"]) == 1


def test_a_run_stopped_while_its_ticket_is_evaluated_is_finished_by_resume(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(command, "evaluate", stop)
        assert main(["search", *TINY, "--out", str(run)]) == 130
    goes_on = f"strongticket search --resume --out {run}"
    assert capsys.readouterr().err.endswith(f"error: stopped; what was done is kept and goes on with: {goes_on}\n")
    assert (run / "checkpoint").exists()
    assert main(["search", *TINY, "--resume", "--out", str(run)]) == 0  # the whole command again goes on as well
    assert read(run / "report.json") == read(done / "report.json")
    assert not (run / "checkpoint").exists()


def test_a_run_killed_before_its_first_checkpoint_begins_anew_and_says_so(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.yaml", "environment.json"):
        shutil.copy(done / name, tmp_path)
    assert main(["search", "--resume", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().err.startswith(f"{tmp_path} holds no checkpoint yet: the search begins anew\n")
    assert (tmp_path / "ticket.safetensors").read_bytes() == (done / "ticket.safetensors").read_bytes()


def test_the_folder_to_resume_may_stand_in_the_config(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("config.yaml", "environment.json"):
        (tmp_path / "run").mkdir(exist_ok=True)
        shutil.copy(done / name, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text("model: mlp\nwidth: 0.1x\nepochs: 2\nout: run\n")
    assert main(["search", "recipe.yaml", "--resume"]) == 0
    assert (tmp_path / "run" / "report.json").exists()


def test_a_finished_run_is_not_resumed(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, "search", "--resume", "--out", done)
    assert line == f"error: the run in {done} is finished; evaluate it, or choose another --out\n"


def test_resume_needs_a_folder_with_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--resume needs --out DIR" in refusal(capsys, "search", "--resume")
    for folder in (tmp_path, tmp_path / "missing"):
        assert f"{folder} holds no run to resume" in refusal(capsys, "search", "--resume", "--out", folder)
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_not_resumed_with_other_options(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(done / "config.yaml", tmp_path)
    line = refusal(capsys, "search", "--resume", "--out", tmp_path, "--seed", "5", "--density", "0.3")
    assert "density (0.5 → 0.3), seed (0 → 5)" in line
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.yaml"]


def test_a_damaged_checkpoint_is_named_and_kept(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(done / "config.yaml", tmp_path)
    (tmp_path / "checkpoint").mkdir()
    file = tmp_path / "checkpoint" / "search.safetensors"
    file.write_bytes(b"cut short")
    assert main(["search", "--resume", "--out", str(tmp_path)]) == 1
    assert f"error: the checkpoint {file} is damaged" in capsys.readouterr().err.splitlines()[-1]
    assert file.read_bytes() == b"cut short"


# Wrong input


WRONG_OPTIONS = [
    (["--model", "conv3"], "unknown model 'conv3'; did you mean conv"),
    (["--model", "torchvision:resnet19"], "torchvision has no image classifier 'resnet19'; close names are resnet"),
    (["--model", "no_such_module:make"], "there is no module 'no_such_module'"),
    (["--data", "digit"], "unknown data 'digit'; did you mean digits?"),
    (["--data", "mnist", "--data-dir", "nowhere"], "mnist is not in nowhere/MNIST/raw"),
    (["--data", "imagefolder:nowhere"], "there is no folder nowhere; an image folder holds train/ and test/"),
    (["--density", "0"], "--density: 0.0 was given; expected a number above 0 and at most 1"),
    (["--density", "1.5"], "--density: 1.5 was given; expected a number above 0 and at most 1"),
    (["--density", "nan"], "--density: nan was given; expected a number above 0 and at most 1"),
    (["--densities", "fc*=0"], "--densities.fc*: 0.0 was given; expected a number above 0 and at most 1"),
    (["--densities", "nothing=0.5"], "density pattern 'nothing' matches no tensor; there are fc1.weight"),
    (["--density", "0.001"], "leaves fc2.weight (300 weights) no edge; the least density that keeps one there is"),
    (["--density", "1e-6", "--scope", "global"], "raise the density or lower the floor"),
    (["--floor", "0.1"], "a floor has an effect in scope 'global' only"),
    (["--width", "0"], "width is '0'; it must be a finite number above 0, such as 4x, 4 or 0.5x"),
    (["--width", "x4y"], "width is 'x4y'; it must be a finite number above 0, such as 4x, 4 or 0.5x"),
    (["--width", "1e9"], "mlp at width 1e+09 cannot be built"),
    (["--model", "torchvision:resnet18", "--width", "2x"], "torchvision:resnet18 has no width, but width 2.0"),
    (["--where", "conv*"], "no tensor matched 'conv*'; this model has fc1.weight, fc2.weight, head.weight"),
    (["--bn", "learned"], "bn 'learned' was asked for, but this model has no batch norm"),
    (["--model", "conv8", "--width", "1"], "images of 8x8 leave no pixel; it needs at least 16x16"),
    (["--batch-size", "1", "--norm", "batch"], "use a larger --batch-size"),
    (["--batch-size", "0"], "--batch-size: 0 was given; expected a whole number at least 1"),
    (["--seed", "-1"], "--seed: -1 was given; expected a whole number at least 0"),
    (["--seed", str(2**64)], f"--seed: {2**64} was given; expected a whole number at least 0 and below {2**64}"),
    (["--image-size", "9"], "image size 9 was asked for, but digits has one size; leave it out"),
]


@pytest.mark.parametrize(("arguments", "part"), WRONG_OPTIONS, ids=[" ".join(wrong) for wrong, _ in WRONG_OPTIONS])
def test_a_wrong_option_is_one_line_and_leaves_nothing(
    arguments: list[str], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # A flag that is given twice has the last value, but a torchvision network takes no width.
    tiny = ["--epochs", "1"] if "torchvision" in str(arguments) else TINY
    assert part in refusal(capsys, "search", *tiny, "--out", "new/run", *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--rule", "edge-pop"], "'edge-pop' is not one of 'edge-popup', 'bernoulli', 'iterand', 'multicoated'"),
        (["--weights", "gaussian"], "'gaussian' is not one of 'signed-constant'"),
        (["--device", "tpu"], "'tpu' is not one of 'auto', 'cpu', 'cuda'"),
        (["--density", "half"], "'half' is not a valid float"),
        (["--epoch", "3"], "--epoch"),
    ],
)
def test_wrong_usage_exits_with_2(
    arguments: list[str], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, "search", "--out", tmp_path / "run", *arguments, code=2)
    assert part in line
    assert "strongticket search --help" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (
            "rule: edge-pop",
            "rule: 'edge-pop' was given in recipe.yaml; expected 'edge-popup', 'bernoulli', 'iterand' or 'multicoated'",
        ),
        ("densty: 0.5", "recipe.yaml: the key 'densty' is unknown (did you mean 'density'?)"),
        ("optimizer: sgd\nmodel:\n  width: 2\n", "model: {'width': 2} was given in recipe.yaml; expected text"),
        ("masks:\n  density: 0.5\n", "recipe.yaml: the key 'masks.density' is unknown; keys are not nested"),
        ("density: .nan", "density: nan was given in recipe.yaml; expected a number above 0 and at most 1"),
        ("coats: 3", "coats is an option of rule 'multicoated', the rule is 'edge-popup'"),
        ("rule: iterand\nredraw_share: 2", "redraw_share 2.0 was given; expected a probability from 0 to 1"),
        ("rule: multicoated\ncoats: 2.5", "coats: 2.5 was given in recipe.yaml; expected a whole number"),
        ("data: digit", "unknown data 'digit'; did you mean digits?"),
    ],
)
def test_a_wrong_config_file_is_one_line_and_leaves_nothing(
    text: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(text)
    assert part in refusal(capsys, "search", "recipe.yaml", "--out", "run")
    assert [entry.name for entry in tmp_path.iterdir()] == ["recipe.yaml"]


def test_a_config_that_is_not_there_is_named_with_those_that_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, "search", tmp_path / "recipe.yaml")
    assert f"config '{tmp_path / 'recipe.yaml'}' does not exist" in line
    assert "cifar10-conv4" in line


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (
            "def make():\n    return nn.Sequential(nn.AdaptiveAvgPool2d((1, 10)), nn.Flatten())",
            "this model has no weight to mask",
        ),
        (
            "def make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(10, 10))",
            "does not take images of shape 1x8x8",
        ),
        ("def make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))", "the data has 10 classes"),
        ("def make():\n    return 3", "returned a int; a factory must return a torch.nn.Module"),
        ("def make():\n    raise ValueError('no')", "raised ValueError: no"),
        ("def other():\n    pass", "has no 'make'"),
        (
            "class Two(nn.Module):\n"
            "    def __init__(self):\n"
            "        super().__init__()\n"
            "        self.head = nn.Linear(64, 10)\n"
            "    def forward(self, x):\n"
            "        out = self.head(x.flatten(1))\n"
            "        return (out, out) if self.training else out\n"
            "make = Two",
            "returns a tuple in training",
        ),
        (
            "class Bad(nn.Module):\n"
            "    def __init__(self):\n"
            "        super().__init__()\n"
            "        self.head = nn.Linear(64, 10)\n"
            "    def forward(self, x):\n"
            "        assert not self.training, 'only for use'\n"
            "        return self.head(x.flatten(1))\n"
            "make = Bad",
            "cannot be trained on batches of 2 images: only for use",
        ),
    ],
)
def test_a_network_that_cannot_be_searched_is_one_line_and_leaves_nothing(
    body: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"wrong_{abs(hash(body))}"  # a module of its own, since Python imports each name once
    write_module(tmp_path, name, body)
    line = refusal(capsys, "search", "--model", f"{name}:make", "--epochs", "1", "--out", "run")
    assert part in line
    assert not (tmp_path / "run").exists()


def test_an_empty_class_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = image_folder(tmp_path / "pictures")
    for image in (root / "train" / "dog").iterdir():
        image.unlink()
    line = refusal(capsys, "search", *TINY, "--data", f"imagefolder:{root}", "--out", tmp_path / "run")
    assert f"no images in the class folder {root / 'train' / 'dog'}" in line
    assert not (tmp_path / "run").exists()


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = image_folder(tmp_path / "pictures")
    broken = root / "train" / "dog" / "3.png"
    broken.write_bytes(broken.read_bytes()[:40])
    line = refusal(capsys, "search", *TINY, "--data", f"imagefolder:{root}", "--out", tmp_path / "run")
    assert f"cannot read the image {broken}" in line
    assert "repair or remove it" in line
    assert not (tmp_path / "run").exists()


def test_images_of_two_sizes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = image_folder(tmp_path / "pictures")
    image_folder(tmp_path / "larger", size=9)
    shutil.copy(tmp_path / "larger" / "train" / "dog" / "0.png", root / "train" / "dog" / "0.png")
    line = refusal(capsys, "search", *TINY, "--data", f"imagefolder:{root}", "--out", tmp_path / "run")
    assert "--image-size N" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_where_there_is_none_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, "search", "--device", "cuda", "--data", "imagefolder:nowhere", "--out", tmp_path / "run")
    assert "device 'cuda' was asked for, but torch sees no CUDA device here; use 'cpu' or 'auto'" in line
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_another_run_is_left_as_it_is(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file.name: file.read_bytes() for file in done.iterdir()}
    line = refusal(capsys, "search", *TINY, "--seed", "1", "--out", done)
    assert line == f"error: {done} holds another run; go on with it by --resume, or choose another --out\n"
    assert {file.name: file.read_bytes() for file in done.iterdir()} == before


def test_a_folder_with_other_files_or_a_file_is_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for place in (tmp_path, tmp_path / "thesis.txt"):
        line = refusal(capsys, "search", *TINY, "--out", place)
        assert line == f"error: {place} is not an empty folder; choose another --out\n"
    line = refusal(capsys, "search", *TINY, "--out", tmp_path / "thesis.txt" / "run")
    assert f"the run folder {tmp_path / 'thesis.txt' / 'run'} cannot be written: Not a directory" in line
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("thesis.txt", "mine")]


def test_a_folder_that_may_not_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Raised by hand, since permissions do not stop the superuser.
    def refuse(path: Path, *arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    line = refusal(capsys, "search", *TINY, "--out", tmp_path / "run")
    assert f"the run folder {tmp_path / 'run'} cannot be written: Permission denied" in line
    assert "choose another --out" in line


def test_no_space_for_the_first_file_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with file_size_limit(100):
        line = refusal(capsys, "search", *TINY, "--out", tmp_path / "new" / "run")
    assert f"the run folder {tmp_path / 'new' / 'run'} cannot be written: File too large; make room" in line
    assert list(tmp_path.iterdir()) == []


def test_no_space_before_the_first_checkpoint_leaves_nothing_and_the_next_attempt_works(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with file_size_limit(2500):  # enough for the options, not for a ticket
        assert main(["search", *TINY, "--out", str(tmp_path / "run")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1].startswith("error: ")
    assert "File too large" in captured.err
    assert list(tmp_path.iterdir()) == []
    search(tmp_path / "run")
    assert (tmp_path / "run" / "ticket.safetensors").read_bytes() == (done / "ticket.safetensors").read_bytes()


def test_a_search_that_diverges_says_what_to_change_and_does_not_block_the_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", *TINY, "--learning-rate", "1e30", "--out", str(tmp_path / "run")]) == 1
    assert "lower the learning rate" in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_the_check_for_refusals_fails_on_a_command_that_works(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AssertionError):
        refusal(capsys, "list", "models")
    with pytest.raises(AssertionError):
        refusal(capsys, "search", "--density", "half")  # refused, but not with exit code 1
