"""Re-estimated statistics are plain averages, and nothing else of the network changes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from strongticket.evaluate.statistics import has_running_statistics, reestimate
from strongticket.search import SearchConfig, place

PLACEMENT = place(nn.Identity(), SearchConfig(device="cpu", precision="fp32"))


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    inputs = 3 + 2 * torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    return [(part, torch.zeros(len(part), dtype=torch.int64)) for part in inputs.split(10)]


def test_mean_and_variance_are_averages_over_the_batches():
    norm = nn.BatchNorm1d(5, momentum=0.3)
    norm.running_mean.fill_(99)
    reestimate(norm, batches(), placement=PLACEMENT)
    parts = [x for x, _ in batches()]
    assert norm.running_mean.numpy() == pytest.approx(torch.stack([x.mean(0) for x in parts]).mean(0).numpy(), rel=1e-5)
    assert norm.running_var.numpy() == pytest.approx(torch.stack([x.var(0) for x in parts]).mean(0).numpy(), rel=1e-5)
    assert norm.momentum == 0.3
    assert not norm.training


def test_the_number_of_examples_bounds_the_work_and_single_examples_are_passed_over():
    seen = []

    class Noting(nn.BatchNorm1d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(len(x))
            return super().forward(x)

    reestimate(Noting(5), [(batches()[0][0][:1], torch.zeros(1)), *batches()], placement=PLACEMENT, examples=15)
    assert seen == [10, 10]


def test_dropout_stays_off():
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(5))
    reestimate(model, batches(), placement=PLACEMENT)
    assert model[1].running_mean.numpy() == pytest.approx(
        torch.cat([x for x, _ in batches()]).mean(0).numpy(), rel=1e-4
    )


def test_a_network_without_running_statistics_is_not_run():
    assert has_running_statistics(nn.Sequential(nn.BatchNorm1d(2)))
    assert not has_running_statistics(nn.Sequential(nn.LayerNorm(2), nn.BatchNorm1d(2, track_running_stats=False)))
    reestimate(nn.LayerNorm(2), iter(()), placement=PLACEMENT)
