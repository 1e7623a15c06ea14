"""A process of its own for what is to be killed, without the seconds that a new interpreter takes to import torch."""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

WRITES = ((os, "fsync"), (Path, "replace"), (Path, "unlink"))


def forked(work: Callable[[], object]) -> int:
    """Run ``work`` in a fork of this process; return its exit code, 1 after an exception, −N if signal N ended it."""
    return ended(fork(work))


def fork(work: Callable[[], object]) -> int:
    """Begin ``work`` in a fork of this process, and return its process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        # From Python 3.12 a fork of a process with threads warns; those of torch are idle here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            result = work()
            code = result if isinstance(result, int) else 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


def ended(child: int) -> int:
    """Wait for the end of a fork, and return its exit code as ``forked`` does."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at_write(number: int, on_call: Callable[[], None] | None = None) -> None:
    """Kill this process, which has to be a fork, as it begins its write number ``number``, from 1.

    A write is a call that makes a file last, puts it in the place of another, or removes it.
    """
    calls = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if on_call is not None:
                on_call()
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        return call

    for owner, name in WRITES:
        setattr(owner, name, counted(getattr(owner, name)))
