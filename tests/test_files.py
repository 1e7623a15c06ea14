from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forks import forked, kill_at_write

from strongticket.files import is_half, locked, remove_halves, write_beside


def test_a_file_is_written_and_replaced_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    for data in (b"one", b"", b"two"):
        write_beside(tmp_path / "file", data)
        assert (tmp_path / "file").read_bytes() == data
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_bytes_and_nothing_beside_them(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise error

    write_beside(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(error)):
        write_beside(tmp_path / "file", b"new")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"old")]


def test_an_error_names_the_file_that_was_to_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "missing" / "a", tmp_path / "file" / "a"):
        with pytest.raises(OSError, match="a") as caught:
            write_beside(path, b"")
        assert caught.value.filename == str(path)


def test_only_what_was_left_half_written_is_removed(tmp_path: Path) -> None:
    stay = {"report.json", "a.1", ".hidden", ".hidden.txt", ".7"}
    halves = {".report.json.4711", ".ticket.safetensors.12"}
    for name in stay | halves:
        (tmp_path / name).write_text("")
    assert {entry.name for entry in tmp_path.iterdir() if is_half(entry)} == halves
    remove_halves(tmp_path)
    assert {entry.name for entry in tmp_path.iterdir()} == stay


def test_what_lies_beside_a_file_while_it_is_written_is_what_is_removed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append({entry.name for entry in tmp_path.iterdir()}))
    write_beside(tmp_path / "file", b"whole")
    (half,), after = seen  # the file is made to last before it is renamed, its folder after it
    assert after == {"file"}
    (tmp_path / half).write_bytes(b"hal")  # as a kill would have left it
    remove_halves(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("write", "expected"), [(1, b"old"), (2, b"old"), (3, b"new")])
def test_killed_anywhere_it_leaves_the_old_bytes_or_the_new_ones(write: int, expected: bytes, tmp_path: Path) -> None:
    def be_killed() -> None:
        kill_at_write(write)
        write_beside(tmp_path / "file", b"new")

    write_beside(tmp_path / "file", b"old")
    assert forked(be_killed) == -signal.SIGKILL
    assert (tmp_path / "file").read_bytes() == expected
    remove_halves(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


# Locks

HOLD = (
    "import sys\nfrom pathlib import Path\nfrom strongticket.files import locked\n"
    "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()"
)


def hold(path: Path) -> subprocess.Popen[str]:
    """Start a process that holds the lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_that_another_process_holds_is_refused_with_its_name_until_it_lets_go(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    process = hold(lock)
    with pytest.raises(BlockingIOError, match=rf"process {process.pid} on \S+$"), locked(lock):
        pass
    assert lock.exists()  # the refused one does not remove it
    process.communicate()
    assert not lock.exists()
    with locked(lock):
        assert lock.exists()
    assert not lock.exists()


def test_a_lock_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    process = hold(lock)
    process.kill()
    process.communicate()
    assert lock.exists()
    with locked(lock):
        pass
    assert not lock.exists()


def test_a_lock_is_not_inherited_by_a_process_that_outlives_its_holder(tmp_path: Path) -> None:
    lock, outliving = tmp_path / "lock", tmp_path / "outliving"

    def hold_and_be_killed() -> None:
        with locked(lock):
            if os.fork() == 0:  # as a process of a DataLoader, which notices later that its parent is gone
                write_beside(outliving, str(os.getpid()).encode())
                signal.pause()
            while not outliving.exists():
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGKILL)

    assert forked(hold_and_be_killed) == -signal.SIGKILL
    try:
        with locked(lock):
            pass
    finally:
        os.kill(int(outliving.read_text()), signal.SIGKILL)


def test_one_that_waits_for_a_lock_gets_it_in_the_end(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")

    def count() -> None:
        for _ in range(50):
            with locked(tmp_path / "lock", wait=True):
                counter.write_text(str(int(counter.read_text()) + 1))

    def count_twice() -> None:
        child = os.fork()
        count()
        if child == 0:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

    assert forked(count_twice) == 0
    assert counter.read_text() == "100"
    assert [entry.name for entry in tmp_path.iterdir()] == ["counter"]


def test_a_lock_where_nothing_can_be_written_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, locked(tmp_path / "missing" / "lock"):
        pass
    assert str(caught.value.filename) == str(tmp_path / "missing" / "lock")


def test_without_locks_in_the_file_system_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with locked(tmp_path / "lock"):
        pass
