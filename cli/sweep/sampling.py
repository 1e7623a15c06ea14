"""Drawing points with Optuna's samplers, from what is known of the points before."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from strongticket.errors import MissingExtraError

from .plan import Choices, Interval, Sweep

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class Known:
    """A point that was drawn before: its values, and the accuracies measured so far, none while it is under way."""

    values: Mapping[str, Any]
    accuracies: Sequence[float]


def propose(sweep: Sweep, point: int, known: Sequence[Known]) -> dict[str, Any]:
    """Return the values of a new point: those of its cell, and a sample for the keys that are sampled.

    ``known`` are the points of the same cell. The seed of the sampler is that of the point, so a point of the random
    sampler is the same whatever came before, and one of TPE (Bergstra et al. 2011) follows from ``known`` alone.
    """
    cell = sweep.cells[point % len(sweep.cells)]
    if not sweep.sample:
        return cell
    optuna = optuna_module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # releases before 5 call constant_liar experimental
        sampler = (
            optuna.samplers.RandomSampler(seed=point)
            if sweep.sampler == "random"
            else optuna.samplers.TPESampler(seed=point, constant_liar=True)  # points under way count as bad ones
        )
    distributions = {key: distribution(given) for key, given in sweep.sample.items()}
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for other in known:
        study.add_trial(
            optuna.create_trial(
                state=optuna.trial.TrialState.COMPLETE if other.accuracies else optuna.trial.TrialState.RUNNING,
                value=fmean(other.accuracies) if other.accuracies else None,
                params={key: encoded(other.values[key]) for key in sweep.sample},
                distributions=distributions,
            )
        )
    drawn = study.ask(distributions).params
    return {**cell, **{key: _decoded(drawn[key], sweep.sample[key]) for key in sweep.sample}}


def distribution(given: Interval | Choices) -> BaseDistribution:
    """Return Optuna's description of the values that a key may have."""
    kinds = optuna_module().distributions
    found: BaseDistribution
    if isinstance(given, Choices):
        found = kinds.CategoricalDistribution([encoded(value) for value in given.values])
    elif isinstance(given.low, int):
        found = kinds.IntDistribution(given.low, int(given.high), log=given.log, step=int(given.step or 1))
    else:
        found = kinds.FloatDistribution(given.low, given.high, log=given.log, step=given.step)
    return found


def encoded(value: Any) -> Any:
    """Return a value as Optuna stores it: lists and mappings as JSON."""
    return json.dumps(value, sort_keys=True) if isinstance(value, list | dict) else value


def optuna_module() -> Any:
    """Return the package optuna; MissingExtraError if it is not installed."""
    try:
        import optuna
    except ImportError:
        raise MissingExtraError("a sweep needs an extra: pip install 'strongticket[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _decoded(value: Any, given: Interval | Choices) -> Any:
    if isinstance(given, Choices):
        return next(choice for choice in given.values if encoded(choice) == value)
    return value
