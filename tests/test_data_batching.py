"""Order, randomness and normalisation of batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strongticket.data.batching import BatchOrder, Normaliser, check_augment, generator_for, seed_for
from strongticket.errors import ConfigError


def order(count: int, batch_size: int, **options: Any) -> BatchOrder:
    return BatchOrder(count, batch_size, **{"shuffle": True, "seed": 0, "drop_last": False, **options})


@given(count=st.integers(0, 40), batch_size=st.integers(1, 50), epoch=st.integers(0, 3), shuffle=st.booleans())
def test_an_epoch_has_every_image_once(count: int, batch_size: int, epoch: int, shuffle: bool) -> None:
    batches = list(order(count, batch_size, shuffle=shuffle).batches(epoch))
    assert len(batches) == len(order(count, batch_size, shuffle=shuffle)) == -(-count // batch_size)
    assert [batch for batch, _ in batches] == list(range(len(batches)))
    assert all(len(positions) == batch_size for _, positions in batches[:-1])
    assert sorted(position for _, positions in batches for position in positions.tolist()) == list(range(count))


def test_without_shuffling_images_come_in_order() -> None:
    batches = order(5, 2, shuffle=False).batches(7)
    assert [positions.tolist() for _, positions in batches] == [[0, 1], [2, 3], [4]]


def test_a_smaller_last_batch_can_be_left_out() -> None:
    batches = list(order(5, 2, drop_last=True).batches(0))
    assert [len(positions) for _, positions in batches] == [2, 2]


def test_seed_and_epoch_each_change_the_order_and_nothing_else_does() -> None:
    def flat(seed: int, epoch: int) -> list[int]:
        return [position for _, positions in order(50, 7, seed=seed).batches(epoch) for position in positions.tolist()]

    assert flat(1, 2) == flat(1, 2)
    assert flat(1, 2) != flat(2, 2)
    assert flat(1, 2) != flat(1, 3)


@given(st.integers(0, 9))
def test_an_epoch_can_begin_at_any_batch(start: int) -> None:
    whole = [positions.tolist() for _, positions in order(20, 3).batches(4)]
    part = [(batch, positions.tolist()) for batch, positions in order(20, 3).batches(4, start=start)]
    assert part == list(enumerate(whole))[start:]


@pytest.mark.parametrize(("batch_size", "drop_last"), [(0, False), (-1, False), (11, True)])
def test_a_size_that_gives_no_batches_is_refused(batch_size: int, drop_last: bool) -> None:
    with pytest.raises(ConfigError, match="batch size"):
        order(10, batch_size, drop_last=drop_last)


def test_uses_have_seeds_of_their_own() -> None:
    assert len({seed_for(seed, name) for seed in (0, 1) for name in ("order/0", "order/1", "batch/0/0")}) == 6


def test_a_generator_repeats_its_draws_and_leaves_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    first = torch.randint(0, 1000, (20,), generator=generator_for(5, "use"))
    assert torch.equal(first, torch.randint(0, 1000, (20,), generator=generator_for(5, "use")))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_outside_64_bits_is_refused(seed: int) -> None:
    with pytest.raises(ConfigError):
        next(order(10, 2, seed=seed).batches(0))


def test_normalisation_is_by_channel() -> None:
    images = torch.tensor([[[[0, 255]], [[51, 102]]]], dtype=torch.uint8)
    normalised = Normaliser((0.5, 0.2), (0.5, 0.1), device=torch.device("cpu"))(images)
    torch.testing.assert_close(normalised, torch.tensor([[[[-1.0, 1.0]], [[0.0, 2.0]]]]))


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5, 0.5)), ((0.5,), (0.0,)), ((0.5,), (float("nan"),))])
def test_a_deviation_that_cannot_divide_is_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="every std above 0"):
        Normaliser(mean, std, device=torch.device("cpu"))


def test_an_unknown_augmentation_is_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match="augment is 'rotate'; it must be one of none, flip, crop-flip"):
        check_augment("rotate")
