from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import rich_click as click

import strongticket
import strongticket.cli.main
from strongticket.cli import main
from strongticket.cli.main import COMMANDS
from strongticket.errors import ConfigError, InterruptedRunError

Pretend = Callable[[Callable[[], Any]], int]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Return a function that runs ``strongticket inspect`` with a body of the test's own, and returns the exit code."""

    def run(body: Callable[[], Any], *options: str) -> int:
        module = SimpleNamespace(command=click.command("inspect")(body))
        monkeypatch.setattr(sys.modules["strongticket.cli.main"], "import_module", lambda *_: module)
        code: int = main([*options, "inspect"])
        return code

    return run


def raising(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "strongticket.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_a_command_that_is_done_exits_with_0(pretend: Pretend, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretend(lambda: print("result")) == 0
    assert capsys.readouterr() == ("result\n", "")


def test_an_explained_error_is_one_line_and_1(pretend: Pretend, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretend(raising(ConfigError("no such\n  thing [bold]x[/bold]"))) == 1
    assert capsys.readouterr() == ("", "error: no such thing [bold]x[/bold]\n")


def test_a_full_disk_is_one_line_and_1(pretend: Pretend, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretend(raising(OSError(errno.ENOSPC, "No space left on device", "runs/a"))) == 1
    assert capsys.readouterr().err == "error: runs/a: No space left on device\n"


def test_a_file_without_permission_is_one_line_and_1(pretend: Pretend, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretend(raising(PermissionError(errno.EACCES, "Permission denied"))) == 1
    assert capsys.readouterr().err == "error: Permission denied\n"


def test_too_little_memory_says_what_to_lower(pretend: Pretend, capsys: pytest.CaptureFixture[str]) -> None:
    out_of_memory = type("OutOfMemoryError", (RuntimeError,), {})
    for error in (MemoryError(), out_of_memory("CUDA out of memory. Tried to allocate …")):
        assert pretend(raising(error)) == 1
        assert "lower --batch-size" in capsys.readouterr().err


def test_a_bug_is_one_line_that_asks_to_report_it(pretend: Pretend, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretend(raising(KeyError("x"))) == 1
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert error.startswith("error: unexpected KeyError: 'x'. This is a bug; please report it")
    assert "--debug" in error


@pytest.mark.parametrize("way", ["option", "environment"])
def test_debug_shows_the_traceback_too(
    way: str, pretend: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STRONGTICKET_DEBUG", "0" if way == "option" else "1")
    assert pretend(raising(ConfigError("wrong")), *(["--debug"] if way == "option" else [])) == 1
    error = capsys.readouterr().err
    assert error.startswith("Traceback (most recent call last)")
    assert error.endswith("error: wrong\n")


def test_without_debug_there_is_no_traceback(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STRONGTICKET_DEBUG", "0")
    pretend(raising(ZeroDivisionError()))
    assert "Traceback" not in capsys.readouterr().err


def test_ctrl_c_exits_with_130(pretend: Pretend, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretend(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err.split() == ["error:", "stopped"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_was_stopped_says_what_it_left(
    number: int, code: int, pretend: Pretend, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretend(raising(InterruptedRunError("stopped; go on with --resume", signal=number))) == code
    assert capsys.readouterr().err == "error: stopped; go on with --resume\n"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["serch"], "No such command"),
        (["--nope"], "--nope"),
        (["list"], "Missing argument"),
        (["list", "models", "more"], "more"),
        (["list", "modles"], "modles"),
        (["list", "--nope"], "strongticket list --help"),
    ],
)
def test_wrong_usage_is_one_line_and_2(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith("error: ")
    assert part in captured.err


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_own_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"strongticket {name}" in capsys.readouterr().out


def test_the_version_is_that_of_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"strongticket {strongticket.__version__}\n"


def test_help_waits_for_no_import_of_torch() -> None:
    program = (
        "import json, sys\nfrom strongticket.cli import main\n"
        "for arguments in ([], ['--version'], ['serch'], ['list', 'configs']): main(arguments)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert "rich_click" in loaded
    assert {"torch", "pydantic", "numpy"}.isdisjoint(loaded)


def test_the_module_runs_like_the_command() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"strongticket {strongticket.__version__}\n")
    assert run("serch").returncode == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_that_cannot_be_written_is_one_line_and_1() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "strongticket.cli", "list", "configs"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "error: No space left on device\n")


def test_a_reader_that_goes_away_is_no_error_to_speak_of() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as pipe:
        command = [sys.executable, "-m", "strongticket.cli", "list", "configs", "--json"]
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "")
