from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import strongticket as st
from strongticket.cli import main
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
    assert ["0.weight", "8×4", "8", "32", "0.2500", "1.0000", "0.8113"] in lines
    assert ["3.weight", "2×3", "6", "6", "1.0000", "no", "mask"] in lines
    assert ["all", "masks", "14", "56", "0.2500", "1.0000", "0.8113"] in lines
    assert ["seed:", "7"] in lines
    assert ["trained", "besides", "scores:", "nothing"] in lines


def test_inspection_leaves_the_file_and_the_generators_alone(ticket: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, state = ticket.read_bytes(), torch.get_rng_state()
    main(["inspect", str(ticket)])
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
