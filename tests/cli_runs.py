"""What the tests of the commands share: tiny runs, tiny image folders, and what a refusal looks like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from strongticket.cli import main

# A quarter of a second: 30 and 10 hidden units on 8x8 digits.
TINY = ("--model", "mlp", "--width", "0.1x", "--epochs", "2")


def search(out: Path, *arguments: str) -> Path:
    """Run a tiny search into ``out`` and return it."""
    assert main(["search", *TINY, "--out", str(out), *arguments]) == 0
    return out


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 1) -> str:
    """Run a command that has to be refused in one line of its own, and return that line."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1, captured.err
    assert captured.err.startswith("error: ")
    assert "bug" not in captured.err, captured.err
    return captured.err


def image_folder(
    root: Path, *, classes: Sequence[str] = ("cat", "dog"), size: int = 8, colour: bool = True, count: int = 6
) -> Path:
    """Write an image folder with ``count`` noise images in each class of train/ and test/, and return it."""
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (size, size, 3) if colour else (size, size), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """Let no file grow beyond ``limit`` bytes, as on a full disk; skips where the system has no such limit."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
