from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from cli_runs import image_folder, refusal, search
from torch import nn

import strongticket as st
from strongticket.cli import main
from strongticket.export import TARGETS, Comparison, Source, Target
from strongticket.export.verify import require_equal
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


def test_a_report_stands_beside_what_the_network_could_take(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.pt2"
    assert main(["export", str(done), "--to", "pt2", "--out", str(out), "--report"]) == 0
    printed = capsys.readouterr().out
    rows = {line.rsplit(maxsplit=2)[0].strip(): line.split()[-2:] for line in printed.splitlines()[1:] if line.strip()}
    # 64 · 30 + 30 · 10 + 10 · 10 weights, half of them kept: one bit of entropy each.
    assert rows["dense network in float32"] == [f"{4 * 2320:,}", "1.0000"]
    assert rows["masked weights at one bit each"] == ["290", "0.0312"]
    assert rows["entropy bound of the masks"] == ["290", "0.0312"]
    assert rows["written"][0] == f"{out.stat().st_size:,}"
    lines = [line.split() for line in printed.splitlines()]
    assert ["weights", "2,320", "2,320", "1.0000"] in lines
    assert ["channels", "50", "50", "1.0000"] in lines
    assert "verified in batches and one by one: " in printed


def test_a_report_in_json_counts_what_can_matter(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", str(done), "--to", "safetensors", "--out", str(tmp_path / "model"), "--json", "--report"]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["sizes"] == {"dense": 9280, "one_bit": 290, "entropy_bound": 290}
    counts = {"weights": 2320, "edges": 1160, "channels": 50, "multiply_adds": 2320, "edge_multiply_adds": 1160}
    assert report["census"] == {"before": counts, "after": counts}


def test_only_options_that_were_typed_reach_the_target(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []

    def write(source: Source, path: Path, **options: Any) -> Comparison:
        given.append(options)
        path.write_text("")
        return Comparison()

    every = ("weights", "activations", "with_main", "batch")
    monkeypatch.setitem(TARGETS, "pt2", Target("any", write, options=every))  # type: ignore[arg-type]
    common = ["export", str(done), "--to", "pt2", "--out"]
    assert main([*common, str(tmp_path / "one")]) == 0
    assert main([*common, str(tmp_path / "two"), "--weights", "int2", "--batch", "3"]) == 0
    assert main([*common, str(tmp_path / "three"), "--with-main", "--activations", "int8"]) == 0
    assert given == [{}, {"weights": "int2", "batch": 3}, {"with_main": True, "activations": "int8"}]


def test_a_folder_of_c_says_what_it_takes(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("there is no C compiler")
    out = tmp_path / "c"
    assert main(["export", str(done), "--to", "c", "--out", str(out), "--with-main"]) == 0
    assert {file.name for file in out.iterdir()} == {"ticket.h", "ticket.c", "main.c"}
    printed = capsys.readouterr().out
    assert re.search(r"^constant tables of [\d,]+ bytes, a buffer of [\d,]+ bytes$", printed, re.MULTILINE)


# Wrong input


def test_an_option_of_another_target_is_refused_before_images_are_read(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strongticket.cli.export.assemble", lambda *_, **__: pytest.fail("images are read"))
    line = refusal(capsys, "export", done, "--to", "safetensors", "--out", tmp_path / "model", "--weights", "int8")
    assert line == "error: export to safetensors takes no option 'weights'; onnx takes it\n"
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine").write_text("")
    line = refusal(capsys, "export", done, "--to", "c", "--out", tmp_path / "c")
    assert line == f"error: {tmp_path / 'c'} exists already; choose another --out, or remove it first\n"


def test_a_failed_verification_leaves_no_file_and_exits_with_1(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(source: Source, path: Path) -> Comparison:
        path.write_text("wrong")
        require_equal(Comparison(inputs=3, max_difference=2.0, max_relative=1.0, equal_decisions=0.5))
        return Comparison()

    monkeypatch.setitem(TARGETS, "pt2", Target("any", write))  # type: ignore[arg-type]
    line = refusal(capsys, "export", done, "--to", "pt2", "--out", tmp_path / "model")
    assert "largest difference 2" in line
    assert "50.00% equal decisions over 3 inputs; nothing was written" in line
    assert list(tmp_path.iterdir()) == []


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
    for named, key in ((found.model, "name"), (found.provenance["config"], "model")):
        named[key] = "network_after:make"  # type: ignore[index]
    st.save(found, "ticket")
    capsys.readouterr()
    line = refusal(capsys, "export", "ticket", "--model", "network_after:make", "--to", "safetensors", "--out", "model")
    assert (
        "this ticket is of another network: 1.weight has shape (8, 64) in the ticket and (9, 64) in the model" in line
    )
    assert not Path("model").exists()
