"""Every command and code block of the README does what it says."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from strongticket.cli import main

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
SHELL = [block.strip().splitlines() for language, block in BLOCKS if language == "sh"]
SET_UP, MAIN_JOB, TEST_COMMAND, REAL_SEARCH, BINARY = SHELL


@pytest.fixture
def strongticket(tmp_path: Path, monkeypatch, capsys):
    """Run a ``strongticket …`` line in a fresh folder and return its standard output."""
    monkeypatch.chdir(tmp_path)

    def run(command: str) -> str:
        words = command.split()
        assert words[0] == "strongticket"
        code = main(words[1:])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out

    return run


def test_two_commands_set_up_one_runs_the_main_job_and_one_the_tests():
    assert (len(SET_UP), len(MAIN_JOB), len(TEST_COMMAND), len(REAL_SEARCH)) == (2, 1, 1, 3)
    assert {language for language, _ in BLOCKS} == {"sh", "text", "python"}


@pytest.mark.skipif(os.name == "nt", reason="the README's commands are for a POSIX shell")
def test_the_set_up_commands_give_a_working_command(tmp_path: Path):
    copy = tmp_path / "strongticket"
    ignored = shutil.ignore_patterns(".git", ".venv", "*.egg-info", "build", "runs", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, copy, ignore=ignored)
    # No network in a test: what the commands would fetch is lent by the environment that runs it.
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("PIP_")},
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTHONPATH": sysconfig.get_paths()["purelib"],
    }
    script = "\n".join([*SET_UP, "command -v strongticket", "strongticket --version"])
    done = subprocess.run(
        ["bash", "-euc", script.replace("python -m venv", f"{sys.executable} -m venv")],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(copy / ".venv" / "bin" / "strongticket") in done.stdout


def test_the_main_job_finds_a_ticket_that_beats_its_controls(strongticket, tmp_path: Path):
    output = strongticket(MAIN_JOB[0])
    (example,) = (block for language, block in BLOCKS if language == "text")
    assert output.splitlines()[0].split() == example.splitlines()[0].split()
    accuracy = {row.split()[0]: float(row.split()[1]) for row in output.splitlines()[2:5]}
    assert accuracy.keys() == {"ticket", "random", "untrained"}
    assert accuracy["ticket"] >= 0.96
    assert max(accuracy["random"], accuracy["untrained"]) <= 0.35
    assert len(list(tmp_path.glob("runs/*/ticket.safetensors"))) == 1


def test_the_test_command_runs_tests():
    (command,) = TEST_COMMAND
    words = command.replace("python", sys.executable, 1).split()
    done = subprocess.run(
        [*words, "-q", "-p", "no:cacheprovider", "tests/test_masks_schedule.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d+ passed", done.stdout)


def test_the_commands_of_a_real_search_work_on_a_small_stand_in(strongticket, tmp_path: Path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for label in ("cat", "dog"):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    search, evaluate, export = REAL_SEARCH
    assert "--data cifar10 --download" in search
    small = search.replace("--data cifar10 --download", "--data imagefolder:images --width 0.05x --epochs 1")
    assert "ticket" in strongticket(small)
    assert "trained" in strongticket(evaluate)
    assert "equal decisions" in strongticket(export)
    assert (tmp_path / "conv4.onnx").stat().st_size > 0


def test_the_binary_search_says_its_three_prizes_and_what_is_binary(strongticket):
    search, inspect = BINARY
    said = strongticket(f"{search} --epochs 1")
    for prize in ("accuracy", "no weight trained", "1/1 bits"):
        assert prize in said
    assert "trained besides scores: norm_conv1.weight" in said
    shown = strongticket(inspect)
    assert re.search(r"conv1\.weight .* real", shown)
    assert re.search(r"conv2\.weight .* binary", shown)


def test_the_python_example_runs_and_prints_a_report(tmp_path: Path, monkeypatch, capsys):
    (example,) = (block for language, block in BLOCKS if language == "python")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    report = ast.literal_eval(capsys.readouterr().out)
    assert report["ticket"]["test_accuracy"] > max(c["mean"] for c in report["controls"].values())
    assert (tmp_path / "xor.safetensors").exists()


def test_the_commands_within_sentences_work(strongticket):
    assert "`strongticket list models|data|rules|weights|configs`" in TEXT.replace("\n", " ")
    for what in ("models", "data", "rules", "weights", "configs"):
        assert len(strongticket(f"strongticket list {what}").splitlines()) > 2
    shown = strongticket("strongticket search --help")
    for flag in set(re.findall(r"--[a-z-]+", "".join(re.findall(r"`strongticket search[^`]*`", TEXT)))) - {"--help"}:
        assert flag in shown


def test_every_file_that_the_readme_names_is_there():
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / target).exists(), target
