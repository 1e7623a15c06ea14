"""Measurements against values worked out by hand or by another library."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss
from torch import nn

from strongticket import apply, attach, extract
from strongticket.errors import DataError
from strongticket.evaluate import calibration_error, measure, paired_bootstrap
from strongticket.masks import FixedMask
from strongticket.search import SearchConfig, place

PLACEMENT = place(nn.Identity(), SearchConfig(device="cpu", precision="fp32", channels_last="off"))


def test_accuracy_and_likelihood_are_those_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(100, 4, generator=generator), torch.randint(0, 4, (100,), generator=generator)
    found = measure(nn.Identity(), list(zip(logits.split(33), labels.split(33), strict=True)), placement=PLACEMENT)
    assert found.accuracy == pytest.approx(accuracy_score(labels, logits.argmax(1)))
    assert found.nll == pytest.approx(log_loss(labels, logits.double().softmax(1)), rel=1e-5)
    assert found.correct.tolist() == (logits.argmax(1) == labels).tolist()


def test_calibration_error_by_hand():
    confidence = np.array([0.95, 0.95, 0.55, 0.55])
    correct = np.array([True, False, True, True])
    # Bins of 0.1: two at 0.95 with accuracy 0.5, two at 0.55 with accuracy 1.
    assert calibration_error(confidence, correct, bins=10) == pytest.approx(0.5 * 0.45 + 0.5 * 0.45)


def test_a_perfectly_sure_and_right_network_is_calibrated():
    assert calibration_error(np.ones(5), np.ones(5, dtype=bool)) == 0


def test_the_edges_of_confidence_fall_into_bins():
    assert calibration_error(np.array([0.0, 1.0]), np.array([False, True])) == 0


def test_the_bootstrap_brackets_the_difference_like_the_normal_approximation():
    rng = np.random.default_rng(0)
    first, second = rng.random(2000) < 0.8, rng.random(2000) < 0.7
    found = paired_bootstrap(first, second)
    difference = first.astype(float) - second.astype(float)
    half = 1.96 * difference.std() / math.sqrt(2000)
    assert found.difference == pytest.approx(difference.mean())
    assert found.low == pytest.approx(difference.mean() - half, abs=0.003)
    assert found.high == pytest.approx(difference.mean() + half, abs=0.003)


def test_equal_networks_differ_by_nothing():
    same = np.array([True, False, True])
    found = paired_bootstrap(same, same)
    assert (found.difference, found.low, found.high) == (0, 0, 0)


def test_a_bootstrap_of_different_examples_is_refused():
    with pytest.raises(DataError, match="got 2 and 3"):
        paired_bootstrap(np.ones(2), np.ones(3))


def test_no_batches_and_foreign_classes_are_refused():
    with pytest.raises(DataError, match="no batch to evaluate"):
        measure(nn.Identity(), [], placement=PLACEMENT)
    with pytest.raises(DataError, match="class 7, but the network has 3 outputs"):
        measure(nn.Identity(), [(torch.zeros(1, 3), torch.tensor([7]))], placement=PLACEMENT)


def test_a_batch_of_one_is_measured():
    found = measure(nn.Identity(), [(torch.tensor([[0.0, 1.0]]), torch.tensor([1]))], placement=PLACEMENT)
    assert found.accuracy == 1


def test_a_mirrored_measurement_is_of_the_mean_of_both_logits():
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(40, 1, 2, 3, generator=generator), torch.randint(0, 6, (40,), generator=generator)
    found = measure(
        nn.Flatten(), list(zip(images.split(15), labels.split(15), strict=True)), placement=PLACEMENT, tta="flip"
    )
    rows = images[:, 0]
    logits = torch.cat([(rows + rows[:, :, [2, 1, 0]]).flatten(1) / 2])
    assert found.correct.tolist() == (logits.argmax(1) == labels).tolist()
    assert found.nll == pytest.approx(log_loss(labels, logits.double().softmax(1)), rel=1e-5)


def test_a_moved_measurement_weighs_six_views_that_are_written_out_by_hand():
    image, label = torch.arange(1.0, 7.0).reshape(1, 1, 2, 3), torch.tensor([2])
    found = measure(nn.Flatten(), [(image, label)], placement=PLACEMENT, tta="flip-shift")
    views = [
        (2, [[1, 2, 3], [4, 5, 6]]),
        (2, [[3, 2, 1], [6, 5, 4]]),
        (1, [[5, 6, 0], [0, 0, 0]]),  # up and to the left
        (1, [[0, 6, 5], [0, 0, 0]]),
        (1, [[0, 0, 0], [0, 1, 2]]),  # down and to the right
        (1, [[0, 0, 0], [2, 1, 0]]),
    ]
    logits = sum(weight * np.array(view, dtype=float) for weight, view in views).ravel() / 8
    assert found.nll == pytest.approx(np.log(np.exp(logits).sum()) - logits[2])


@pytest.mark.parametrize("tta", ["flip", "flip-shift"])
def test_what_is_no_image_is_not_mirrored(tta):
    with pytest.raises(DataError, match=rf"tta {tta} mirrors .* these inputs are \(1, 2\)"):
        measure(nn.Identity(), [(torch.zeros(1, 2), torch.tensor([1]))], placement=PLACEMENT, tta=tta)


def test_a_masked_weight_is_computed_once_for_all_batches(monkeypatch):
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    attach(model, density=0.5)
    ticket = extract(model)
    carrier = apply(ticket, nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)))
    calls = []
    forward = FixedMask.forward
    monkeypatch.setattr(FixedMask, "forward", lambda self, weight: (calls.append(1), forward(self, weight))[1])
    batches = [(torch.randn(5, 6), torch.tensor([0, 1, 2, 0, 1])) for _ in range(4)]
    measure(carrier, batches, placement=PLACEMENT)
    assert len(calls) == 2
    carrier(batches[0][0])
    assert len(calls) == 4  # and anew afterwards
