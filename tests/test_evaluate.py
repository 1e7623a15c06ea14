"""A ticket beside its controls, on a problem small enough to search in a test."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from strongticket import SearchConfig, attach, evaluate, extract, search
from strongticket.errors import ConfigError
from strongticket.evaluate import CONTROLS, layers_of
from strongticket.search import EpochDone, StepDone
from strongticket.weights import BinaryActivation

CONFIG = SearchConfig(epochs=12, learning_rate=0.5, device="cpu", precision="fp32", trained_learning_rate=0.2)


def batches(seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    inputs = torch.randn(256, 10, generator=torch.Generator().manual_seed(seed))
    return list(zip(inputs.split(32), inputs[:, :4].argmax(1).split(32), strict=True))


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4))


@pytest.fixture(scope="module")
def ticket():
    model = network()
    attach(model)
    search(model, batches(0), CONFIG)
    return extract(model)


@pytest.fixture(scope="module")
def report(ticket):
    return evaluate(
        ticket,
        network,
        batches(1),
        controls=tuple(CONTROLS),
        seeds=(0, 1),
        train=batches(0),
        config=CONFIG,
        dataset="d",
    )


def test_the_report_has_the_contract_of_the_file(report, ticket):
    values = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert set(values["ticket"]) >= {
        "test_accuracy",
        "density",
        "bits_per_weight",
        "file_bytes",
        "weights_digest",
        "trained",
        "nll",
        "calibration_error",
    }
    assert values["ticket"]["weights_digest"] == ticket.weights_digest
    assert values["ticket"]["density"] == 0.5
    assert 0 < values["ticket"]["bits_per_weight"] <= 1.1
    assert values["dataset"] == "d"
    assert values["seeds"] == [0, 1]
    assert set(values["controls"]) == set(CONTROLS)
    for name, control in values["controls"].items():
        assert control["n"] == (1 if name == "inverted" else 2)
        assert 0 <= control["mean"] <= 1
        assert control["sd"] >= 0
    assert "re-estimated on training inputs" in values["batch_norm"]


def test_a_report_reads_like_its_file(report):
    assert report["controls"]["random"]["mean"] == report.as_dict()["controls"]["random"]["mean"]
    assert report["dataset"] == "d"


def test_mean_and_standard_deviation_are_over_the_seeds(report):
    control = report.as_dict()["controls"]["random"]
    first, second = control["accuracies"]
    assert control["mean"] == pytest.approx((first + second) / 2)
    assert control["sd"] == pytest.approx(abs(first - second) / 2**0.5)


def test_the_ticket_is_better_than_what_keeps_its_weights_or_its_mask_alone(report):
    accuracy = report.measurement.accuracy
    for name in ("random", "shuffled", "redrawn", "initial", "untrained", "inverted"):
        assert accuracy > max(report.controls[name].accuracies) + 0.05


def test_the_interval_against_trained_brackets_the_difference(report):
    interval = report.against_trained
    trained = sum(report.controls["trained"].accuracies) / 2
    assert interval.difference == pytest.approx(report.measurement.accuracy - trained)
    assert interval.low <= interval.difference <= interval.high


def test_evaluation_repeats_itself_and_leaves_the_global_generator_alone(ticket):
    state = torch.get_rng_state()
    options = {"controls": ("random", "trained"), "seeds": (3,), "train": batches(0), "config": CONFIG}

    def build() -> nn.Module:
        with torch.random.fork_rng(enabled=not seeded):
            return network()

    seeded = False
    first = evaluate(ticket, build, batches(1), **options).as_dict()
    assert torch.equal(torch.get_rng_state(), state)
    seeded = True
    second, third = (evaluate(ticket, build, batches(1), **options).as_dict() for _ in range(2))
    assert second == third == first


def test_without_training_data_statistics_come_from_the_evaluation_inputs_and_the_report_says_so(ticket):
    values = evaluate(ticket, network, batches(1), controls=("random",), seeds=(0,)).as_dict()
    assert "the evaluation inputs, without their labels" in values["batch_norm"]


def test_a_network_without_batch_norm_is_reported_as_such():
    model = nn.Linear(10, 4)
    attach(model)
    report = evaluate(extract(model), lambda: nn.Linear(10, 4), batches(1), controls=())
    assert report.batch_norm == "the network keeps no batch-norm statistics"
    assert report.controls == {}


def test_progress_names_every_control_and_seed(ticket):
    heard = []
    evaluate(
        ticket,
        network,
        batches(1),
        controls=("random", "inverted"),
        seeds=(5, 6),
        on_control=lambda name, seed: heard.append((name, seed)),
    )
    assert heard == [("random", 5), ("random", 6), ("inverted", 5)]


def test_the_trained_network_tells_its_steps_and_epochs(ticket):
    heard = []
    config = CONFIG.model_copy(update={"epochs": 2})
    evaluate(
        ticket,
        network,
        batches(1),
        controls=("random", "trained"),
        seeds=(5,),
        train=batches(0),
        config=config,
        on_event=heard.append,
    )
    assert [event.epoch for event in heard if isinstance(event, EpochDone)] == [1, 2]
    assert sum(isinstance(event, StepDone) for event in heard) == 2 * len(batches(0))


# Binary tickets


class Watched:
    """A factory that remembers what it built, and each network's weights as they were at first."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU) -> None:
        self.activation = activation
        self.built: list[nn.Sequential] = []
        self.first: list[torch.Tensor] = []

    def __call__(self) -> nn.Module:
        model = nn.Sequential(nn.Linear(10, 64), nn.BatchNorm1d(64), self.activation(), nn.Linear(64, 4))
        self.built.append(model)
        self.first.append(model[0].weight.detach().clone())
        return model

    @property
    def trained(self) -> list[bool]:
        """Whether each network is an ordinary one that learned."""
        return [
            type(model[0]) is nn.Linear and not torch.equal(model[0].weight, first)
            for model, first in zip(self.built, self.first, strict=True)
        ]


@pytest.fixture(scope="module")
def binary_ticket():
    model = Watched(BinaryActivation)()
    attach(model, binary="weights+activations", weights="kaiming-normal")
    search(model, batches(0), CONFIG)
    return extract(model)


def test_the_real_valued_network_is_what_trains_and_nothing_else_does(binary_ticket):
    build, dense = Watched(BinaryActivation), Watched()
    options = {"controls": ("trained", "random"), "seeds": (0, 1), "train": batches(0), "config": CONFIG}
    report = evaluate(binary_ticket, build, batches(1), build_dense=dense, **options)
    assert dense.trained == [True, True]  # one a seed
    assert build.trained == [False] * 3  # the ticket, and random twice
    assert all(isinstance(model[2], nn.ReLU) for model in dense.built)
    inputs, labels = (torch.cat(part) for part in zip(*batches(1), strict=True))
    accuracies = [float((model.eval()(inputs).argmax(1) == labels).double().mean()) for model in dense.built]
    assert report.controls["trained"].accuracies == pytest.approx(accuracies)
    trained = report["prizes"]["accuracy"]
    assert trained["trained"] == pytest.approx(sum(accuracies) / 2)
    assert trained["difference"] == pytest.approx(report.measurement.accuracy - sum(accuracies) / 2)


def test_the_plain_network_trains_where_no_other_is_named(binary_ticket):
    build = Watched(BinaryActivation)
    evaluate(binary_ticket, build, batches(1), controls=("trained",), seeds=(0,), train=batches(0), config=CONFIG)
    assert build.trained == [False, True]


def test_all_networks_beside_the_ticket_are_binary_as_it_is(binary_ticket):
    build = Watched(BinaryActivation)
    controls = tuple(name for name in CONTROLS if name != "trained")
    report = evaluate(binary_ticket, build, batches(1), controls=controls, seeds=(0,))
    assert [(layer.name, layer.weights, layer.inputs) for layer in report.layers] == [
        ("0.weight", "binary", "real"),
        ("3.weight", "binary", "binary"),
    ]
    assert len(build.built) == 1 + len(controls)
    for model in build.built:
        found = layers_of(model, batches(1)[0][0])
        assert [(layer.weights, layer.inputs) for layer in found] == [("binary", "real"), ("binary", "binary")]
        for layer, position in zip(found, (0, 3), strict=True):
            values = model[position].weight.detach()
            np.testing.assert_allclose(values[values != 0].abs().numpy(), layer.gain[0], rtol=1e-6)
    assert report["prizes"]["bits"] == {"weight": 1, "activation": 1, "layers": 2, "layers_with_binary_inputs": 1}


def test_an_ordinary_ticket_is_reported_as_real(report):
    assert {(layer["weights"], layer["inputs"]) for layer in report["layers"]} == {("real", "real")}
    assert report["prizes"]["bits"]["weight"] == report["prizes"]["bits"]["activation"] == 32


@pytest.mark.parametrize("tta", ["none", "flip"])
def test_what_is_mirrored_is_measured_alike_in_every_row_with_flip_alone(tta):
    def build() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(10, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4))

    def images(seed: int, *, mirrored: bool = False) -> list[tuple[torch.Tensor, torch.Tensor]]:
        rows = [(inputs.reshape(-1, 1, 2, 5), targets) for inputs, targets in batches(seed)]
        return [(inputs[..., [4, 3, 2, 1, 0]] if mirrored else inputs, targets) for inputs, targets in rows]

    model = build()
    attach(model)
    search(model, images(0), CONFIG)
    found = extract(model)
    options = {"controls": ("random", "trained"), "seeds": (0,), "train": images(0), "config": CONFIG, "tta": tta}
    plain, mirror = (evaluate(found, build, images(1, mirrored=turned), **options) for turned in (False, True))
    assert plain["tta"] == tta
    pairs = [(report["ticket"], *report["controls"].values()) for report in (plain, mirror)]
    assert [one["nll"] == pytest.approx(other["nll"]) for one, other in zip(*pairs, strict=True)] == [tta == "flip"] * 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"controls": ("randon",)}, "did you mean 'random'"),
        ({"seeds": ()}, "no seed was given"),
        ({"tta": "mirror"}, "tta 'mirror' is not known; choose one of none, flip, flip-shift"),
        ({"controls": ("trained",)}, "needs train= batches and config="),
    ],
)
def test_a_bad_request_is_one_line(ticket, options, words):
    with pytest.raises(ConfigError, match=words):
        evaluate(ticket, network, batches(1), **options)
