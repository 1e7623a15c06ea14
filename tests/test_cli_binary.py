"""Multi-prize tickets by the command line: found, reported, evaluated, inspected, exported, and refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from cli_runs import TINY, image_folder, refusal, search
from ticket_files import apart, forged
from torch import nn

import strongticket as st
from strongticket.cli import main
from strongticket.cli.assembly import Assembly, assemble
from strongticket.cli.config import load_config
from strongticket.data import sources, streaming
from strongticket.weights import BinaryActivation

BOTH = ("--binary", "weights+activations")
QUICK = ("--seeds", "0", "--controls", "random")
OWN_NETWORK = """
from torch import nn
from torch.nn import functional as F


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(64, 20), nn.BatchNorm1d(20), nn.Linear(20, 10)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.head(self.act(self.norm(self.first(x.flatten(1)))))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(64, 20), nn.Linear(20, 10)

    def forward(self, x):
        return self.head(F.relu(self.first(x.flatten(1))))


def without():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.Linear(20, 10))
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with binary weights, a gain for each channel; no test changes it."""
    return search(
        tmp_path_factory.mktemp("weights") / "run",
        *("--binary", "weights", "--gain", "channel", "--weights", "kaiming-normal", "--density", "0.4"),
    )


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with binary weights and activations and learned batch norm; no test changes it."""
    return search(tmp_path_factory.mktemp("both") / "run", *BOTH, "--bn", "learned", "--weights", "kaiming-uniform")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's in the working directory, by name; Python imports each name once."""
    monkeypatch.chdir(tmp_path)
    name = f"own_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(OWN_NETWORK)
    return name


def report_of(run: Path) -> Any:
    return json.loads((run / "report.json").read_text("utf-8"))


def lines_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    """Run a command that works and return its output, line by line, with single spaces."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 0
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def json_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    return json.loads("\n".join(lines_of(capsys, *arguments, "--json")))


def layers(report: Any) -> dict[str, tuple[str, str]]:
    return {layer["name"]: (layer["weights"], layer["inputs"]) for layer in report["layers"]}


# What is found


def test_binary_weights_have_one_magnitude_in_each_channel(weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    assert main(["export", str(weights), "--to", "safetensors", "--out", str(out)]) == 0
    ticket = st.load(weights / "ticket.safetensors")
    assert (ticket.binary.gain, dict(ticket.binary.activations)) == ("channel", {})
    for name, weight in safetensors.torch.load_file(out).items():
        mask = ticket.masks[name].numpy()
        for row, kept in zip(weight.numpy(), mask, strict=True):
            assert ((row != 0) == kept).all()
            assert len(np.unique(np.abs(row[kept]))) == 1
        assert len(np.unique(np.abs(weight.numpy()[mask]))) > 1


def test_binary_weights_are_reported_with_real_inputs(weights: Path) -> None:
    report = report_of(weights)
    assert layers(report) == dict.fromkeys(("fc1.weight", "fc2.weight", "head.weight"), ("binary", "real"))
    assert all(len(layer["gain"]) == 2 for layer in report["layers"])
    assert report["prizes"]["bits"] == {"weight": 1, "activation": 32, "layers": 3, "layers_with_binary_inputs": 0}


def test_binary_activations_are_reported_with_what_was_trained(both: Path) -> None:
    report, ticket = report_of(both), st.load(both / "ticket.safetensors")
    assert layers(report) == {
        "fc1.weight": ("binary", "real"),
        "fc2.weight": ("binary", "binary"),
        "head.weight": ("binary", "binary"),
    }
    assert dict(ticket.binary.activations) == {"sign_fc1": "bi-real", "sign_fc2": "bi-real"}
    assert ticket.model["activation"] == "binary"
    trained = ["norm_fc1.weight", "norm_fc1.bias", "norm_fc2.weight", "norm_fc2.bias"]
    assert report["ticket"]["trained"] == list(ticket.trained) == trained
    assert report["prizes"] == {
        "accuracy": {"ticket": report["ticket"]["test_accuracy"], "trained": None, "difference": None},
        "weights": {"digest": ticket.weights_digest, "unchanged": True},
        "bits": {"weight": 1, "activation": 1, "layers": 3, "layers_with_binary_inputs": 2},
    }


def test_the_ticket_is_as_accurate_as_a_network_of_signs_written_by_hand(both: Path) -> None:
    ticket = st.load(both / "ticket.safetensors")
    images = assemble(load_config(str(both / "config.yaml"))).fitted_to(ticket).test()
    inputs, labels = (torch.cat(part) for part in zip(*images, strict=True))
    found = st.bake(st.apply(ticket, assemble(load_config(str(both / "config.yaml"))).model())).state_dict()
    values = inputs.flatten(1)
    for layer in ("fc1", "fc2"):
        values = values @ found[f"{layer}.weight"].T
        mean, variance = found[f"norm_{layer}.running_mean"], found[f"norm_{layer}.running_var"]
        scale, shift = found[f"norm_{layer}.weight"], found[f"norm_{layer}.bias"]
        values = torch.where((values - mean) / (variance + 1e-5).sqrt() * scale + shift < 0, -1.0, 1.0)
    decisions = (values @ found["head.weight"].T).argmax(1)
    accuracy = float((decisions == labels).double().mean())
    assert report_of(both)["ticket"]["test_accuracy"] == pytest.approx(accuracy, abs=2 / len(labels))
    assert accuracy > 0.3


def test_activations_are_chosen_by_name_with_their_gradient(tmp_path: Path) -> None:
    options = (*BOTH, "--activations", "*_fc2", "--activation-gradient", "clipped-identity", "--epochs", "1")
    run = search(tmp_path / "run", *options)
    ticket = st.load(run / "ticket.safetensors")
    assert dict(ticket.binary.activations) == {"relu_fc2": "clipped-identity"}
    assert (ticket.model["activation"], ticket.model["norm"]) == (None, None)
    assert {name: inputs for name, (_, inputs) in layers(report_of(run)).items()} == {
        "fc1.weight": "real",
        "fc2.weight": "real",
        "head.weight": "binary",
    }


def test_global_scope_with_ramp_and_floor_leaves_no_layer_dead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ramp = ("--density-schedule", "cubic", "--density-epochs", "1", "--floor", "0.005")
    network = ("--model", "conv2", "--width", "0.25x")
    run = search(tmp_path / "run", *network, *BOTH, "--scope", "global", "--density", "0.02", *ramp)
    total = 16 * 9 + 16 * 16 * 9 + 64 * 256 + 64 * 64 + 10 * 64
    ticket = st.load(run / "ticket.safetensors")
    assert (ticket.kept, ticket.total) == (round(0.02 * total), total)
    for name, mask in ticket.masks.items():
        assert int(mask.sum()) >= max(1, int(0.005 * mask.numel())), name
    assert [json.loads(line)["density"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [
        pytest.approx(0.02, rel=0.01)
    ] * 2
    table = lines_of(capsys, "inspect", run)
    assert any(line.startswith(f"all masks {ticket.kept} {total:,} 0.0200 ") for line in table)
    assert {inputs for name, (_, inputs) in layers(report_of(run)).items() if name != "conv1.weight"} == {"binary"}


def test_the_same_command_gives_the_same_binary_ticket(both: Path, tmp_path: Path) -> None:
    again = search(tmp_path / "again", *BOTH, "--bn", "learned", "--weights", "kaiming-uniform")
    assert (again / "ticket.safetensors").read_bytes() == (both / "ticket.safetensors").read_bytes()


# What it is worth


def test_the_three_prizes_have_a_row_each_once_the_trained_network_is_measured(
    both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, dense, build = Path(shutil.copytree(both, tmp_path / "run")), [], Assembly.dense_model

    def noted(parts: Assembly) -> nn.Module:
        dense.append(build(parts))
        return dense[-1]

    monkeypatch.setattr(Assembly, "dense_model", noted)
    lines = lines_of(capsys, "evaluate", run, "--controls", "trained,random", "--seeds", "0")
    report = report_of(run)
    assert len(dense) == 1  # the real-valued network, trained once
    accuracy, trained = report["ticket"]["test_accuracy"], report["controls"]["trained"]["mean"]
    assert report["prizes"]["accuracy"] == {
        "ticket": accuracy,
        "trained": trained,
        "difference": pytest.approx(accuracy - trained),
    }
    first = lines.index("prize") + 2
    assert lines[first : first + 5] == [
        f"accuracy {accuracy:.4f} trained dense network: {trained:.4f}, difference {accuracy - trained:+.4f}",
        f"no weight trained unchanged SHA-256 {report['ticket']['weights_digest'][:16]}…",
        "binary 1/1 bits a weight/an activation; 2 of 3 layers read ±1",
        "real weights: none",
        "real inputs: fc1.weight",
    ]
    # What is measured later leaves the first prize as it is.
    assert json_of(capsys, "evaluate", run, *QUICK)["prizes"] == report["prizes"]


def test_the_prizes_are_printed_by_search_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    lines = lines_of(capsys, "search", *TINY, "--epochs", "1", "--binary", "weights", "--out", run)
    accuracy = report_of(run)["ticket"]["test_accuracy"]
    assert f"accuracy {accuracy:.4f} trained dense network: not measured: --controls trained" in lines
    assert "binary 1/32 bits a weight/an activation; 0 of 3 layers read ±1" in lines
    assert "real inputs: fc1.weight, fc2.weight, head.weight" in lines


def test_of_an_ordinary_ticket_no_prize_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    lines = lines_of(capsys, "search", *TINY, "--epochs", "1", "--out", run)
    lines += lines_of(capsys, "evaluate", run, *QUICK)
    assert not any("prize" in line or "real inputs" in line or "±1" in line for line in lines)
    assert set(layers(report_of(run)).values()) == {("real", "real")}


@pytest.mark.parametrize(
    ("arguments", "norms"),
    [(BOTH, 2), ((*BOTH, "--norm", "none"), 0), ((*BOTH, "--activations", "*"), 0), (("--binary", "weights"), 0)],
)
def test_the_network_that_is_trained_for_comparison_is_real_and_of_the_same_shape(
    arguments: tuple[str, ...], norms: int
) -> None:
    options = dict(zip((flag[2:] for flag in arguments[::2]), arguments[1::2], strict=True))
    if "activations" in options:
        options |= {"activations": ("*",)}  # type: ignore[dict-item]
    parts = assemble(load_config(None, {"model": "mlp", "width": "0.1x", **options}))
    model, dense = parts.model(), parts.dense_model()
    assert not any(isinstance(module, BinaryActivation) for module in dense.modules())
    assert sum(isinstance(module, nn.ReLU) for module in dense.modules()) == 2
    assert sum(isinstance(module, nn.BatchNorm1d) for module in dense.modules()) == norms
    shapes = [{name: value.shape for name, value in each.state_dict().items()} for each in (model, dense)]
    assert shapes[0] == shapes[1]


def test_a_run_whose_config_names_other_activations_is_refused(
    both: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(both, tmp_path / "run"))
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("binary: weights+activations", "binary: weights"))
    assert "this ticket is of another network" in refusal(capsys, "evaluate", run, *QUICK)


def test_a_ticket_of_format_1_is_evaluated_inspected_and_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = search(tmp_path / "run", "--epochs", "1")
    found = st.load(run / "ticket.safetensors")
    # What a release that knew of no binary networks wrote: neither the key of the network nor those of the options.
    del found.model["activation"]  # type: ignore[attr-defined]
    for key in ("binary", "activations", "activation_gradient", "weight_gain"):
        del found.provenance["config"][key]
    (tmp_path / "old").write_bytes(forged(*apart(found, 1)))
    old = json_of(capsys, "evaluate", tmp_path / "old", *QUICK)
    new = report_of(run)
    assert old["ticket"] == {**new["ticket"], "file_bytes": old["ticket"]["file_bytes"]}
    assert set(layers(old).values()) == {("real", "real")}
    assert set(layers(json_of(capsys, "inspect", tmp_path / "old")).values()) == {("real", "real")}
    lines_of(capsys, "export", tmp_path / "old", "--to", "safetensors", "--out", tmp_path / "model")


# Inspection and export


def test_inspect_tells_what_is_binary_what_is_real_and_what_was_trained(
    both: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json_of(capsys, "inspect", both)
    assert found["layers"] == report_of(both)["layers"]
    assert found["binary"] == {"gain": "layer", "activations": {"sign_fc1": "bi-real", "sign_fc2": "bi-real"}}
    lines = lines_of(capsys, "inspect", both)
    for layer in found["layers"]:
        (gain,) = layer["gain"]
        row = next(line for line in lines if line.startswith(layer["name"]))
        assert row.endswith(f" ± {gain:.4g} {layer['inputs']}")
    assert "outputs: real" in lines
    assert "trained besides scores: norm_fc1.weight, norm_fc1.bias, norm_fc2.weight, norm_fc2.bias" in lines


def test_a_ticket_with_binary_weights_goes_to_onnx(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    report = json_of(capsys, "export", weights, "--to", "onnx", "--out", tmp_path / "model.onnx")
    assert report["max_difference"] < 1e-4
    batch = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    ticket = st.load(weights / "ticket.safetensors")
    expected = st.apply(ticket, assemble(load_config(str(weights / "config.yaml"))).model())(batch)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
    np.testing.assert_allclose(outputs, expected.numpy(), rtol=1e-4, atol=1e-5)


# Networks of others


def test_a_factory_with_activation_modules_goes_end_to_end(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "--model", f"{own}:Own", "--epochs", "1", *BOTH, "--out", "run"]) == 0
    run = Path("run")
    assert layers(report_of(run)) == {"first.weight": ("binary", "real"), "head.weight": ("binary", "binary")}
    report = json_of(capsys, "evaluate", run, "--controls", "trained,random", "--seeds", "0")
    assert report["prizes"]["accuracy"]["trained"] == report["controls"]["trained"]["mean"]
    assert report["prizes"]["bits"] == {"weight": 1, "activation": 1, "layers": 2, "layers_with_binary_inputs": 1}
    found = json_of(capsys, "inspect", run)
    assert found["binary"]["activations"] == {"act": "bi-real"}
    assert set(layers(found).values()) == {("binary", "not seen")}
    lines_of(capsys, "export", run, "--to", "safetensors", "--out", "model")
    assert main(["search", "--model", f"{own}:without", "--epochs", "1", "--binary", "weights", "--out", "other"]) == 0


@pytest.mark.slow
def test_a_network_of_torchvision_gets_binary_activations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = image_folder(tmp_path / "pictures", size=64)  # the last average is over 2x2 signs
    run = tmp_path / "run"
    arguments = ("--model", "torchvision:resnet18", "--data", f"imagefolder:{root}", "--epochs", "1", "--out", run)
    lines_of(capsys, "search", *arguments, *BOTH)
    found = {name: inputs for name, (_, inputs) in layers(report_of(run)).items()}
    # The stem reads the image, the last layer an average; between them all read signs, the shortcuts included.
    assert {name for name, inputs in found.items() if inputs == "real"} == {"conv1.weight", "fc.weight"}
    assert found["layer2.0.downsample.0.weight"] == found["layer4.1.conv2.weight"] == "binary"
    assert json_of(capsys, "inspect", run)["layers"] == report_of(run)["layers"]


# Wrong input

WRONG = [
    (["--gain", "channel"], "gain 'channel' was given, but weights are not binary; add binary 'weights'"),
    (["--activations", "relu*"], "activations are not binary; add binary 'weights+activations', or leave it out"),
    (["--binary", "weights", "--activations", "relu*"], "activations are not binary; add binary 'weights+activations'"),
    (
        ["--binary", "weights", "--activation-gradient", "bi-real"],
        "'bi-real' was given, but activations are not binary",
    ),
    ([*BOTH, "--activations", "nothing*"], "no activation matched 'nothing*'; this model has relu_fc1, relu_fc2"),
    ([*BOTH, "--activations", "fc1"], "no activation matched 'fc1'; this model has relu_fc1, relu_fc2"),
    (["--weight-gain", "0"], "--weight-gain: 0.0 was given; expected a number above 0"),
    (["--workers", "-1"], "--workers: -1 was given; expected a whole number at least 0"),
    (["--binary", "weights", "--bn", "learned"], "bn 'learned' was asked for, but this model has no batch norm"),
]


@pytest.mark.parametrize(("arguments", "part"), WRONG, ids=[" ".join(wrong) for wrong, _ in WRONG])
def test_a_wrong_choice_is_one_line_and_leaves_nothing(
    arguments: list[str], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert part in refusal(capsys, "search", *TINY, "--out", "run", *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--binary", "weights+activation"], "'weights+activation' is not one of 'none', 'weights', 'weights+activat"),
        (["--gain", "2.0"], "'2.0' is not one of 'layer', 'channel'"),
        (["--activation-gradient", "relu"], "'relu' is not one of 'bi-real', 'clipped-identity'"),
    ],
)
def test_a_choice_that_there_is_not_exits_with_2(
    arguments: list[str], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert part in refusal(capsys, "search", "--out", tmp_path / "run", *arguments, code=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("gain: 2.0", "gain: 2.0 was given in recipe.yaml; expected 'layer' or 'channel'"),
        ("gain: channel", "gain 'channel' was given, but weights are not binary; add binary 'weights'"),
        ("binary: [weights]", "binary: ['weights'] was given in recipe.yaml; expected 'none', 'weights' or"),
    ],
)
def test_a_wrong_config_file_is_one_line_and_leaves_nothing(
    text: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(f"model: mlp\nwidth: 0.1x\n{text}\n")
    assert part in refusal(capsys, "search", "recipe.yaml", "--out", "run")
    assert [entry.name for entry in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.parametrize(
    ("network", "arguments", "parts"),
    [
        ("Functional", (), ("Functional calls relu", "self.relu = nn.ReLU()")),
        ("Functional", ("--activations", "relu*"), ("Functional calls relu", "self.relu = nn.ReLU()")),
        ("without", (), ("no activation module such as nn.ReLU; add some",)),
        ("without", ("--activations", "*"), ("no activation matched '*'; this model has no activation module",)),
        ("Own", ("--activations", "first"), ("no activation matched 'first'; this model has act",)),
    ],
)
def test_a_network_without_activation_modules_is_told_what_to_do(
    network: str, arguments: tuple[str, ...], parts: tuple[str, ...], own: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--epochs", "1", *BOTH, *arguments, "--out", "run")
    line = refusal(capsys, "search", "--model", f"{own}:{network}", *options)
    for part in parts:
        assert part in line
    assert not Path("run").exists()


# Workers


def test_images_on_disk_are_read_by_as_many_processes_as_asked_for_and_the_ticket_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    loader = streaming.DataLoader

    def note(*arguments: Any, num_workers: int, **options: Any) -> Any:
        asked.append(num_workers)
        return loader(*arguments, num_workers=0, **options)

    monkeypatch.setitem(sources.load.__kwdefaults__, "memory_limit", 1000)  # type: ignore[arg-type]
    monkeypatch.setattr(streaming, "DataLoader", note)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(5), raising=False)
    root = image_folder(tmp_path / "pictures")
    tickets = []
    for typed, expected in (((), 5), (("--workers", "0"), 0), (("--workers", "3"), 3)):
        asked.clear()
        options = ("--data", f"imagefolder:{root}", "--image-size", "8", "--epochs", "1")
        run = search(tmp_path / f"run{expected}", *options, *typed)
        assert set(asked) == {expected}
        tickets.append((run / "ticket.safetensors").read_bytes())
    assert tickets[0] == tickets[1] == tickets[2]
    assert "workers" not in st.load(run / "ticket.safetensors").provenance["config"]
