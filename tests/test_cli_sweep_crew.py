"""Several workers of a sweep: killed in the middle of their runs, they lose nothing and do nothing twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sweep_kills import (
    ENVIRONMENT,
    SLOTS,
    TEXT,
    at_work,
    check_nothing_lost,
    command,
    kill_one,
    resumptions,
    rows,
    said,
    start,
    trials,
)

optuna = pytest.importorskip("optuna")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a sweep in which nobody was killed."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "mine.yaml").write_text(TEXT)
    subprocess.run(command(folder / "mine.yaml", folder / "out"), env=ENVIRONMENT, check=True, capture_output=True)
    return folder / "out"


def storage_of(kind: str, folder: Path) -> tuple[list[str], object]:
    """Return the arguments that choose a storage, and the storage as Optuna reads it."""
    if kind == "sqlite":
        return [], f"sqlite:///{folder}/out/sweep.db"
    file = folder / "trials.log"
    file.touch()
    backend = optuna.storages.journal.JournalFileBackend(str(file))
    return ["--storage", f"journal:{file}"], optuna.storages.JournalStorage(backend)


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_four_workers_that_are_killed_lose_nothing(kind: str, reference: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "mine.yaml", tmp_path / "out"
    file.write_text(TEXT)
    arguments, storage = storage_of(kind, tmp_path)
    sweeping = start(file, out, "--workers", "4", *arguments)
    killed: set[int] = set()
    hit = [run for _ in range(6) if (run := kill_one(out, sweeping, killed)) is not None]
    assert sweeping.wait() == 0, said(out)
    assert len(hit) >= 4
    assert said(out).count("was killed (SIGKILL)") == len(hit)
    lost = [trial for trial in trials(storage) if trial.user_attrs.get("ended") == "lost"]
    assert len(hit) - 1 <= len(lost) <= len(hit)  # a worker may have been done with its run just then
    assert sum(resumptions(run) > 0 for run in set(hit)) >= len(set(hit)) - 1
    check_nothing_lost(out, reference, storage)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_sweep_whose_parent_is_stopped_goes_on(number: signal.Signals, reference: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "mine.yaml", tmp_path / "out"
    file.write_text(TEXT)
    sweeping = start(file, out, "--workers", "2")
    while not at_work(out):
        assert sweeping.poll() is None, said(out)
        time.sleep(0.02)
    sweeping.send_signal(number)
    assert sweeping.wait() == (-number if number == signal.SIGKILL else 128 + number), said(out)
    if number != signal.SIGKILL:
        assert "run the same command to go on" in said(out).splitlines()[-1]
        assert at_work(out) == []
    again = start(file, out, "--workers", "2")
    assert again.wait() == 0, said(out)
    assert any(resumptions(out / row["run"]) for row in rows(out))
    check_nothing_lost(out, reference, f"sqlite:///{out}/sweep.db")


def test_workers_end_soon_after_their_parent_was_killed(tmp_path: Path) -> None:
    file, out = tmp_path / "mine.yaml", tmp_path / "out"
    file.write_text(TEXT.replace("epochs: 20", "epochs: 10000"))
    sweeping = start(file, out, "--workers", "2")
    while len(at_work(out)) < 2:
        assert sweeping.poll() is None, said(out)
        time.sleep(0.02)
    sweeping.kill()
    sweeping.wait()
    until = time.monotonic() + 60
    while at_work(out) and time.monotonic() < until:
        time.sleep(0.1)
    assert at_work(out) == []
    assert {trial.user_attrs.get("ended") for trial in trials(f"sqlite:///{out}/sweep.db")} == {"stopped"}


def test_two_commands_share_a_sweep_and_one_takes_up_what_the_other_leaves(reference: Path, tmp_path: Path) -> None:
    """Two machines: each with its own folder, one storage between them, no lock that both can see."""
    file, outs = tmp_path / "mine.yaml", [tmp_path / "here", tmp_path / "there"]
    file.write_text(TEXT)
    journal = tmp_path / "trials.log"
    storage = ["--storage", f"journal:{journal}", "--patience", "3"]
    here, there = (
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import socket, sys\nname = sys.argv.pop(1)\nsocket.gethostname = lambda: name\n"
                "from strongticket.cli import main\nsys.exit(main())",
                out.name,
                *command(file, out, *storage)[3:],
            ],
            env=ENVIRONMENT,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for out in outs
    )
    while not at_work(outs[0]):
        assert here.poll() is None
        time.sleep(0.02)
    here.kill()
    here.communicate()
    told = there.communicate()
    assert there.returncode == 0, told
    found = rows(outs[1])
    assert [(row["density"], row["seed"]) for row in found] == SLOTS
    assert {row["host"] for row in found} <= {"here", "there"}
    assert [row["validation_accuracy"] for row in found] == [row["validation_accuracy"] for row in rows(reference)]
    backend = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    assert sum(trial.user_attrs.get("ended") == "lost" for trial in trials(backend)) == 1


def test_what_a_worker_cannot_go_on_for_ends_the_sweep_in_one_line(tmp_path: Path) -> None:
    file, out = tmp_path / "mine.yaml", tmp_path / "out"
    file.write_text(f"base: {{data: imagefolder:{tmp_path / 'nothing'}}}\ngrid: {{density: [0.1, 0.5]}}\n")
    done = subprocess.run(command(file, out, "--workers", "2"), env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "nothing" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_workers_that_cannot_even_begin_end_the_sweep(tmp_path: Path) -> None:
    file, out = tmp_path / "mine.yaml", tmp_path / "out"
    file.write_text(TEXT)
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif any('spawn_main' in word for word in sys.orig_argv): os._exit(3)\n"
    )
    environment = {**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command(file, out, "--workers", "2"), env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "die before they do anything (exit code 3)" in done.stderr.splitlines()[-1]
    assert os.listdir(out) != []
