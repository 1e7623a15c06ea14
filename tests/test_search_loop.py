"""The loop's parts, against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from strongticket.errors import DataError, SearchError
from strongticket.search import SearchConfig, place
from strongticket.search.loop import (
    Loop,
    count_correct,
    refuse_divergence,
    validate,
)


def config(**options) -> SearchConfig:
    return SearchConfig(**{"device": "cpu", "precision": "fp32", "epochs": 4, **options})


def test_an_epoch_reports_the_mean_loss_and_the_share_of_correct_examples():
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0], [0.0]]))
    batches = [(torch.zeros(3, 1), torch.tensor([0, 0, 1])), (torch.zeros(1, 1), torch.tensor([0]))]
    loop = Loop(model, batches, config(epochs=1), placement=place(model, config()))
    (event,) = loop.epochs()
    assert event.loss == pytest.approx(math.log(2))
    assert event.train_accuracy == 0.75
    assert (event.epoch, event.epochs, event.validation_accuracy) == (1, 1, None)


def test_the_learning_rate_follows_the_schedule_step_by_step():
    model, rates = nn.Linear(1, 2), []
    batches = [(torch.ones(1, 1), torch.tensor([0]))] * 2
    loop = Loop(model, batches, config(epochs=2, learning_rate=1.0), placement=place(model, config()))
    step = loop.optimizer.step
    loop.optimizer.step = lambda: (rates.append(loop.optimizer.param_groups[0]["lr"]), step())  # type: ignore[method-assign]
    list(loop.epochs())
    assert rates == pytest.approx([0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(4)])


def test_label_smoothing_enters_the_loss():
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[math.log(3)], [0.0]]))
    loop = Loop(
        model,
        [(torch.ones(1, 1), torch.tensor([0]))],
        config(epochs=1, label_smoothing=0.2),
        placement=place(model, config()),
    )
    (event,) = loop.epochs()
    assert event.loss == pytest.approx(0.9 * -math.log(0.75) + 0.1 * -math.log(0.25))


def test_a_loader_is_told_the_epoch():
    told = []

    class Told(list):
        def set_epoch(self, epoch: int) -> None:
            told.append(epoch)

    model = nn.Linear(1, 2)
    loop = Loop(
        model, Told([(torch.ones(1, 1), torch.tensor([0]))]), config(epochs=3), placement=place(model, config())
    )
    list(loop.epochs())
    assert told == [0, 1, 2]


def test_data_that_can_be_read_once_only_are_refused_in_the_second_epoch():
    model = nn.Linear(1, 2)
    loop = Loop(model, iter([(torch.ones(1, 1), torch.tensor([0]))]), config(), placement=place(model, config()))
    with pytest.raises(DataError, match="no batch in epoch 2"):
        list(loop.epochs())


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_diverged_loss_stops_the_loop_with_epoch_and_step(loss):
    with pytest.raises(SearchError, match="epoch 3 at step 7; lower the learning rate"):
        refuse_divergence(loss, 3, 7)
    refuse_divergence(1e9, 3, 7)


def test_validation_is_a_mean_over_examples_and_leaves_evaluation_mode():
    model = nn.Sequential(nn.Flatten(), nn.Identity())
    batches = [
        (torch.tensor([[0.0, 9.0]]), torch.tensor([1])),
        (torch.tensor([[9.0, 0.0]] * 3), torch.tensor([0, 0, 1])),
    ]
    accuracy, loss = validate(model, batches, place(model, config()))
    wrong, right = math.log1p(math.exp(9)), math.log1p(math.exp(-9))
    assert accuracy == 0.75
    assert loss == pytest.approx((3 * right + wrong) / 4)
    assert not model.training


def test_validation_on_nothing_is_refused():
    with pytest.raises(DataError, match="validation data gave no batch"):
        validate(nn.Identity(), [], place(nn.Linear(1, 1), config()))


def test_correct_examples_are_counted_over_all_positions_of_an_output():
    outputs = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    assert int(count_correct(outputs, torch.tensor([[1, 1]]))) == 1
