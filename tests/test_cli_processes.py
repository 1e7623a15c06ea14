"""``torchrun … strongticket search``: several processes, one run folder, one voice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_runs import TINY, image_folder
from click.exceptions import Exit
from crews import codes, free_port
from forks import fork

from strongticket.cli import main
from strongticket.cli.followers import speaking
from strongticket.cli.run_folder import RunFolder
from strongticket.data import sources
from strongticket.search import LostProcessError
from strongticket.search.checkpoint import has_checkpoint

EXACTLY = (*TINY, "--precision", "fp32", "--device", "cpu")


def launch(count: int, folder: Path, *arguments: str, before: Callable[[int], None] = lambda rank: None) -> list[int]:
    """Start the command in ``count`` processes, with the environment that torchrun gives them; return their ids.

    What each says stands in ``out-RANK`` and ``err-RANK`` of the folder.
    """
    port = free_port()
    folder.mkdir(exist_ok=True)

    def process(rank: int) -> int:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / f"{name}-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        before(rank)
        code = main(["search", *arguments])
        sys.stdout.flush()
        sys.stderr.flush()
        return code

    return [fork(lambda rank=rank: process(rank)) for rank in range(count)]


def said(folder: Path, stream: str, rank: int) -> str:
    return (folder / f"{stream}-{rank}").read_text()


def check_alike(alone: Path, together: Path) -> None:
    for name in ("ticket.safetensors", "ticket-last.safetensors"):
        assert (together / name).read_bytes() == (alone / name).read_bytes()
    assert sorted(os.listdir(together)) == sorted(os.listdir(alone))
    assert len((together / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_torchrun_finds_what_one_process_finds(tmp_path: Path) -> None:
    assert main(["search", *EXACTLY, "--out", str(tmp_path / "alone")]) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
    command += [str(free_port()), "-m", "strongticket.cli", "search", *EXACTLY, "--json", "--out", "together"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)  # that of one process, and nothing else
    assert report == json.loads((tmp_path / "together" / "report.json").read_text())
    assert done.stderr.count("epoch 2/2") == 1
    check_alike(tmp_path / "alone", tmp_path / "together")


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_find_what_one_finds_and_the_first_one_tells(tmp_path: Path, count: int) -> None:
    assert main(["search", *EXACTLY, "--out", str(tmp_path / "alone")]) == 0
    folder = tmp_path / "said"
    assert codes(launch(count, folder, *EXACTLY, "--json", "--out", str(tmp_path / "together"))) == [0] * count
    report = json.loads(said(folder, "out", 0))
    assert report == json.loads((tmp_path / "together" / "report.json").read_text())
    assert said(folder, "err", 0).count("epoch 2/2") == 1
    assert {said(folder, stream, rank) for stream in ("out", "err") for rank in range(1, count)} == {""}
    check_alike(tmp_path / "alone", tmp_path / "together")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--batch-size", "129"), "a batch of 129 cannot be divided among 2 processes"),
        (("--data", "imagefolder:nowhere"), "nowhere"),
        (("--out", "."), "is not an empty folder"),
        (("--learning-rate", "1e30", "--epochs", "3"), "a score is NaN"),
    ],
)
def test_what_is_refused_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "something").touch()
    folder = tmp_path / "said"
    assert codes(launch(2, folder, *EXACTLY, "--out", str(tmp_path / "run"), *arguments)) == [1, 1]
    errors = [line for line in said(folder, "err", 0).splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert expected in errors[0]
    assert "Traceback" not in said(folder, "err", 0)
    assert said(folder, "out", 0) == said(folder, "out", 1) == said(folder, "err", 1) == ""


def at_epoch(number: int, action: Callable[[], None]) -> None:
    """Do something in the process that writes, when the metrics of an epoch are written."""
    original = RunFolder.write_metrics

    def write(run: RunFolder, history: object) -> None:
        history = list(history)  # type: ignore[call-overload]
        original(run, history)
        if len(history) == number:
            action()

    RunFolder.write_metrics = write  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize("lost", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_process_that_is_killed_ends_the_job_in_one_line_and_it_goes_on(tmp_path: Path, lost: int) -> None:
    run = tmp_path / "run"
    options = (*EXACTLY, "--checkpoint-epochs", "1", "--epochs", "4")
    assert codes(launch(2, tmp_path / "whole", *options, "--out", str(tmp_path / "other"))) == [0, 0]
    folder = tmp_path / "said"

    def before(rank: int) -> None:
        (folder / f"id-{rank}").write_text(str(os.getpid()))
        if rank == 0:
            at_epoch(3, lambda: os.kill(int((folder / f"id-{lost}").read_text()), signal.SIGKILL))

    ended = codes(launch(2, folder, *options, "--out", str(run), before=before))
    assert ended == ([1, -9] if lost else [-9, 1])
    errors = [line for line in said(folder, "err", 1 - lost).splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert f"process {lost} was lost; " in errors[0]
    assert "go on with --resume" in errors[0]
    assert "Traceback" not in said(folder, "err", 1 - lost)
    assert has_checkpoint(run / "checkpoint")
    assert codes(launch(2, folder, "--resume", "--out", str(run))) == [0, 0]
    assert "goes on after" in said(folder, "err", 0)
    assert (run / "ticket.safetensors").read_bytes() == (tmp_path / "other" / "ticket.safetensors").read_bytes()


def test_a_stop_of_one_process_stops_the_job_with_its_exit_code_and_one_process_goes_on(tmp_path: Path) -> None:
    run, folder = tmp_path / "run", tmp_path / "said"

    def before(rank: int) -> None:
        if rank == 0:
            at_epoch(1, lambda: os.kill(os.getpid(), signal.SIGTERM))

    assert codes(launch(2, folder, *EXACTLY, "--epochs", "3", "--out", str(run), before=before)) == [143, 143]
    assert "strongticket search --resume --out" in said(folder, "err", 0)
    assert said(folder, "err", 1) == ""
    assert main(["search", "--resume", "--out", str(run)]) == 0
    assert not (run / "checkpoint").exists()


def test_images_that_any_process_leaves_out_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources.load, "__kwdefaults__", {**(sources.load.__kwdefaults__ or {}), "memory_limit": 0})
    data, folder, run = image_folder(tmp_path / "data", count=12), tmp_path / "said", tmp_path / "run"
    for number in (2, 7):
        (data / "train" / "cat" / f"{number}.png").write_bytes(b"no image")
    options = (*EXACTLY, "--epochs", "1", "--data", f"imagefolder:{data}", "--image-size", "8", "--batch-size", "8")
    options += ("--skip-bad-images", "--workers", "0", "--validation", "0", "--out", str(run))
    assert codes(launch(2, folder, *options)) == [0, 0], said(folder, "err", 0)
    noted = json.loads((run / "environment.json").read_text())["skipped_images"]
    assert sorted(Path(file).name for file in noted["files"]) == ["2.png", "7.png"]


def test_a_loss_is_said_although_the_launcher_stops_the_process_meanwhile(capsys: pytest.CaptureFixture[str]) -> None:
    def lose() -> None:
        try:
            raise LostProcessError([2], "; so")
        finally:
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(Exit) as raised, speaking(None):
            lose()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert raised.value.exit_code == 1
    assert capsys.readouterr().err == "error: process 2 was lost; so\n"
