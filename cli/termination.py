"""SIGTERM as an exception, so that a command that is terminated tidies up like one that is interrupted."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM; nobody who lets Ctrl-C through keeps it."""

    signal = int(signal.SIGTERM)


@contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated at SIGTERM while the block runs, as Python raises KeyboardInterrupt at SIGINT.

    A process that is forked inside ends as it would without. Outside the main thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            raise Terminated
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
