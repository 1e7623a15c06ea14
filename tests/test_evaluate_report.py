"""What a report says is JSON whatever a network does."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from strongticket.evaluate import ControlResult, Interval, Layer, Measurement, Report, prizes


def measurement(accuracy: float, nll: float = 1.0) -> Measurement:
    return Measurement(accuracy, nll, 0.1, np.array([True, False]))


IMAGE = Layer("conv1.weight", "binary", "real", (0.5,))
HIDDEN = Layer("fc1.weight", "binary", "binary", (0.25, 0.75))
REAL = Layer("head.weight", "real", "real")
INSIDE = Layer("attention.out_proj.weight", "binary", "not seen", (0.5,))


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


# Three prizes


def test_the_prizes_are_the_parts_of_the_report_that_they_are_made_of():
    found = report(layers=(IMAGE, HIDDEN))["prizes"]
    assert found == {
        "accuracy": {"ticket": 0.5, "trained": None, "difference": None},
        "weights": {"digest": "00", "unchanged": True},
        "bits": {"weight": 1, "activation": 1, "layers": 2, "layers_with_binary_inputs": 1},
    }


def test_accuracy_is_beside_the_mean_of_the_trained_networks():
    trained = ControlResult("trained", (measurement(0.5), measurement(0.75)), 1.0)
    random = ControlResult("random", (measurement(0.125),), 0.5)
    found = report(controls={"trained": trained, "random": random})["prizes"]["accuracy"]
    assert found == {"ticket": 0.5, "trained": 0.625, "difference": -0.125}
    assert report(controls={"random": random})["prizes"]["accuracy"]["trained"] is None


@pytest.mark.parametrize(
    ("layers", "weight", "activation", "reading"),
    [
        ((IMAGE,), 1, 32, 0),
        ((IMAGE, HIDDEN, HIDDEN), 1, 1, 2),
        ((REAL, REAL), 32, 32, 0),
        ((IMAGE, REAL), 32, 32, 0),  # one real layer is enough
        ((Layer("a", "real", "binary"),), 32, 1, 1),
        ((IMAGE, INSIDE), 1, 32, 0),
        ((), 32, 32, 0),
    ],
)
def test_bits_are_those_of_the_layers(layers, weight, activation, reading):
    assert report(layers=layers)["prizes"]["bits"] == {
        "weight": weight,
        "activation": activation,
        "layers": len(layers),
        "layers_with_binary_inputs": reading,
    }


def test_the_prizes_follow_from_the_other_parts_of_a_written_report():
    values = json.loads(json.dumps(report(layers=(IMAGE, HIDDEN, REAL)).as_dict(), allow_nan=False))
    assert values["layers"][1] == {"name": "fc1.weight", "weights": "binary", "inputs": "binary", "gain": [0.25, 0.75]}
    told = values.pop("prizes")
    assert prizes(values) == told
    values["controls"]["trained"] = {"mean": 0.25}
    assert prizes(values)["accuracy"] == {"ticket": 0.5, "trained": 0.25, "difference": 0.25}
