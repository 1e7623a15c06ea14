from __future__ import annotations

import os
from pathlib import Path

import pytest

from strongticket.files import remove_halves, write_beside


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
    for name in ("report.json", "a.1", ".hidden", ".hidden.txt", ".report.json.4711", ".ticket.safetensors.12"):
        (tmp_path / name).write_text("")
    remove_halves(tmp_path)
    assert {entry.name for entry in tmp_path.iterdir()} == {"report.json", "a.1", ".hidden", ".hidden.txt"}


def test_what_lies_beside_a_file_while_it_is_written_is_what_is_removed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.extend(entry.name for entry in tmp_path.iterdir()))
    write_beside(tmp_path / "file", b"whole")
    (half,) = seen
    (tmp_path / half).write_bytes(b"hal")  # as a kill would have left it
    remove_halves(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
