from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import strongticket as st
from strongticket.cli import main
from strongticket.models import build
from strongticket.weights import digest


@pytest.fixture
def ticket(tmp_path: Path) -> Path:
    """A ticket of 4·8 + 8·3 masked weights of which 8 and 6 are kept, and a frozen layer without a mask."""
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3), nn.Linear(3, 2))
    st.attach(model, density=0.25, seed=7, where=["0.weight", "2.weight"])
    found = st.extract(model, model_spec={"name": "mlp", "classes": ["a", "b"]}, provenance={"epoch": 3})
    file = tmp_path / "ticket.safetensors"
    st.save(found, file)
    return file


def facts(place: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["inspect", str(place), "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    found: dict[str, Any] = json.loads(captured.out)
    return found


def test_counts_and_densities_are_exact(ticket: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(ticket, capsys)
    assert (found["kept"], found["total"], found["density"]) == (14, 56, 0.25)
    table = {tensor["name"]: tensor for tensor in found["tensors"]}
    assert {name: (t["shape"], t["kept"], t["total"], t["masked"]) for name, t in table.items()} == {
        "0.weight": ([8, 4], 8, 32, True),
        "2.weight": ([3, 8], 6, 24, True),
        "3.weight": ([2, 3], 6, 6, False),
    }


def test_bits_stand_beside_the_entropy_of_the_density(ticket: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(ticket, capsys)
    entropy = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert found["entropy_bound"] == pytest.approx(entropy)
    # Masks this small are stored as packed bits: 4 and 3 bytes for 32 and 24 edges.
    assert found["bits_per_weight"] == 1.0
    assert found["tensors"][0]["bits_per_weight"] == 1.0
    assert found["tensors"][2]["bits_per_weight"] == found["tensors"][2]["entropy_bound"] == 0.0


def test_a_sparse_mask_takes_hardly_more_than_its_entropy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Linear(1000, 200, bias=False)
    st.attach(model, density=0.1)
    st.save(st.extract(model), tmp_path / "t")
    found = facts(tmp_path / "t", capsys)
    assert found["entropy_bound"] == pytest.approx(0.469, abs=1e-3)
    assert found["entropy_bound"] < found["bits_per_weight"] < 1.05 * found["entropy_bound"]
    assert found["ratio"] > 50


def test_sizes_are_those_of_the_file_and_of_float32(ticket: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(ticket, capsys)
    assert found["file_bytes"] == ticket.stat().st_size
    # 32 + 24 + 6 drawn weights, and the running mean and variance of 8 channels
    assert found["dense_bytes"] == 4 * (62 + 16)
    assert found["ratio"] == found["dense_bytes"] / found["file_bytes"]


def test_the_origin_is_told(ticket: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, loaded = facts(ticket, capsys), st.load(ticket)
    assert found["seed"] == 7
    assert found["law"]["kind"] == "signed-constant"
    assert found["weights_digest"] == loaded.weights_digest
    assert found["masks_digest"] == digest(loaded.masks)
    assert (found["model"], found["provenance"]) == ({"name": "mlp", "classes": ["a", "b"]}, {"epoch": 3})
    assert (found["trained"], found["file"]) == ([], str(ticket))


def test_learned_affine_parameters_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    st.attach(model, bn="learned")
    st.save(st.extract(model), tmp_path / "t")
    assert facts(tmp_path / "t", capsys)["trained"] == ["1.weight", "1.bias"]
    main(["inspect", str(tmp_path / "t")])
    assert "trained besides scores: 1.weight, 1.bias" in capsys.readouterr().out


def test_a_run_is_its_ticket(ticket: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert facts(ticket.parent, capsys) == facts(ticket, capsys)


def test_the_table_has_a_line_for_each_tensor_and_one_for_all(ticket: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(ticket)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    # The ticket names a network that it is not of, so that nobody sees what its layers read.
    assert ["0.weight", "8×4", "8", "32", "0.2500", "1.0000", "0.8113", "real", "not", "seen"] in lines
    assert ["3.weight", "2×3", "6", "6", "1.0000", "no", "mask", "real", "not", "seen"] in lines
    assert ["all", "masks", "14", "56", "0.2500", "1.0000", "0.8113"] in lines
    assert ["seed:", "7"] in lines
    assert ["trained", "besides", "scores:", "nothing"] in lines


# What is binary

SPEC = {"name": "mlp", "width": 0.1, "norm": "batch", "input_shape": [1, 8, 8], "classes": list("0123456789")}


def mlp(folder: Path, spec: dict[str, Any], **options: Any) -> Path:
    """The file of a ticket of a built-in network."""
    model = build("mlp", input_shape=(1, 8, 8), classes=10, width=0.1, norm="batch", activation=spec.get("activation"))
    st.attach(model, **options)
    st.save(st.extract(model, model_spec=spec), folder / "mlp")
    return folder / "mlp"


def test_an_ordinary_ticket_is_real_throughout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = mlp(tmp_path, SPEC)
    found = facts(file, capsys)
    assert found["binary"] == {"gain": None, "activations": {}}
    assert [layer["name"] for layer in found["layers"]] == ["fc1.weight", "fc2.weight", "head.weight"]
    assert {(layer["weights"], layer["inputs"], *layer["gain"]) for layer in found["layers"]} == {("real", "real")}
    main(["inspect", str(file)])
    assert "±" not in capsys.readouterr().out


@pytest.mark.parametrize("built", [True, False])
def test_binary_layers_and_real_inputs_are_told(
    built: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"binary": "weights+activations", "bn": "learned"}
    file = mlp(tmp_path, {**SPEC, "activation": "binary"} if built else SPEC, **options)
    word = "sign" if built else "relu"
    found = facts(file, capsys)
    assert found["binary"] == {"gain": "layer", "activations": {f"{word}_fc1": "bi-real", f"{word}_fc2": "bi-real"}}
    # A signed constant: ±√2/√fan_in
    gains = {"fc1.weight": math.sqrt(2 / 64), "fc2.weight": math.sqrt(2 / 30), "head.weight": math.sqrt(2 / 10)}
    assert {layer["name"]: layer["gain"] for layer in found["layers"]} == {
        name: [pytest.approx(gain, rel=1e-6)] for name, gain in gains.items()
    }
    assert [layer["inputs"] for layer in found["layers"]] == ["real", "binary", "binary"]
    assert found["trained"] == ["norm_fc1.weight", "norm_fc1.bias", "norm_fc2.weight", "norm_fc2.bias"]

    assert main(["inspect", str(file)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert any(line.startswith("fc1.weight 30×64 960 ") and line.endswith(" ± 0.1768 real") for line in lines)
    assert any(line.startswith("head.weight 10×10 50 ") and line.endswith(" ± 0.4472 binary") for line in lines)
    assert "outputs: real" in lines
    assert f"activations of ±1, with their gradients: {word}_fc1 bi-real, {word}_fc2 bi-real" in lines
    assert f"trained besides scores: {', '.join(found['trained'])}" in lines


def test_gains_by_channel_are_told_from_the_least_to_the_largest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = mlp(tmp_path, SPEC, binary="weights", gain="channel", weights="kaiming-normal", where="head.weight")
    found = facts(file, capsys)
    least, largest = found["layers"][2]["gain"]
    assert 0 < least < largest
    assert [layer["weights"] for layer in found["layers"]] == ["real", "real", "binary"]
    main(["inspect", str(file)])
    assert f"± {least:.4g} to {largest:.4g}" in capsys.readouterr().out


def test_a_network_of_the_users_own_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trap.py").write_text("open('ran', 'w').close()\n")
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), nn.Linear(3, 2))
    st.attach(model, binary="weights+activations", where=["0.weight", "2.weight"], weights="kaiming-normal")
    st.save(st.extract(model, model_spec={**SPEC, "name": "trap:make"}), tmp_path / "t")
    found = facts(tmp_path / "t", capsys)
    assert [(layer["weights"], layer["inputs"], layer["gain"]) for layer in found["layers"]] == [
        ("binary", "not seen", []),
        ("binary", "not seen", []),
        ("real", "not seen", []),
    ]
    main(["inspect", str(tmp_path / "t")])
    assert not (tmp_path / "ran").exists()
    lines = capsys.readouterr().out.splitlines()
    assert "activations of ±1, with their gradients: 1 bi-real" in lines
    assert any(line.split()[-3:] == ["binary", "not", "seen"] for line in lines)


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"name": "my own network"},
        {"name": "mlp"},
        {**SPEC, "width": 0.2},
        {**SPEC, "width": "wide"},
        {**SPEC, "norm": ["batch"]},
        {**SPEC, "activation": "binary"},
        {**SPEC, "input_shape": [1, 8]},
        {**SPEC, "input_shape": "188"},
        {**SPEC, "input_shape": [1.5, 8, 8]},
        {**SPEC, "name": "torchvision:resnet18"},
    ],
)
def test_a_ticket_that_is_not_of_the_network_it_names_is_shown_all_the_same(
    spec: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = facts(mlp(tmp_path, SPEC), capsys)
    st.save(replace(st.load(tmp_path / "mlp"), model=spec), tmp_path / "other")
    other = facts(tmp_path / "other", capsys)
    assert {layer["inputs"] for layer in found["layers"]} == {"real"}
    assert {layer["inputs"] for layer in other["layers"]} == {"not seen"}
    assert other["tensors"] == found["tensors"]


@pytest.mark.parametrize("network", ["own", "built in"])
def test_inspection_leaves_the_file_and_the_generators_alone(
    network: str, ticket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ticket = ticket if network == "own" else mlp(tmp_path, SPEC)
    before, state = ticket.read_bytes(), torch.get_rng_state()
    assert main(["inspect", str(ticket)]) == 0
    capsys.readouterr()
    assert ticket.read_bytes() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_no_ticket_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("not a ticket")
    for place in (tmp_path / "text", tmp_path / "missing", tmp_path):
        assert main(["inspect", str(place)]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert len(captured.err.splitlines()) == 1
        assert str(place) in captured.err
        assert "bug" not in captured.err
