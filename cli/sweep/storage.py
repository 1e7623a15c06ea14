"""Where the trials of a sweep are kept: Optuna's storages, by address."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from strongticket.errors import ConfigError, MissingExtraError, SearchError

from .sampling import optuna_module

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

T = TypeVar("T")

KINDS = "sqlite:///FILE, journal:FILE or postgresql://USER@HOST/DATABASE"
_OPENED_AT_ONCE = 8
# What processes hear that create the same tables in an empty database together.
_RACING = ("already exists", "duplicate", "locked", "unique")


def default_storage(out: Path) -> str:
    """Return the address of the SQLite file in the folder of a sweep."""
    import sqlalchemy

    return sqlalchemy.URL.create("sqlite", database=str(out.absolute() / "sweep.db")).render_as_string()


def shown(address: str) -> str:
    """Return an address without its password."""
    import sqlalchemy

    if "://" not in address:
        return address
    try:
        return sqlalchemy.make_url(address).render_as_string(hide_password=True)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return address.partition(":")[0] + ":…"


def open_storage(address: str) -> BaseStorage:
    """Return the storage at an address, created if there is none.

    Raises ConfigError for an address of another kind or one that cannot be opened, MissingExtraError if the driver
    of the database is not installed.
    """
    optuna = optuna_module()
    kind, colon, rest = address.partition(":")
    if kind == "journal" and rest:
        file = Path(rest.removeprefix("//")).expanduser().absolute()  # Optuna's lock is a link, which must be absolute
        return _opened(address, lambda: optuna.storages.JournalStorage(_journal(file)))
    if kind in ("postgres", "postgresql") or kind.startswith("postgresql+"):
        url = f"postgresql+psycopg:{rest}" if kind in ("postgres", "postgresql") else address
        return _opened(address, lambda: _database(url))
    if kind == "sqlite" and rest.startswith("///") and rest.strip("/") not in ("", ":memory:"):
        return _opened(address, lambda: _database(address, connect_args={"timeout": 60}))
    raise ConfigError(f"--storage {shown(address) if colon else address!r} was given; expected {KINDS}")


def patiently(action: Callable[[], T], seconds: float) -> T:
    """Return what ``action`` returns, trying again for some time while the storage cannot be reached.

    Raises SearchError if it still cannot. An action may be done twice: its answer can be lost.
    """
    optuna = optuna_module()
    until = time.monotonic() + seconds
    while True:
        try:
            return action()
        except (optuna.exceptions.StorageInternalError, OSError) as error:
            if time.monotonic() >= until:
                raise SearchError(
                    f"the storage of the sweep cannot be reached ({_reason(error)}); once it can, run the same command "
                    "to go on"
                ) from None
            time.sleep(min(1.0, seconds / 10) * (0.5 + random.random()))


def _journal(file: Path) -> object:
    from optuna.storages.journal import JournalFileBackend

    return JournalFileBackend(str(file))


def _database(url: str, **engine: object) -> BaseStorage:
    import sqlalchemy
    from optuna.storages import RDBStorage

    # A connection is held for as long as it is used: a server has fewer than a large sweep has workers.
    options = {"poolclass": sqlalchemy.NullPool, **engine}
    # Optuna reads braces in an address as places to fill.
    return RDBStorage(url.replace("{", "{{").replace("}", "}}"), engine_kwargs=options)


def _opened(address: str, opening: Callable[[], BaseStorage]) -> BaseStorage:
    for attempt in range(_OPENED_AT_ONCE):
        try:
            return opening()
        except ImportError:
            raise MissingExtraError(
                f"--storage {shown(address)} needs a database driver: pip install 'strongticket[sweep]'"
            ) from None
        except Exception as error:  # every database and driver has its own
            if attempt == _OPENED_AT_ONCE - 1 or not any(word in _reason(error).lower() for word in _RACING):
                raise ConfigError(
                    f"--storage {shown(address)} cannot be used: {_reason(error)}; expected {KINDS}"
                ) from None
            time.sleep(0.05 * 2**attempt * random.random())
    raise AssertionError("not reached")


def _reason(error: BaseException) -> str:
    """Return the line that says most: that of the database, without the statement it was given."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(getattr(error, "orig", None) or error)
    return " ".join(text.split("\n")[0].split()) or type(error).__name__
