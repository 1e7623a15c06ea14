from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from cli_runs import image_folder, refusal, search
from torch import nn

import strongticket as st
from strongticket.cli import main
from strongticket.models import build


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; no test changes it."""
    return search(tmp_path_factory.mktemp("export") / "run")


def network_of(ticket: Path) -> nn.Module:
    """The network of a tiny run's ticket, without this command line."""
    return st.bake(st.apply(st.load(ticket), build("mlp", input_shape=(1, 8, 8), classes=10, width=0.1)))


def test_safetensors_holds_the_baked_weights_under_their_ordinary_names(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.safetensors"
    assert main(["export", str(done), "--to", "safetensors", "--out", str(out)]) == 0
    found, expected = safetensors.torch.load_file(out), network_of(done / "ticket.safetensors").state_dict()
    assert set(found) == set(expected) == {"fc1.weight", "fc2.weight", "head.weight"}
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    printed = capsys.readouterr().out
    assert printed.startswith(f"{out}: {out.stat().st_size:,} bytes; largest difference from torch 0 over ")
    assert "100.00% equal decisions" in printed


def test_onnx_computes_what_torch_computes_and_says_how_closely(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out = tmp_path / "model.onnx"
    assert main(["export", str(done / "ticket.safetensors"), "--to", "onnx", "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["target"], report["path"], report["bytes"]) == ("onnx", str(out), out.stat().st_size)
    assert report["inputs"] > 64  # images of the test split, beside random inputs
    assert 0 <= report["max_difference"] < 1e-3

    batch = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: batch.numpy()})[0])
    torch.testing.assert_close(found, network_of(done / "ticket.safetensors")(batch), rtol=1e-4, atol=1e-5)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_without_the_data_of_the_search_random_inputs_are_checked_and_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = image_folder(tmp_path / "pictures")
    run = search(tmp_path / "run", "--data", f"imagefolder:{pictures}")
    shutil.rmtree(pictures)
    capsys.readouterr()
    out = tmp_path / "model.safetensors"
    assert main(["export", str(run), "--to", "safetensors", "--out", str(out), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["inputs"] < 64
    assert captured.err.startswith(f"verified on random inputs only: there is no folder {pictures}")
    assert len(captured.err.splitlines()) == 1


def test_a_run_found_on_another_device_is_checked_on_real_inputs_here(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(done, tmp_path / "run"))
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("device: auto", "device: cuda"))
    assert main(["export", str(run), "--to", "safetensors", "--out", str(tmp_path / "out")]) == 0
    assert "random inputs only" not in capsys.readouterr().err


# Wrong input


def test_a_file_that_is_there_already_is_left_as_it_is(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    out.write_text("mine")
    line = refusal(capsys, "export", done, "--to", "safetensors", "--out", out)
    assert line == f"error: {out} exists already; choose another --out, or remove it first\n"
    assert out.read_text() == "mine"


def test_a_folder_that_is_not_there_is_named(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, "export", done, "--to", "safetensors", "--out", tmp_path / "missing" / "model")
    assert f"the folder {tmp_path / 'missing'} does not exist; create it first" in line
    (tmp_path / "file").write_text("")
    line = refusal(capsys, "export", done, "--to", "safetensors", "--out", tmp_path / "file" / "model")
    assert str(tmp_path / "file") in line


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--to", "onxx", "--out", "x"], "'onxx' is not one of 'safetensors', 'onnx'"),
        (["--to", "onnx"], "Missing option '--out'"),
        (["--out", "x"], "Missing option '--to'"),
    ],
)
def test_wrong_usage_exits_with_2(
    arguments: list[str], part: str, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert part in refusal(capsys, "export", done, *arguments, code=2)


def test_what_is_no_ticket_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (tmp_path / "missing", tmp_path):
        line = refusal(capsys, "export", place, "--to", "safetensors", "--out", tmp_path / "model")
        assert str(place) in line
    assert list(tmp_path.iterdir()) == []


def test_a_ticket_that_does_not_name_its_network_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Linear(4, 8))
    st.attach(model)
    st.save(st.extract(model), tmp_path / "own")
    line = refusal(capsys, "export", tmp_path / "own", "--to", "safetensors", "--out", tmp_path / "model")
    assert "use strongticket.apply with your own network" in line
    assert not (tmp_path / "model").exists()


def test_a_ticket_whose_network_changed_since_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, hidden in (("network_before", 8), ("network_after", 9)):
        layers = f"nn.Flatten(), nn.Linear(64, {hidden}), nn.Linear({hidden}, 10)"
        (tmp_path / f"{name}.py").write_text(f"from torch import nn\ndef make():\n    return nn.Sequential({layers})\n")
    assert main(["search", "--model", "network_before:make", "--epochs", "1", "--out", "run"]) == 0
    found = st.load("run/ticket.safetensors")
    found.model["name"] = "network_after:make"  # type: ignore[index]
    st.save(found, "ticket")
    capsys.readouterr()
    line = refusal(capsys, "export", "ticket", "--to", "safetensors", "--out", "model")
    assert (
        "this ticket is of another network: 1.weight has shape (8, 64) in the ticket and (9, 64) in the model" in line
    )
    assert not Path("model").exists()
