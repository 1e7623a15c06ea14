"""Every block of docs/deploy.md runs, in the order in which it stands there, and ends in the accuracy of the ticket."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from strongticket.cli import main

TEXT = (Path(__file__).parents[1] / "docs" / "deploy.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


def has_cross_compiler() -> bool:
    """Say whether there is a compiler for microcontrollers, with the headers of a C library."""
    command = ["arm-none-eabi-gcc", "-fsyntax-only", "-include", "string.h", "-x", "c", "/dev/null"]
    return shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True).returncode == 0


def test_from_a_search_to_a_program_that_classifies_digits(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert [language for language, _ in BLOCKS] == ["sh", "sh", "c", "sh", "python", "sh", "python", "sh"]
    printed = ""
    for language, block in BLOCKS:
        if "arm-none-eabi" in block and not has_cross_compiler():
            continue
        if language == "c":
            Path("classify.c").write_text(block)
        elif language == "sh" and block.startswith("strongticket "):
            short = ["--epochs", "4"] if " search " in block else []
            assert main([*block.split()[1:], *short]) == 0
        else:
            words = ["bash", "-euc", block] if language == "sh" else [sys.executable, "-c", block]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            printed += done.stdout
    found = re.match(r"(0\.\d{4}) of 359 test images\n", printed)
    assert found, printed
    report = json.loads(Path("runs/digits/report.json").read_text("utf-8"))
    # A level pair of logits may be decided otherwise in float32.
    assert abs(float(found[1]) - report["ticket"]["test_accuracy"]) <= 2 / 359
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Idigits-c"]
    subprocess.run(["cc", *flags, "-c", "classify.c"], check=True)
