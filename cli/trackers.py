"""Trackers that also get the metrics of a run: all that accelerate knows."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from strongticket.errors import ConfigError, MissingExtraError

from .config import RunConfig
from .console import note
from .shipped import did_you_mean

Metrics = Callable[[Mapping[str, Any], int], None]

_PROJECT = "strongticket"
# What a tracker is told about one run, beside the project it belongs to; {name} is the run, {folder} its folder.
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "wandb": {"name": "{name}", "dir": "{folder}"},
    "mlflow": {"run_name": "{name}"},
    "clearml": {"task_name": "{name}"},
    "dvclive": {"dir": "{folder}/dvclive", "dvcyaml": None, "save_dvc_exp": False},  # no file, no commit elsewhere
    "swanlab": {"experiment_name": "{name}", "logdir": "{folder}/swanlab"},
    "trackio": {"name": "{name}"},
}


def check_tracker(name: str) -> None:
    """Raise ConfigError unless accelerate knows a tracker ``name``, MissingExtraError if accelerate is missing."""
    if name != "none":
        _known(name)


@contextmanager
def tracking(name: str, folder: Path, config: RunConfig) -> Iterator[Metrics]:
    """Run a block with a tracker for the run in ``folder``, and give a function that takes (metrics, epoch).

    ``none`` is no tracker. What the tracker cannot take later on is said once and does not end the run: the metrics
    are in its folder. Raises ConfigError for a tracker that is not known or cannot start, MissingExtraError with the
    pip command if its package is missing.
    """
    if name == "none":
        yield lambda metrics, epoch: None
        return
    tracker = _started(name, folder, config)
    broken: list[str] = []

    def guarded(action: Callable[[], None]) -> None:
        try:
            if not broken:
                with redirect_stdout(sys.stderr):  # some talk, and what is on stdout is the command's result
                    action()
        except Exception as error:  # whatever a tracker's package or its server comes up with
            broken.append(str(error))
            note(f"the tracker {name} takes no more: {_line(error)}; the metrics are in {folder / 'metrics.jsonl'}")

    def track(metrics: Mapping[str, Any], epoch: int) -> None:
        numbers = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
        guarded(lambda: tracker.log(numbers, step=epoch))

    try:
        yield track
    finally:
        guarded(tracker.finish)


def _started(name: str, folder: Path, config: RunConfig) -> Any:
    kind = _known(name)
    from accelerate.state import PartialState

    PartialState()  # the trackers ask it which process they are in
    places = {"name": folder.name, "folder": str(folder)}
    options = {
        key: value.format(**places) if isinstance(value, str) else value
        for key, value in _OPTIONS.get(name, {}).items()
    }
    # tensorboard makes a folder of the first name in the second one.
    project = name if name == "tensorboard" else _PROJECT
    try:
        where = [str(folder)] if kind.requires_logging_directory else []
        tracker = kind(project, *where, **options)
        with redirect_stdout(sys.stderr):
            tracker.start()
            if name != "tensorboard":  # there it would be a second run beside this one
                tracker.store_init_configuration(_flat(config))
    except ImportError as error:
        raise MissingExtraError(f"--track {name} needs a package ({_line(error)}): {_pip(name)}") from None
    except Exception as error:  # no account, no server, no network: every package says it in its own way
        raise ConfigError(f"the tracker {name} cannot start: {_line(error)}; set it up, or leave --track out") from None
    return tracker


def _known(name: str) -> Any:
    try:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS
    except ImportError:
        raise MissingExtraError(f"--track {name} needs an extra: pip install 'strongticket[track]'") from None
    if name not in LOGGER_TYPE_TO_CLASS:
        known = ", ".join(["none", *sorted(LOGGER_TYPE_TO_CLASS)])
        hint = did_you_mean(name, LOGGER_TYPE_TO_CLASS)
        raise ConfigError(f"--track {name!r} was given{hint}; expected one of {known}")
    return LOGGER_TYPE_TO_CLASS[name]


def _pip(name: str) -> str:
    return "pip install 'strongticket[track]'" if name == "tensorboard" else f"pip install {name}"


def _flat(config: RunConfig) -> dict[str, Any]:
    """Return the options as trackers take them: numbers, truth values and texts."""
    return {
        key: json.dumps(value) if isinstance(value, list | dict) or value is None else value
        for key, value in config.model_dump(mode="json").items()
    }


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
