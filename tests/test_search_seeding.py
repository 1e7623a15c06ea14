from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from strongticket.search import seeded


def test_a_block_draws_what_a_fresh_generator_of_that_seed_draws() -> None:
    expected = torch.rand(5, generator=torch.Generator().manual_seed(7))
    for _ in range(2):
        with seeded(7):
            assert torch.equal(torch.rand(5), expected)
    with seeded(8):
        assert not torch.equal(torch.rand(5), expected)


@pytest.mark.parametrize("seed", [0, 2**63, 2**64 - 1])
def test_every_seed_of_this_library_can_be_used(seed: int) -> None:
    with seeded(seed):
        assert torch.rand(1).numel() >= 1


def test_the_global_generator_stands_where_it_stood_even_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), seeded(3):
        torch.rand(int(1 / 0))
    with seeded(3):
        torch.rand(9)
    assert torch.equal(torch.get_rng_state(), before)


def test_numpy_and_python_are_seeded_too_and_stand_where_they_stood() -> None:
    before, python = np.random.get_state(legacy=False), random.getstate()
    drawn = []
    for seed in (5, 5, 6, 5 + 2**32):
        with seeded(seed):
            drawn.append((np.random.rand(), random.random()))
    assert drawn[0] == drawn[1]
    assert len({numbers for numbers, _ in drawn}) == 3
    assert len({number for _, number in drawn}) == 3
    after = np.random.get_state(legacy=False)
    assert np.array_equal(before["state"]["key"], after["state"]["key"])
    assert before["state"]["pos"] == after["state"]["pos"]
    assert random.getstate() == python
