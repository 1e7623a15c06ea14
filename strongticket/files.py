"""Writing a file so that nothing is ever lost half-way, and by one process at a time."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


def write_beside(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path`` and rename it there: a reader sees the old bytes or the new ones, never a part.

    Raises OSError that names ``path`` if it cannot be done; ``path`` is then as it was and nothing is left beside it.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        _flush_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


def remove_halves(folder: Path) -> None:
    """Remove what a process that was killed within ``write_beside`` left in ``folder``; nobody may be writing there."""
    for file in folder.glob(".*.*"):
        if is_half(file):
            file.unlink(missing_ok=True)


def is_half(file: Path) -> bool:
    """Say whether ``file`` is named as what ``write_beside`` leaves if it is killed."""
    return file.name.startswith(".") and file.name.count(".") > 1 and file.name.rpartition(".")[2].isdigit()


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file ``path`` against other processes while the block runs; it is removed with the block.

    The lock ends with the process, however that ends: a file that a kill left behind locks nothing. Raises
    BlockingIOError, whose text says who holds it, if another process does, or waits for it with ``wait``; OSError that
    names ``path`` if the file cannot be written. Where the file system knows no locks there is none.
    """
    descriptor = _opened_and_locked(path, wait=wait)
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        with suppress(OSError):
            if _is_at(path, descriptor):
                path.unlink()
        os.close(descriptor)


def _opened_and_locked(path: Path, *, wait: bool) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor, wait=wait)
            if _is_at(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its last holder removed it in between: what we locked is no longer the file


def _lock(descriptor: int, *, wait: bool) -> None:
    if sys.platform == "win32":
        return
    import fcntl

    try:
        # Not flock: worker processes inherit that, and would hold it on for a while after this one was killed.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            holder = os.read(descriptor, 200).decode(errors="replace")
            raise BlockingIOError(errno.EAGAIN, holder or "another process") from None
        if error.errno not in _NO_LOCKS_HERE:
            raise


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _flush_folder(folder: Path) -> None:
    """Make a renaming in ``folder`` last through a power failure, where folders can be flushed."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
