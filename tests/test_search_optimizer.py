"""The optimizer and its learning rate, against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from strongticket.search import SearchConfig
from strongticket.search.muon import Muon
from strongticket.search.optimizer import learning_rate_factor, make_optimizer


def config(**options) -> SearchConfig:
    return SearchConfig(**{"device": "cpu", "precision": "fp32", "epochs": 4, **options})


@pytest.mark.parametrize(
    ("progress", "factor"), [(0, 1.0), (1, 0.5 + 0.5 * math.cos(math.pi / 4)), (2, 0.5), (4, 0.0), (5, 0.0)]
)
def test_the_cosine_schedule_falls_from_one_to_zero(progress, factor):
    assert learning_rate_factor(progress, config()) == pytest.approx(factor)


def test_warm_up_rises_linearly_and_the_cosine_takes_the_rest():
    warm = config(warmup_epochs=2)
    assert [learning_rate_factor(p, warm) for p in (0, 1, 2, 3, 4)] == pytest.approx([0.1, 0.55, 1.0, 0.5, 0.0])


def test_a_constant_schedule_stays():
    assert {learning_rate_factor(p, config(schedule="constant")) for p in (0, 2, 4)} == {1.0}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("muon", Muon)],
)
def test_vectors_get_no_weight_decay_under_any_optimizer(name, kind):
    parameters = [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))]
    optimizer = make_optimizer(parameters, config(optimizer=name, weight_decay=0.3, learning_rate=0.2))
    assert type(optimizer) is kind
    assert [(g["params"][0].dim(), g["weight_decay"], g["lr"]) for g in optimizer.param_groups] == [
        (2, 0.3, 0.2),
        (1, 0.0, 0.2),
    ]


def test_a_parameter_that_is_first_used_in_a_later_step_learns_from_then_on():
    early, late = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = make_optimizer([early, late], config(learning_rate=0.5, momentum=0.5, nesterov=False, weight_decay=0.0))
    for used in ([early], [early, late], [early, late]):
        optimizer.zero_grad()
        for parameter in used:
            parameter.sum().backward()
        optimizer.step()
    # A gradient of 1 in each step: momenta of 1, 1.5 and 1.75.
    assert early.tolist() == [[1 - 0.5 * (1 + 1.5 + 1.75)] * 2] * 2
    assert late.tolist() == [[1 - 0.5 * (1 + 1.5)] * 2] * 2
