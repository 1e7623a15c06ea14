"""What is said where a run ends before it is finished: what happened, and how it goes on."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from strongticket.errors import DataError, InterruptedRunError, SearchError, TicketError
from strongticket.search.checkpoint import has_checkpoint

from .run_folder import RunFolder

_WORKER = "DataLoader worker"


@contextmanager
def explained(run: RunFolder) -> Iterator[None]:
    """Say, with whatever ends the block early and leaves a checkpoint, the command by which the run goes on."""
    try:
        yield
    except InterruptedRunError as error:
        raise InterruptedRunError(f"{error}: {_command(run)}", signal=error.signal) from None
    except KeyboardInterrupt as error:
        if not has_checkpoint(run.checkpoint):
            raise
        number = getattr(error, "signal", signal.SIGINT)
        raise InterruptedRunError(f"stopped; {_goes_on(run)}", signal=number) from None
    except (DataError, TicketError) as error:
        if not has_checkpoint(run.checkpoint):
            raise
        raise type(error)(f"{error}; {_goes_on(run)}") from None
    except OSError as error:
        if not error.strerror or not has_checkpoint(run.checkpoint):
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        raise SearchError(f"{where}{error.strerror}; {_goes_on(run)}") from None
    except RuntimeError as error:
        if not str(error).startswith(_WORKER):  # torch says so in whatever line is being run
            raise
        rest = f"; {_goes_on(run)}" if has_checkpoint(run.checkpoint) else ""
        raise DataError(
            f"a process that reads images died ({str(error).split(': ', 1)[-1].rstrip('. ')}), as it does where memory "
            f"is short; use fewer --workers{rest}"
        ) from None


def _goes_on(run: RunFolder) -> str:
    return f"what was done is kept and goes on with: {_command(run)}"


def _command(run: RunFolder) -> str:
    return f"strongticket search --resume --out {shlex.quote(str(run.path))}"
