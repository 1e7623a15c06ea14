"""Configuration files by name: those that come with the library, and those of the user."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from strongticket.errors import ConfigError


def shipped_configs() -> dict[str, str]:
    """Return {name: description} of the configuration files that come with the library.

    The description is the file's first line, a comment.
    """
    return {name: _first_comment(file.read_text("utf-8")) for name, file in _shipped().items()}


def find_config(config: str) -> Traversable:
    """Return the shipped file of that name, else the file at that path; ConfigError if there is neither."""
    shipped = _shipped()
    if config in shipped:
        return shipped[config]
    path = Path(config).expanduser()
    if path.is_file():
        return path
    kind = "is a folder" if path.is_dir() else "does not exist"
    raise ConfigError(
        f"config {config!r} {kind}{did_you_mean(config, shipped)}; "
        f"give a YAML file or one of the shipped configs: {', '.join(shipped)}"
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint in brackets at the known name that is most like ``name``, or nothing."""
    close = get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _shipped() -> dict[str, Traversable]:
    folder = resources.files("strongticket.configs")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    return {file.name.removesuffix(".yaml"): file for file in files}


def _first_comment(text: str) -> str:
    first = text.partition("\n")[0]
    return first.lstrip("# ").rstrip() if first.startswith("#") else ""
