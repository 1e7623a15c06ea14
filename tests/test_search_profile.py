"""A profile times search steps beside dense steps, and says where their time goes."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from strongticket import SearchConfig, attach
from strongticket.search import profile
from strongticket.search.profile import Profile

PHASES = {"data", "forward", "backward", "optimizer", "masks", "rest"}


class Slow(nn.Module):
    """A linear layer whose forward pass takes a time of its own."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.layer, self.seconds = nn.Linear(4, 3), seconds

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        outputs: torch.Tensor = self.layer(inputs)
        return outputs


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))] * count


def profiled(search_seconds: float, dense_seconds: float, **options) -> Profile:
    model = Slow(search_seconds)
    attach(model, density=0.5)
    config = SearchConfig(precision="fp32", device="cpu")
    return profile(model, Slow(dense_seconds), batches(3), config, steps=5, warm_up=2, **options)


def test_time_is_counted_where_it_is_spent_and_compared():
    found = profiled(0.03, 0.01)
    assert found.search.keys() == found.dense.keys() == PHASES
    assert found.search["forward"] >= 0.03
    assert 0.01 <= found.dense["forward"] < found.search["forward"]
    assert found.search["masks"] > found.dense["masks"]
    assert found.ratio > 1
    assert found.steps == 5


def test_the_wait_for_data_does_not_enter_the_ratio():
    times = dict.fromkeys(PHASES, 0.0)
    found = Profile(times | {"forward": 3.0, "data": 100.0}, times | {"forward": 2.0, "data": 1.0}, 1, None)  # type: ignore[arg-type]
    assert found.ratio == pytest.approx(1.5)
