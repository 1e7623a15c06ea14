"""A sweep as its file says it: one model of the YAML, checked to the last value before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from strongticket.errors import ConfigError

from ..config import RunConfig, changed, load_config
from ..shipped import did_you_mean
from ..yaml_text import parse_mapping
from .plan import Choices, Interval, Sweep

_LARGEST = 100_000
_EXAMPLE = "such as 'density: [0.1, 0.5]'"
_SAMPLED = "expected {low: …, high: …} with log or step if you like, or {choices: […]}"


class _Sampled(BaseModel):
    """How the values of one key are drawn."""

    model_config = ConfigDict(extra="forbid", strict=True)

    low: Any = None
    high: Any = None
    log: bool = False
    step: int | float | None = Field(None, gt=0, allow_inf_nan=False)
    choices: list[Any] | None = Field(None, min_length=1)


class _File(BaseModel):
    """The keys of a sweep file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    base: str | dict[str, Any] = {}
    grid: dict[str, list[Any]] = {}
    sample: dict[str, _Sampled] = {}
    trials: int | None = Field(None, ge=1)
    sampler: Literal["tpe", "random"] = "tpe"
    seeds: list[int] | None = Field(None, min_length=1)


def load_sweep(path: Path, flags: Mapping[str, Any] | None = None) -> Sweep:
    """Return what the file at ``path`` asks for; ``flags`` are options of every run, by field.

    Raises ConfigError, in one line that names the key by its full path, for a file that is missing or damaged, a key
    that is unknown, a value that no run could use, or a range without sense.
    """
    source = str(path)
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise ConfigError(f"the sweep file {source} {kind}; give a YAML file with 'grid:' or 'sample:'")
    try:
        values = parse_mapping(path.read_text("utf-8"), source)
    except UnicodeDecodeError:
        raise ConfigError(f"{source}: is not a text file in UTF-8; expected YAML") from None
    try:
        file = _File.model_validate(values)
    except ValidationError as error:
        lines = dict.fromkeys(_explain(part, source) for part in error.errors())
        raise ConfigError("; ".join(lines)) from None
    base = changed(_base(file.base, path), flags or {}, "the flags")
    if base.validation == 0:
        raise ConfigError(f"{source}: validation is 0; a sweep chooses by held-out images, hold some out")
    grid = {name: _grid_values(base, name, file.grid[key], source) for name, key in _keys(file.grid, source, "grid")}
    sample = {
        name: _sampled(base, name, file.sample[key], source) for name, key in _keys(file.sample, source, "sample")
    }
    sweep = Sweep(
        name=path.stem,
        base=base,
        grid=grid,
        sample=sample,
        trials=_trials(file, source),
        sampler=file.sampler,
        seeds=_seeds(base, file.seeds, source),
    )
    _check_whole(sweep, source)
    return sweep


def _base(base: str | dict[str, Any], path: Path) -> RunConfig:
    """Return the options that all runs share: a configuration file, keys, or keys upon a file (``config:``)."""
    source = f"{path} under base"
    if isinstance(base, str):
        return _config(base, path)
    given = dict(base)
    config = given.pop("config", None)
    if config is not None and not isinstance(config, str):
        raise ConfigError(f"{path}: base.config: {config!r} was given; expected the name or path of a config")
    names = {name: given[key] for name, key in _keys(given, str(path), "base")}
    if "out" in names:
        raise ConfigError(f"{path}: base.out: a sweep has many runs; give the folder of the sweep as --out")
    return changed(_config(config, path), names, source)


def _config(config: str | None, path: Path) -> RunConfig:
    """Return the options of a config, a file beside the file of the sweep before others."""
    beside = path.parent / (config or "")
    try:
        return load_config(str(beside) if beside.is_file() else config)
    except ConfigError as error:
        raise ConfigError(f"{path} under base: {error}") from None


def _keys(section: Mapping[str, Any], source: str, name: str) -> list[tuple[str, str]]:
    """Return (field, key as written) of a section; ConfigError for a key that is no option, or is given twice."""
    fields: dict[str, str] = {}
    for key, value in section.items():
        field = key.replace("-", "_")
        if field not in RunConfig.model_fields:
            path, inner = f"{name}.{key}", value
            while name == "base" and isinstance(inner, dict) and inner:
                below, inner = next(iter(inner.items()))
                path = f"{path}.{below}"
            raise ConfigError(
                f"{source}: the key {path!r} is unknown{did_you_mean(field, RunConfig.model_fields)}; expected an "
                "option of 'strongticket search'"
            )
        if field in fields:
            raise ConfigError(f"{source}: the key '{name}.{field}' is given twice; keep one")
        if name != "base" and field in ("seed", "out"):
            instead = "list the seeds under 'seeds:'" if field == "seed" else "every run gets a folder of its own"
            raise ConfigError(f"{source}: {name}.{field} cannot vary; {instead}")
        fields[field] = key
    return list(fields.items())


def _grid_values(base: RunConfig, name: str, given: list[Any], source: str) -> tuple[Any, ...]:
    if not given:
        raise ConfigError(f"{source}: grid.{name}: an empty list was given; expected values, {_EXAMPLE}")
    return _distinct(
        [_resolved(base, name, value, f"{source} under grid") for value in given], f"{source}: grid.{name}"
    )


def _sampled(base: RunConfig, name: str, given: _Sampled, source: str) -> Interval | Choices:
    key, under = f"{source}: sample.{name}", f"{source} under sample"
    bounds = given.model_fields_set & {"low", "high", "log", "step"}
    if given.choices is not None:
        if bounds:
            raise ConfigError(f"{key}: both choices and {', '.join(sorted(bounds))} were given; keep one kind")
        return Choices(_distinct([_resolved(base, name, value, under) for value in given.choices], key))
    if not {"low", "high"} <= bounds:
        raise ConfigError(f"{key}: {', '.join(sorted(bounds)) or 'nothing'} was given; {_SAMPLED}")
    low, high = (_resolved(base, name, value, under) for value in (given.low, given.high))
    for bound in (low, high):
        if isinstance(bound, bool) or not isinstance(bound, int | float):
            raise ConfigError(f"{key}: {bound!r} is no number; list the values as {{choices: […]}}")
    return _interval(low, high, given, key)


def _interval(low: float, high: float, given: _Sampled, key: str) -> Interval:
    step = given.step
    if low >= high:
        raise ConfigError(f"{key}: low {low} and high {high} were given; expected low below high")
    if given.log and low <= 0:
        raise ConfigError(f"{key}: low {low} with log was given; expected low above 0, or no log")
    if given.log and step is not None:
        raise ConfigError(f"{key}: both log and step were given; keep one")
    if isinstance(low, int) and isinstance(step, float):
        raise ConfigError(f"{key}: step {step} was given; expected a whole number, for the values are whole")
    if step is not None and (Decimal(str(high)) - Decimal(str(low))) % Decimal(str(step)):
        raise ConfigError(f"{key}: steps of {step} from low {low} do not end at high {high}; change one of the three")
    return Interval(low, high, log=given.log, step=step)


def _resolved(base: RunConfig, name: str, value: Any, source: str) -> Any:
    """Return the value as the options hold it, as JSON: ``2x`` is 2.0. ConfigError if it cannot be used."""
    resolved = changed(base, {name: value}, source).model_dump(mode="json")[name]
    if name == "validation" and resolved == 0:
        raise ConfigError(f"validation: 0 was given in {source}; a sweep chooses by held-out images, hold some out")
    return resolved


def _distinct(values: list[Any], key: str) -> tuple[Any, ...]:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ConfigError(f"{key}: {value!r} is given twice; keep one")
    return tuple(values)


def _trials(file: _File, source: str) -> int:
    if file.sample and file.trials is None:
        raise ConfigError(f"{source}: 'sample:' needs 'trials: N', the number of points to draw")
    if not file.sample and file.trials is not None:
        raise ConfigError(f"{source}: 'trials: {file.trials}' was given without 'sample:'; a grid is run as a whole")
    return file.trials or 1


def _seeds(base: RunConfig, given: list[int] | None, source: str) -> tuple[int, ...]:
    seeds = [base.seed] if given is None else given
    for seed in seeds:
        changed(base, {"seed": seed}, f"{source} under seeds")
    return _distinct(seeds, f"{source}: seeds")


def _check_whole(sweep: Sweep, source: str) -> None:
    if not sweep.grid and not sweep.sample:
        raise ConfigError(f"{source}: neither 'grid:' nor 'sample:' was given; expected what to vary, {_EXAMPLE}")
    if both := sorted(sweep.grid.keys() & sweep.sample.keys()):
        raise ConfigError(f"{source}: {both[0]!r} stands under both grid and sample; keep one")
    if (runs := sweep.points * len(sweep.seeds)) > _LARGEST:
        raise ConfigError(f"{source}: {runs} runs were asked for; expected at most {_LARGEST}")
    for cell in sweep.cells:
        changed(sweep.base, cell, f"{source} under grid")


def _explain(error: ErrorDetails, source: str) -> str:
    path = [str(part) for part in error["loc"] if part not in ("str", "dict[str,any]", "int", "float", "list[any]")]
    key, given = ".".join(path), repr(error["input"])
    given = given if len(given) <= 60 else given[:57] + "…"
    if error["type"] == "extra_forbidden":
        known = _Sampled.model_fields if len(path) > 1 else _File.model_fields
        hint = did_you_mean(path[-1], known)
        if len(path) == 1 and not hint and path[0].replace("-", "_") in RunConfig.model_fields:
            hint = "; an option of all runs stands under 'base:'"
        return f"{source}: the key {key!r} is unknown{hint}"
    expected = {
        "base": "the name or path of a config, or keys",
        "grid": f"a list of values for each key, {_EXAMPLE}",
        "seeds": "a list of whole numbers, such as [0, 1, 2]",
        "trials": "a whole number at least 1",
        "sampler": "'tpe' or 'random'",
    }.get(path[0], _SAMPLED.removeprefix("expected "))
    if len(path) > 2:
        expected = {"log": "true or false", "step": "a number above 0", "choices": "a list of values"}[path[2]]
    return f"{source}: {key}: {given} was given; expected {expected}"
