"""``strongticket sweep``: what it runs, what it says at the end, and how it goes on."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from cli_runs import refusal, search

import strongticket as st
import strongticket.cli.finding as finding
from strongticket.cli import console, main
from strongticket.cli.assembly import Assembly
from strongticket.cli.run_folder import RunFolder
from strongticket.cli.sweep import crew
from strongticket.search import Event, StepDone

optuna = pytest.importorskip("optuna")

BASE = "base: {model: mlp, width: 0.1x, epochs: 1}\n"
SMALL = f"{BASE}grid:\n  density: [0.3, 0.6]\nseeds: [0, 1]\n"
SLOTS = [(0.3, 0), (0.3, 1), (0.6, 0), (0.6, 1)]


def write(tmp_path: Path, text: str = SMALL, name: str = "mine.yaml") -> Path:
    (tmp_path / name).write_text(text)
    return tmp_path / name


def sweep(file: Path, *arguments: object, code: int = 0, journal: bool = True) -> Path:
    """Run a sweep into the folder ``out`` beside its file, and return the folder; its trials are in a journal there."""
    out = file.parent / "out"
    storage = ("--storage", f"journal:{file.parent}/trials.log") if journal else ()
    assert main(["sweep", str(file), "--out", str(out), *storage, *map(str, arguments)]) == code
    return out


def forget(out: Path) -> None:
    """Remove the trials of a sweep, but not its runs."""
    (out.parent / "trials.log").unlink()


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open() as file:
        return list(csv.DictReader(file))


def trials(out: Path) -> list[Any]:
    backend = optuna.storages.journal.JournalFileBackend(str(out.parent / "trials.log"))
    storage = optuna.storages.JournalStorage(backend)
    (name,) = optuna.get_all_study_names(storage)
    found: list[Any] = optuna.load_study(study_name=name, storage=storage).trials
    return found


def stopping_at(monkeypatch: pytest.MonkeyPatch, action: Callable[[int], None]) -> list[int]:
    """Call ``action`` with the number of the step, counted over all searches, at each of their steps."""
    steps: list[int] = []

    def listening(*arguments: Any, on_event: Callable[[Event], None], **options: Any) -> Any:
        def heard(event: Event) -> None:
            if isinstance(event, StepDone):
                steps.append(len(steps) + 1)
                action(steps[-1])
            on_event(event)

        return st.search(*arguments, on_event=heard, **options)

    monkeypatch.setattr(finding, "search", listening)
    return steps


# What it finds


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished sweep, which no test changes; its trials are where they are by default."""
    return sweep(write(tmp_path_factory.mktemp("done")), journal=False)


def test_every_run_is_the_search_of_its_options(done: Path, tmp_path: Path) -> None:
    found = rows(done)
    assert [(float(row["density"]), int(row["seed"])) for row in found] == SLOTS
    alone = search(tmp_path / "run", "--epochs", "1", "--density", "0.6", "--seed", "1")
    assert (alone / "ticket.safetensors").read_bytes() == (done / found[3]["run"] / "ticket.safetensors").read_bytes()
    epochs = [json.loads(line) for line in (alone / "metrics.jsonl").read_text().splitlines()]
    assert float(found[3]["validation_accuracy"]) == epochs[-1]["validation_accuracy"]


def test_a_run_of_a_sweep_is_a_run_like_any_other(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = done / rows(done)[0]["run"]
    assert {file.name for file in run.iterdir()} == {
        *("config.yaml", "environment.json", "metrics.jsonl", "ticket.safetensors", "ticket-last.safetensors")
    }
    assert main(["inspect", str(run), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["bits_per_weight"] == float(rows(done)[0]["bits_per_weight"])
    assert facts["density"] == float(rows(done)[0]["kept_density"])


def test_the_test_split_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Assembly, "test", lambda parts: pytest.fail("the test split was read"))
    out = sweep(write(tmp_path, f"{BASE}grid: {{density: [0.3]}}\n"))
    assert not (out / rows(out)[0]["run"] / "report.json").exists()


def test_a_finished_sweep_is_only_printed(
    done: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "search", lambda *_, **__: pytest.fail("a search began"))
    before = {file: file.read_bytes() for file in done.rglob("*") if file.suffix in (".csv", ".svg", ".safetensors")}
    sweep(done.parent / "mine.yaml", "--workers", "4", journal=False)
    captured = capsys.readouterr()
    assert captured.err == ""
    table = captured.out.splitlines()
    assert table[0].split() == ["density", "validation", "accuracy", "sd", "n", "bits", "a", "weight"]
    accuracies = [float(row["validation_accuracy"]) for row in rows(done)]
    for line, density, values in ((table[2], "0.3", accuracies[:2]), (table[3], "0.6", accuracies[2:])):
        assert line.split()[:5] == [density, f"{mean(values):.4f}", "±", f"{stdev(values):.4f}", "2"]
    best = "0.3" if mean(accuracies[:2]) >= mean(accuracies[2:]) else "0.6"
    assert f"best: density {best}: " in captured.out
    assert all(file.read_bytes() == data for file, data in before.items())


def test_json_is_one_object_with_every_point(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(done.parent / "mine.yaml", "--json", journal=False)
    values = json.loads(capsys.readouterr().out)
    assert values["runs"] == {"asked": 4, "done": 4, "failed": 0}
    assert [point["values"] for point in values["points"]] == [{"density": 0.3}, {"density": 0.6}]
    accuracies = [float(row["validation_accuracy"]) for row in rows(done)]
    assert [point["mean"] for point in values["points"]] == pytest.approx([mean(accuracies[:2]), mean(accuracies[2:])])
    assert [point["sd"] for point in values["points"]] == pytest.approx([stdev(accuracies[:2]), stdev(accuracies[2:])])
    assert values["best"]["mean"] == max(point["mean"] for point in values["points"])
    assert values["objective"] == "validation_accuracy"


def test_plots_are_drawn_of_what_varies_and_are_the_same_each_time(done: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plots = {file.name: file.read_bytes() for file in done.glob("*.svg")}
    assert set(plots) >= {"accuracy-density.svg"}
    assert b"<svg" in plots["accuracy-density.svg"]
    again = sweep(write(tmp_path))
    assert {file.name: file.read_bytes() for file in again.glob("*.svg")} == plots


def test_without_matplotlib_there_is_a_note_and_no_plot(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    out = sweep(write(tmp_path, f"{BASE}grid: {{density: [0.3]}}\n"))
    assert "no plots: plots need an extra: pip install 'strongticket[report]'" in capsys.readouterr().err
    assert rows(out)
    assert list(out.glob("*.svg")) == []


def test_without_a_folder_it_is_named_after_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, f"{BASE}grid: {{density: [0.3]}}\n")
    assert main(["sweep", "mine.yaml"]) == 0
    assert len(rows(tmp_path / "runs" / "mine")) == 1
    assert (tmp_path / "runs" / "mine" / "sweep.yaml").read_text() == (tmp_path / "mine.yaml").read_text()


@pytest.mark.parametrize("storage", ["journal:{}/elsewhere.log", "sqlite:///{}/elsewhere.db"])
def test_trials_are_kept_where_the_storage_says(
    storage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, f"{BASE}grid: {{density: [0.3]}}\n")
    out = sweep(file, "--storage", storage.format(tmp_path), journal=False)
    assert not (out / "sweep.db").exists()
    assert (tmp_path / storage.rpartition("/")[2]).stat().st_size > 0
    # Another machine with another folder and the same storage has nothing left to do.
    (tmp_path / "other").mkdir()
    other = sweep(write(tmp_path / "other", file.read_text()), "--storage", storage.format(tmp_path), journal=False)
    assert rows(other) == rows(out)
    assert not (other / "trials").exists()
    host = rows(other)[0]["host"]
    assert f"{other / rows(other)[0]['run']}  (on {host})" in capsys.readouterr().out


# How it goes on


def test_a_sweep_that_was_stopped_goes_on_and_repeats_nothing(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, SMALL.replace("epochs: 1", "epochs: 1, checkpoint_minutes: 0"))
    with pytest.MonkeyPatch.context() as patch:
        stopping_at(patch, lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 14 else None)
        out = sweep(file, code=130)
    assert "run the same command to go on" in capsys.readouterr().err.splitlines()[-1]
    assert len(rows(out)) == 1  # an epoch has ten steps
    assert (out / "trials" / rows(done)[1]["run"].split("/")[1] / "checkpoint").is_dir()
    with pytest.MonkeyPatch.context() as patch:
        steps = stopping_at(patch, lambda step: None)
        sweep(file)
    assert len(steps) == 6 + 20
    assert [row["validation_accuracy"] for row in rows(out)] == [row["validation_accuracy"] for row in rows(done)]
    for row in rows(done):
        assert (out / row["run"] / "ticket.safetensors").read_bytes() == (
            done / row["run"] / "ticket.safetensors"
        ).read_bytes()


def test_a_run_that_was_found_but_not_written_down_is_not_repeated(tmp_path: Path) -> None:
    out = sweep(write(tmp_path))
    forget(out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finding, "search", lambda *_, **__: pytest.fail("a search began"))
        before = rows(out)
        sweep(tmp_path / "mine.yaml")
    assert rows(out) == before


def test_a_ticket_of_other_options_is_not_taken_for_that_of_the_run(tmp_path: Path) -> None:
    out = sweep(write(tmp_path))
    before = rows(out)
    tickets = [out / row["run"] / "ticket.safetensors" for row in before]
    tickets[2].write_bytes(tickets[0].read_bytes())
    forget(out)
    sweep(tmp_path / "mine.yaml")
    assert [row["validation_accuracy"] for row in rows(out)] == [row["validation_accuracy"] for row in before]
    assert tickets[2].read_bytes() != tickets[0].read_bytes()


def test_a_sweep_that_grows_keeps_what_it_has(tmp_path: Path) -> None:
    out = sweep(write(tmp_path, f"{BASE}grid: {{density: [0.3]}}\nseeds: [0]\n"))
    before = rows(out)
    with pytest.MonkeyPatch.context() as patch:
        steps = stopping_at(patch, lambda step: None)
        sweep(write(tmp_path, f"{BASE}grid: {{density: [0.6, 0.3]}}\nseeds: [0]\n"))
    assert len(steps) == 10
    assert [row["density"] for row in rows(out)] == ["0.6", "0.3"]
    assert rows(out)[1]["run"] == before[0]["run"]


@pytest.mark.parametrize("damage", ["ticket", "checkpoint", "config"])
def test_a_run_whose_folder_is_damaged_begins_anew(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, f"{BASE}grid: {{density: [0.3]}}\n".replace("epochs: 1", "epochs: 1, checkpoint_minutes: 0"))
    whole = sweep(file)
    (run,) = (whole / "trials").iterdir()
    ticket = (run / "ticket.safetensors").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        if damage != "ticket":
            stopping_at(patch, lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 4 else None)
        shutil.rmtree(run)
        forget(whole)
        sweep(file, code=0 if damage == "ticket" else 130)
    if damage == "ticket":
        forget(whole)
        (run / "ticket.safetensors").write_bytes(ticket[:-1])
    elif damage == "checkpoint":
        for part in (run / "checkpoint").iterdir():
            part.write_bytes(b"nothing")
    else:
        (run / "config.yaml").write_text("model: conv2\n")
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        steps = stopping_at(patch, lambda step: None)
        sweep(file)
    assert len(steps) == 10
    assert (run / "ticket.safetensors").read_bytes() == ticket
    if damage == "checkpoint":
        assert "begins anew" in capsys.readouterr().err


def test_a_run_in_a_folder_that_another_process_writes_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, f"{BASE}grid: {{density: [0.3]}}\n")
    out = sweep(file)
    (run,) = (out / "trials").iterdir()
    forget(out)
    (run / "ticket.safetensors").unlink()
    holder = (
        "import fcntl, sys\nwith open(sys.argv[1], 'w') as file:\n    fcntl.lockf(file, fcntl.LOCK_EX)\n"
        "    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    heard: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(RunFolder(run).lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"

        def hear(text: str) -> None:
            heard.append(text)
            if "is being written by" in text:
                process.communicate()

        monkeypatch.setattr(console, "note", hear)
        sweep(file, "--patience", "0.6")
    assert sum("is being written by" in text for text in heard) == 1
    assert len(rows(out)) == 1


# What fails


def test_a_run_that_fails_is_said_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"{BASE}grid:\n  weight_gain: [1, 1.0e+30]\n"
    out = sweep(write(tmp_path, text.replace("epochs: 1", "epochs: 1, precision: fp32")))
    captured = capsys.readouterr()
    assert "failed: weight_gain 1e+30, seed 0: the loss became" in captured.out
    assert "best: weight_gain 1: " in captured.out
    assert [row["error"] != "" for row in rows(out)] == [False, True]
    sweep(tmp_path / "mine.yaml", "--json")
    captured = capsys.readouterr()
    assert captured.err == ""
    assert json.loads(captured.out)["runs"] == {"asked": 2, "done": 2, "failed": 1}


def test_a_network_that_cannot_be_built_fails_alone_and_can_be_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, f"{BASE}grid: {{model: [nothing]}}\n")
    out = sweep(file, code=1)
    assert "no run of the sweep found a ticket" in capsys.readouterr().err.splitlines()[-1]
    assert "nothing" in rows(out)[0]["error"]
    assert len(trials(out)) == 1
    sweep(file, code=1)
    assert len(trials(out)) == 1
    sweep(file, "--retry", code=1)
    assert len(trials(out)) == 2


def test_what_no_run_can_do_without_stops_the_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, f"base: {{data: imagefolder:{tmp_path / 'nothing'}}}\ngrid: {{density: [0.1, 0.5]}}\n")
    out = sweep(file, code=1)
    assert "nothing" in capsys.readouterr().err.splitlines()[-1]
    assert [trial.state.name for trial in trials(out)] == ["FAIL"]
    assert not (out / "results.csv").exists()


@pytest.mark.parametrize(
    ("text", "arguments", "part"),
    [
        ("grid: {density: [1.5]}", [], "density: 1.5 was given"),
        ("grid: {density: [0.5]}", ["--storage", "nowhere"], "--storage 'nowhere' was given"),
        ("grid: {density: [0.5]}\nbase: {track: nothing}", [], "expected one of none, aim"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    text: str, arguments: list[str], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert part in refusal(capsys, "sweep", write(tmp_path, text), "--out", out, *arguments)
    assert not (out / "trials").exists()
    assert not (out / "sweep.db").exists()


def test_a_folder_of_a_run_is_not_one_for_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("model: mlp\n")
    assert "holds a run" in refusal(capsys, "sweep", write(tmp_path), "--out", tmp_path)


def test_optuna_that_is_not_installed_is_one_line_with_the_way_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    line = refusal(capsys, "sweep", write(tmp_path), "--out", tmp_path / "out")
    assert "pip install 'strongticket[sweep]'" in line


# What several workers share


def test_workers_take_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    taken = []
    for index in range(5):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5,7")
        crew._share_machine(index, 5, "auto")
        taken.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert taken == ["2", "5", "7", "2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    crew._share_machine(1, 2, "cpu")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,5"


def test_a_signal_before_the_search_listens_stops_it_too(tmp_path: Path) -> None:
    def interrupted(parts: Assembly) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(parts)

    original = Assembly.attached_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Assembly, "attached_model", interrupted)
        steps = stopping_at(patch, lambda step: None)
        sweep(write(tmp_path), code=128 + signal.SIGTERM)
    assert len(steps) == 1
