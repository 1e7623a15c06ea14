"""What a report says is JSON whatever a network does."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from strongticket.evaluate import ControlResult, Interval, Measurement, Report


def measurement(accuracy: float, nll: float = 1.0) -> Measurement:
    return Measurement(accuracy, nll, 0.1, np.array([True, False]))


def report(**changes) -> Report:
    fields = {
        "measurement": measurement(0.5),
        "density": 0.5,
        "bits_per_weight": 1.0,
        "file_bytes": 10,
        "weights_digest": "00",
        "trained": ("1.weight",),
        "controls": {},
        "seeds": (0, 1),
        "batch_norm": "none",
    }
    return Report(**{**fields, **changes})


def test_mean_and_standard_deviation_by_hand():
    control = ControlResult("random", tuple(measurement(a) for a in (0.1, 0.2, 0.6)), 0.5).as_dict()
    assert control["mean"] == pytest.approx(0.3)
    assert control["sd"] == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2))
    assert control["n"] == 3


def test_one_value_has_no_deviation():
    assert ControlResult("inverted", (measurement(0.4),), 0.5).as_dict()["sd"] == 0


@pytest.mark.parametrize("nll", [math.inf, math.nan])
def test_an_infinite_likelihood_is_null_in_json(nll):
    control = ControlResult("untrained", (measurement(0.1, nll),), 1.0)
    values = report(measurement=measurement(0.1, nll), controls={"untrained": control}).as_dict()
    text = json.dumps(values, allow_nan=False)
    assert json.loads(text)["ticket"]["nll"] is None
    assert json.loads(text)["controls"]["untrained"]["nll"] is None


def test_what_was_trained_is_named_and_the_interval_is_there_if_measured():
    assert report()["ticket"]["trained"] == ["1.weight"]
    assert "against_trained" not in report().as_dict()
    values = report(against_trained=Interval(0.1, 0.0, 0.2, 0.95))["against_trained"]
    assert (values["difference"], values["low"], values["high"], values["confidence"]) == (0.1, 0.0, 0.2, 0.95)
