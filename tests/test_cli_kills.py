"""A run that is killed, stopped or repeated ends with the same files, byte for byte."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli_runs import TINY, refusal, search
from forks import forked, kill_at_write

import strongticket.cli.search as command
from strongticket.cli import main
from strongticket.cli.run_folder import RunFolder
from strongticket.search.checkpoint import has_checkpoint

FILES = ("ticket.safetensors", "ticket-last.safetensors", "report.json", "config.yaml")
NAMES = {*FILES, "metrics.jsonl", "environment.json"}


def contents(run: Path) -> dict[str, bytes]:
    """Return what a finished run holds that has to be the same each time."""
    assert {entry.name for entry in run.iterdir()} == NAMES
    return {name: (run / name).read_bytes() for name in FILES}


def go_on(run: Path, *arguments: str) -> None:
    """Finish a run, in whatever state it was left."""
    if not (run / "config.yaml").exists():  # it was killed before it was a run
        assert main(["search", *arguments, "--out", str(run)]) == 0
    elif (run / "report.json").exists():
        assert main(["search", "--resume", "--out", str(run)]) == 1  # it is finished, which tidies up
    else:
        assert main(["search", "--resume", "--out", str(run)]) == 0


# Killed at each write

SHORT = (*TINY, "--epochs", "1")


@pytest.fixture(scope="module")
def writes(tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many writes a short run makes."""
    folder = tmp_path_factory.mktemp("writes")

    def count() -> None:
        calls: list[None] = []
        kill_at_write(10**9, lambda: calls.append(None))
        search(folder / "run", *SHORT)
        (folder / "count").write_bytes(b"." * len(calls))

    assert forked(count) == 0
    return (folder / "count").stat().st_size


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return contents(search(tmp_path_factory.mktemp("short") / "run", *SHORT))


def killed_at(number: int, run: Path) -> None:
    def life() -> None:
        kill_at_write(number)
        search(run, *SHORT)

    assert forked(life) == -signal.SIGKILL


# In the options, the machine, a checkpoint, a ticket, and the report.
@pytest.mark.parametrize("share", [0.0, 0.15, 0.45, 0.65, 0.88])
def test_killed_while_it_writes_it_goes_on_to_the_same_files(
    share: float, writes: int, short: dict[str, bytes], tmp_path: Path
) -> None:
    killed_at(1 + int(share * writes), tmp_path / "run")
    go_on(tmp_path / "run", *SHORT)
    assert contents(tmp_path / "run") == short


@pytest.mark.slow
def test_killed_at_any_write_it_goes_on_to_the_same_files(writes: int, short: dict[str, bytes], tmp_path: Path) -> None:
    assert writes > 25  # at least: six files, a checkpoint among them, three writes each, and what is removed
    for number in range(1, writes + 1):
        run = tmp_path / str(number)
        killed_at(number, run)
        go_on(run, *SHORT)
        assert contents(run) == short, number


# Killed at any moment

LONG = ("--model", "mlp", "--width", "0.1x", "--epochs", "4", "--batch-size", "4")


def start(run: Path, *arguments: str, threads: int = 1) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "strongticket.cli", "search", *arguments, "--out", str(run)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
    )


@pytest.mark.slow
def test_killed_twenty_times_at_any_moment_it_finds_the_same_ticket(tmp_path: Path) -> None:
    expected = contents(search(tmp_path / "uninterrupted", *LONG))
    run, chance, kills = tmp_path / "run", random.Random(0), 0
    while kills < 20:
        begun = (run / "config.yaml").exists()
        process = start(run, *(["--resume"] if begun else [*LONG, "--checkpoint-minutes", "0"]))
        checkpoints = set((run / "checkpoint").glob("search-*"))
        deadline = time.monotonic() + 100
        # Until it writes checkpoints, so that each life gets somewhere; then at any moment.
        while set((run / "checkpoint").glob("search-*")) == checkpoints and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(chance.random() * 0.02)
        assert process.poll() is None, process.communicate()[1]
        process.kill()
        process.communicate()
        kills += 1
    assert main(["search", "--resume", "--out", str(run), "--checkpoint-minutes", "5"]) == 0
    assert {**contents(run), "config.yaml": b""} == {**expected, "config.yaml": b""}


# Repeated


def with_threads(count: int, work: Callable[[], object]) -> None:
    def life() -> None:
        torch.set_num_threads(count)
        work()

    assert forked(life) == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_two_processes_with_as_many_threads_find_the_same_ticket_byte_for_byte(threads: int, tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("first", "second")]
    for run in runs:
        with_threads(threads, lambda run=run: search(run, "--model", "conv2", "--width", "0.1x", "--epochs", "1"))  # type: ignore[misc]
    first, second = (contents(run) for run in runs)
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_two_interpreters_find_the_same_ticket_byte_for_byte(threads: int, tmp_path: Path) -> None:
    found = []
    for name in ("first", "second"):
        process = start(tmp_path / name, "--epochs", "2", threads=threads)
        errors = process.communicate(timeout=300)[1]
        assert process.returncode == 0, errors
        found.append(contents(tmp_path / name))
    assert found[0] == found[1]


def test_a_run_is_repeated_from_its_config_by_the_flag_of_that_name(
    short: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_bytes(short["config.yaml"])
    assert main(["search", "--config", "config.yaml"]) == 0
    assert contents(tmp_path / "runs" / "mlp-digits-seed0") == short


def test_a_config_is_given_once(capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, "search", "digits", "--config", "digits-mlp", code=2)
    assert "CONFIG 'digits' and --config 'digits-mlp' were both given; give one" in line


def test_deterministic_arithmetic_changes_nothing_on_a_cpu(short: dict[str, bytes], tmp_path: Path) -> None:
    run = search(tmp_path / "run", *SHORT, "--deterministic", "--device", "cpu")
    assert (run / "ticket.safetensors").read_bytes() == short["ticket.safetensors"]


# Stopped


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_while_images_are_read_it_leaves_nothing(
    number: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "assembled", lambda *given, **options: signal.raise_signal(number))
    assert main(["search", *SHORT, "--out", str(tmp_path / "run")]) == code
    assert capsys.readouterr().err.splitlines()[-1] == "error: stopped"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "code", "where"), [(signal.SIGINT, 130, "save_tickets"), (signal.SIGTERM, 143, "evaluate")]
)
def test_stopped_after_the_search_it_is_finished_by_resume(
    number: int,
    code: int,
    where: str,
    short: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    owner = command if where == "evaluate" else sys.modules[RunFolder.__module__]
    users = [module for module in (command, sys.modules.get("strongticket.cli.finding"), owner) if module]
    with monkeypatch.context() as patch:
        for module in users:
            if hasattr(module, where):
                patch.setattr(module, where, lambda *given, **options: signal.raise_signal(number))
        assert main(["search", *SHORT, "--out", str(run)]) == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == (f"error: stopped; what was done is kept and goes on with: strongticket search --resume --out {run}")
    assert has_checkpoint(run / "checkpoint")
    go_on(run)
    assert contents(run) == short


def test_stopped_when_all_is_written_it_is_a_finished_run(
    short: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = RunFolder.remove_checkpoint

    def remove_and_stop(run: RunFolder) -> None:
        original(run)
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "remove_checkpoint", remove_and_stop)
    assert main(["search", *SHORT, "--out", str(tmp_path / "run")]) == 130
    assert contents(tmp_path / "run") == short


def test_a_command_ends_with_sigterm_as_it_would_without_where_it_forked(tmp_path: Path) -> None:
    from strongticket.cli.termination import Terminated, terminable

    def life() -> None:
        with terminable():
            child = os.fork()
            if child == 0:
                signal.raise_signal(signal.SIGTERM)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
            with pytest.raises(Terminated):
                signal.raise_signal(signal.SIGTERM)

    assert forked(life) == 0
