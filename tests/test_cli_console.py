from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from strongticket.cli import console


def test_a_column_of_numbers_is_flush_right(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(["name", "kept"], [["a", 5], ["bb", "1,234"], ["c", None]])
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "name    kept",
        "────────────",
        "a          5",
        "bb     1,234",
        "c",
    ]


def test_a_table_that_nobody_watches_is_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(["name"], [["x" * 500]])
    assert "x" * 500 in capsys.readouterr().out


def test_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    text = "weights[0] [red]x[/red] :smile: " + "long " * 60
    console.print_line(text)
    console.note(text)
    captured = capsys.readouterr()
    assert captured.out == captured.err == text + "\n"


def test_json_is_one_object_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"name": "σ", "values": [1, None]})
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"name": "σ", "values": [1, None]}
    assert captured.err == ""


def test_json_holds_no_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        console.print_json({"loss": float("nan")})


def test_an_error_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    console.error("one\n  two\tthree")
    assert capsys.readouterr() == ("", "error: one two three\n")


def test_progress_is_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with console.ProgressLine("reading images", every=0.0) as bar:
        bar.update(1, 3)
        bar.update(2, None, "still going")
        bar.line("epoch 1")
    assert capsys.readouterr() == ("", "reading images: 1/3\nreading images: 2  still going\nepoch 1\n")


def test_plain_progress_is_not_repeated_too_soon(capsys: pytest.CaptureFixture[str]) -> None:
    with console.ProgressLine("reading images", every=60.0) as bar:
        for done in range(1000):
            bar.update(done, 1000)
    assert capsys.readouterr().err == ""


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100, markup=False, highlight=False)
    monkeypatch.setattr(console, "_console", lambda *, stderr: terminal)
    with console.ProgressLine("reading images") as bar:
        bar.update(50, 100, "half of it")
        bar.line("epoch 1")
    drawn = screen.getvalue()
    assert "50%" in drawn
    assert "half of it" in drawn
    assert "epoch 1\n" in drawn.replace("\r", "")
