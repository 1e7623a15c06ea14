"""Signs as comparisons of sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from strongticket.export.c.thresholds import directions, integer_thresholds, real_thresholds, smallest
from strongticket.export.graph import MaxPool, Normalisation, Operation, Relu

CHANNELS = 40


def normalisation(seed: int, *, centre: float = 0.0) -> Normalisation:
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(CHANNELS, generator=generator)

    weight = normal()
    weight[:3] = 0
    return Normalisation(4 * normal() + centre, normal() ** 2, 1e-5, weight, normal())


def signs_after(operations: list[Operation], values: Tensor) -> Tensor:
    """Return whether values (sums, channels), float32, are at least 0 behind the operations, computed by torch."""
    for operation in operations:
        if isinstance(operation, Normalisation):
            statistics = (operation.mean, operation.variance, operation.weight, operation.bias)
            values = F.batch_norm(values.T[None, :, None], *statistics, False, 0.0, operation.epsilon)[0, :, 0].T
        elif isinstance(operation, Relu):
            values = values.relu()
    return values >= 0


CHAINS: list[list[Operation]] = [
    [],
    [normalisation(1)],
    [normalisation(2), MaxPool((2, 2), (2, 2)), normalisation(3, centre=2.0)],
    [normalisation(4), Relu(), normalisation(5)],
    [Relu()],
]


@pytest.mark.parametrize("operations", CHAINS)
def test_a_sum_of_signs_is_compared_as_torch_decides(operations: list[Operation]) -> None:
    reach = torch.arange(CHANNELS) * 3
    gain = torch.rand(CHANNELS, generator=torch.Generator().manual_seed(7)) * directions(operations, CHANNELS)
    bias = torch.randn(CHANNELS, generator=torch.Generator().manual_seed(8)) * (torch.arange(CHANNELS) % 2)
    thresholds = integer_thresholds(operations, gain, bias, reach)
    sums = torch.arange(-3 * CHANNELS, 3 * CHANNELS + 1)[:, None].expand(-1, CHANNELS)
    wanted = signs_after(operations, sums * gain + bias)
    possible = sums.abs() <= reach
    assert torch.equal((sums >= thresholds)[possible], wanted[possible])


@pytest.mark.parametrize("operations", CHAINS)
def test_a_real_sum_is_compared_as_torch_decides(operations: list[Operation]) -> None:
    gain = torch.rand(CHANNELS, generator=torch.Generator().manual_seed(7)) * directions(operations, CHANNELS)
    bias = torch.randn(CHANNELS, generator=torch.Generator().manual_seed(8))
    thresholds = real_thresholds(operations, gain, bias)
    with np.errstate(over="ignore"):  # below the lowest there is nothing
        below = torch.from_numpy(np.nextafter(thresholds.numpy(), np.float32(-np.inf)))
    never = thresholds == torch.finfo(torch.float32).max
    always = thresholds == torch.finfo(torch.float32).min
    assert bool(signs_after(operations, (thresholds * gain + bias)[None])[0][~never].all())
    assert not bool(signs_after(operations, (below * gain + bias)[None])[0][~never & ~always].any())
    # Somewhere between very small and very large sums there is a change, unless there is none at all.
    constant = signs_after(operations, torch.stack([-1e30 * gain, 1e30 * gain]) + bias)
    assert torch.equal(constant[0] & constant[1], always & (constant[0] == constant[1]))


def test_a_channel_turns_round_with_each_negative_gain() -> None:
    one, zero = torch.ones(4), torch.zeros(4)
    first = Normalisation(zero, one, 0.0, torch.tensor([1.0, -1.0, -2.0, 0.0]), zero)
    second = Normalisation(zero, one, 0.0, torch.tensor([-1.0, 1.0, -1.0, -1.0]), zero)
    plain = Normalisation(zero, one, 0.0)
    assert directions([first, Relu(), second, plain], 4).tolist() == [-1, -1, 1, -1]


def test_bisection_finds_the_first_integer_for_which_a_condition_holds() -> None:
    change = torch.tensor([-5, -4, 0, 3, 4, 5])
    found = smallest(lambda at: at >= change, torch.full((6,), -4), torch.full((6,), 4))
    assert found.tolist() == [-4, -4, 0, 3, 4, 5]  # 5 is one more than the last
