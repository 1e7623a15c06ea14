from __future__ import annotations

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
