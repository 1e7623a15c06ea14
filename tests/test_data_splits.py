"""The values, and what is held out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strongticket.data.splits import FileSplit, Split, assemble, channel_statistics, hold_out
from strongticket.errors import ConfigError, DataError


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**64 - 1),
)
def test_every_class_gives_its_share_and_keeps_at_least_one(sizes: list[int], fraction: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    if max(sizes) == 1:
        with pytest.raises(DataError, match="at least 2"):
            hold_out(labels, fraction, seed=seed, name="validation")
        return
    held = hold_out(labels, fraction, seed=seed, name="validation")
    for label, size in enumerate(sizes):
        count = int(held[labels == label].sum())
        assert count <= size - 1
        assert count >= min(1, size - 1)
        assert abs(count - fraction * size) <= 1


def test_a_tenth_of_a_class_of_thirty_is_three() -> None:
    labels = np.repeat(np.arange(2), [30, 50])
    held = hold_out(labels, 0.1, seed=0, name="validation")
    assert [int(held[labels == label].sum()) for label in (0, 1)] == [3, 5]


def test_what_is_held_out_depends_on_seed_and_name_alone() -> None:
    labels = np.repeat(np.arange(3), 100)
    first = hold_out(labels, 0.5, seed=1, name="a")
    assert np.array_equal(first, hold_out(labels, 0.5, seed=1, name="a"))
    assert not np.array_equal(first, hold_out(labels, 0.5, seed=2, name="a"))
    assert not np.array_equal(first, hold_out(labels, 0.5, seed=1, name="b"))


def test_classes_do_not_share_their_positions() -> None:
    held = hold_out(np.repeat(np.arange(2), 100), 0.5, seed=0, name="a")
    assert not np.array_equal(held[:100], held[100:])


def test_nothing_is_held_out_at_zero() -> None:
    assert not hold_out(np.zeros(10, dtype=np.int64), 0.0, seed=0, name="a").any()


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5, float("nan")])
def test_a_part_outside_zero_to_one_is_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match="at least 0 and below 1"):
        hold_out(np.zeros(10, dtype=np.int64), fraction, seed=0, name="a")


def test_statistics_are_those_of_the_scaled_pixels() -> None:
    images = torch.randint(0, 256, (50, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = channel_statistics(images)
    scaled = images.numpy().astype(np.float64).transpose(1, 0, 2, 3).reshape(3, -1) / 255
    np.testing.assert_allclose(mean, scaled.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std(axis=1), rtol=1e-12)


def test_a_constant_channel_has_a_deviation_to_divide_by() -> None:
    assert channel_statistics(torch.full((2, 1, 2, 2), 51, dtype=torch.uint8)) == ((0.2,), (1.0,))


def test_the_three_parts_have_no_image_in_common_and_lose_none() -> None:
    images = torch.arange(200, dtype=torch.uint8).view(200, 1, 1, 1)
    labels = torch.arange(200) % 4
    data = assemble(
        "numbers",
        classes="abcd",
        train=Split(images[:160], labels[:160]),
        test=Split(images[160:], labels[160:]),
        validation=0.25,
        seed=3,
    )
    assert isinstance(data.train, Split)
    assert isinstance(data.validation, Split)
    assert len(data.validation) == 40
    together = torch.cat([data.train.images, data.validation.images]).flatten()
    assert together.sort().values.tolist() == list(range(160))
    assert torch.equal(data.train.labels, data.train.images.flatten().long() % 4)
    assert torch.equal(data.validation.labels.bincount(), torch.full((4,), 10))
    assert data.mean == channel_statistics(data.train.images)[0]
    assert data.input_shape == (1, 1, 1)
    assert data.classes == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    "change",
    [
        {"images": torch.zeros(2, 1, 3, 3)},
        {"images": torch.zeros(2, 3, 3, dtype=torch.uint8)},
        {"labels": torch.zeros(2, dtype=torch.int32)},
        {"labels": torch.zeros(3, dtype=torch.int64)},
    ],
)
def test_tensors_of_another_type_or_shape_are_refused(change: dict[str, Any]) -> None:
    right: dict[str, Any] = {
        "images": torch.zeros(2, 1, 3, 3, dtype=torch.uint8),
        "labels": torch.zeros(2, dtype=torch.int64),
    }
    assert len(Split(**right)) == 2
    with pytest.raises(DataError, match="they must be torch"):
        Split(**{**right, **change})


def test_files_have_colour_and_one_size() -> None:
    split = FileSplit(("a.png", "b.png"), torch.tensor([0, 1]), 32)
    assert len(split) == 2
    assert split.input_shape == (3, 32, 32)
