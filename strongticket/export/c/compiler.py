"""Compiling a C program and running it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...errors import ExportError
from ..text import core_reason

CANDIDATES = ("cc", "gcc", "clang")
"""Compilers that are looked for if the environment variable CC names none."""

TIME_LIMIT = 600
"""Seconds that a compiler may take, and a program beside what each example may."""

TIME_LIMIT_AN_EXAMPLE = 30
"""Seconds that a program may take for each example that it is given: ResNet-50 on a small board takes some."""

_FLAGS = ("-std=c99", "-O2")


def find_compiler() -> list[str]:
    """Return the command of a C compiler: that of ``CC``, or the first there is; ExportError if there is none."""
    given = os.environ.get("CC", "")
    try:
        named = shlex.split(given)
    except ValueError as error:
        raise ExportError(f"CC is {given!r}, which is no command ({error}); set it to a C compiler") from error
    if named:
        if shutil.which(named[0]) is None:
            raise ExportError(
                f"CC names the C compiler {named[0]!r}, which is not installed; a C export is compiled and run to "
                "verify it: set CC to a compiler"
            )
        return named
    for candidate in CANDIDATES:
        if shutil.which(candidate):
            return [candidate]
    raise ExportError(
        "no C compiler was found, and a C export is compiled and run to verify it; install gcc or clang (Debian: "
        "apt-get install gcc), or name one with the environment variable CC"
    )


def compile_program(sources: Sequence[Path], program: Path, command: Sequence[str]) -> None:
    """Compile C files to a program that this machine runs.

    Raises ExportError with the compiler's first complaint, or if it takes longer than ``TIME_LIMIT``.
    """
    done = _run([*command, *_FLAGS, "-o", str(program), *map(str, sources)], command[0], TIME_LIMIT)
    if done.returncode != 0:
        complaint = next((line for line in done.stderr.decode(errors="replace").splitlines() if "error" in line), "")
        raise ExportError(f"{command[0]} cannot compile the exported program ({complaint or done.returncode})")


def run_program(program: Path, batch: Tensor, outputs: int) -> Tensor:
    """Return what a program of ``main.c`` prints for a batch: float32 (batch, outputs).

    Raises ExportError if it fails, or takes longer than ``TIME_LIMIT`` and ``TIME_LIMIT_AN_EXAMPLE`` allow.
    """
    rows = batch.float().flatten(1).numpy().astype("<f4")
    limit = TIME_LIMIT + TIME_LIMIT_AN_EXAMPLE * len(batch)
    done = _run([str(program)], "the exported program", limit, rows.tobytes())
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        raise ExportError(
            f"the exported program fails with status {done.returncode}" + (f" ({reason[0]})" if reason else "")
        )
    lines = done.stdout.splitlines()
    if len(lines) != len(batch):
        raise ExportError(f"the exported program printed {len(lines)} lines for {len(batch)} examples")
    try:
        return torch.tensor([[float(number) for number in line.split()] for line in lines]).reshape(len(batch), outputs)
    except (ValueError, RuntimeError):
        raise ExportError(f"the exported program printed what are no {outputs} numbers a line") from None


def _run(
    command: Sequence[str], name: str, time_limit: float, given: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    # Messages in English: an error is found by that word.
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        return subprocess.run(
            command, input=given, capture_output=True, check=False, env=environment, timeout=time_limit
        )
    except subprocess.TimeoutExpired:
        raise ExportError(f"{name} did not end within {time_limit:g} seconds and was stopped") from None
    except OSError as error:
        raise ExportError(f"{command[0]} cannot be run: {core_reason(error)}") from error
