"""Batches of images in memory."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from strongticket.data import BatchLoader, Split, make_loader
from strongticket.errors import ConfigError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def split(count: int = 24, height: int = 7, width: int = 5) -> Split:
    generator = torch.Generator().manual_seed(9)
    images = torch.randint(1, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(count))


def loader(data: Split, **options: Any) -> BatchLoader:
    return BatchLoader(data, **{"batch_size": 8, "mean": MEAN, "std": STD, **options})


def normalised(image: Tensor) -> Tensor:
    """One image, by the textbook formula."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (image.float() / 255 - mean) / std


def moved(image: Tensor, down: int, right: int, *, flip: bool) -> Tensor:
    """The window of a normalised image that begins `down` and `right` of its corner, pixel by pixel, then mirrored."""
    _, height, width = image.shape
    result = torch.zeros_like(image)
    for row, column in product(range(height), range(width)):
        if 0 <= row + down < height and 0 <= column + right < width:
            result[:, row, column] = image[:, row + down, column + right]
    return result.flip(2) if flip else result


def found_moves(original: Tensor, augmented: Tensor, padding: int) -> list[tuple[int, int, bool]]:
    """Every (down, right, flip) that turns the image into the augmented one."""
    shifts = range(-padding, padding + 1)
    return [
        (down, right, flip)
        for down, right, flip in product(shifts, shifts, (False, True))
        if torch.allclose(moved(original, down, right, flip=flip), augmented, atol=1e-5)
    ]


def test_without_augmentation_images_are_normalised_and_in_order() -> None:
    data = split(5)
    inputs, labels = next(iter(loader(data)))
    assert inputs.dtype == torch.float32
    torch.testing.assert_close(inputs, torch.stack([normalised(image) for image in data.images]))
    assert labels.tolist() == [0, 1, 2, 3, 4]


def test_every_augmented_image_is_one_shift_and_flip_of_its_original() -> None:
    data = split(60)
    moves = []
    for inputs, labels in loader(data, batch_size=20, shuffle=True, augment="crop-flip", crop_padding=2):
        for augmented, label in zip(inputs, labels.tolist(), strict=True):
            found = found_moves(normalised(data.images[label]), augmented, 2)
            assert len(found) == 1
            moves += found
    assert {down for down, _, _ in moves} == {right for _, right, _ in moves} == {-2, -1, 0, 1, 2}
    assert {flip for _, _, flip in moves} == {False, True}


def test_images_of_one_batch_are_moved_each_by_itself() -> None:
    one = split(1).images
    data = Split(one.expand(64, -1, -1, -1).contiguous(), torch.zeros(64, dtype=torch.int64))
    (inputs, _), *_ = loader(data, batch_size=64, augment="crop-flip", crop_padding=1)
    moves = [found_moves(normalised(one[0]), augmented, 1)[0] for augmented in inputs]
    assert len(set(moves)) >= 12  # of 18; 64 uniform draws miss half a dozen with a chance below 1e-6
    assert 16 < sum(flip for _, _, flip in moves) < 48


def test_flip_only_mirrors() -> None:
    data = split(40)
    (inputs, _), *_ = loader(data, batch_size=40, augment="flip")
    flips = [
        found[0][2]
        for augmented, image in zip(inputs, data.images, strict=True)
        if (found := found_moves(normalised(image), augmented, 0))
    ]
    assert len(flips) == 40
    assert 8 < sum(flips) < 32


def flips(data: Split, **options: Any) -> list[list[bool]]:
    """Return which images are mirrored in each of four epochs, by label."""
    batches = loader(data, batch_size=16, shuffle=True, augment="flip", flips="alternating", **options)
    epochs = []
    for epoch in range(4):
        batches.set_epoch(epoch)
        seen = {
            label: found_moves(normalised(data.images[label]), augmented, 0)[0][2]
            for inputs, labels in batches
            for augmented, label in zip(inputs, labels.tolist(), strict=True)
        }
        epochs.append([seen[label] for label in sorted(seen)])
    return epochs


def test_alternating_flips_begin_by_chance_and_turn_every_image_in_every_epoch() -> None:
    first, second, third, fourth = flips(split(40))
    assert 8 < sum(first) < 32
    assert second == fourth == [not mirrored for mirrored in first]
    assert third == first
    assert flips(split(40)) == [first, second, third, fourth]
    assert flips(split(40), seed=1)[0] != first


@pytest.mark.parametrize("flips", ["random", "alternating"])
def test_an_epoch_that_has_begun_ends_as_it_began_whatever_epoch_is_next(flips: str) -> None:
    batches = loader(split(40), shuffle=True, augment="crop-flip", flips=flips)
    whole = torch.cat([inputs for inputs, _ in batches])
    begun = iter(batches)
    first, _ = next(begun)
    batches.set_epoch(1)
    assert torch.equal(torch.cat([first, *(inputs for inputs, _ in begun)]), whole)


def test_what_comes_in_at_the_edge_is_exactly_zero() -> None:
    data = Split(torch.full((200, 3, 4, 4), 255, dtype=torch.uint8), torch.zeros(200, dtype=torch.int64))
    (inputs, _), *_ = loader(data, batch_size=200, augment="crop-flip", crop_padding=4)
    white = normalised(data.images[0])[:, 0, 0].view(1, 3, 1, 1)
    inside = (inputs - white).abs() < 1e-5
    assert ((inputs == 0) | inside).all()
    assert (~inside).flatten(1).all(dim=1).any()  # a shift by 4 moves a whole image of 4 pixels out


@pytest.mark.parametrize("padding", [0, 4])
def test_a_padding_of_zero_never_shifts(padding: int) -> None:
    data = split(30)
    (inputs, _), *_ = loader(data, batch_size=30, augment="crop-flip", crop_padding=padding)
    still = [
        bool(found_moves(normalised(image), augmented, 0)) for augmented, image in zip(inputs, data.images, strict=True)
    ]
    assert all(still) == (padding == 0)


def test_an_epoch_is_a_pure_function_of_seed_and_epoch() -> None:
    def epoch(seed: int, number: int) -> Tensor:
        batches = loader(split(), shuffle=True, augment="crop-flip", seed=seed)
        batches.set_epoch(number)
        return torch.cat([inputs for inputs, _ in batches])

    assert torch.equal(epoch(1, 2), epoch(1, 2))
    assert not torch.equal(epoch(1, 2), epoch(1, 3))
    assert not torch.equal(epoch(1, 2), epoch(2, 2))


def test_iterating_twice_gives_the_same_epoch() -> None:
    batches = loader(split(), shuffle=True, augment="crop-flip")
    first, second = ([inputs for inputs, _ in batches] for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("start", [0, 1, 3, 4, 9])
def test_an_epoch_goes_on_at_any_batch_as_if_never_stopped(start: int) -> None:
    batches = loader(split(26), shuffle=True, augment="crop-flip")
    batches.set_epoch(5)
    whole, rest = list(batches), list(batches.batches(start))
    assert len(rest) == max(0, len(whole) - start)
    for (inputs, labels), (again, same) in zip(whole[start:], rest, strict=True):
        assert torch.equal(inputs, again)
        assert torch.equal(labels, same)


def test_two_batches_of_one_epoch_are_moved_differently() -> None:
    data = Split(split(1).images.expand(16, -1, -1, -1).contiguous(), torch.zeros(16, dtype=torch.int64))
    (first, _), (second, _) = loader(data, augment="crop-flip")
    assert not torch.equal(first, second)


@pytest.mark.parametrize("augment", ["none", "flip", "crop-flip"])
def test_channels_last_changes_the_layout_and_no_value(augment: str) -> None:
    plain, last = (
        list(loader(split(), shuffle=True, augment=augment, channels_last=layout)) for layout in (False, True)
    )
    for (inputs, labels), (other, same) in zip(plain, last, strict=True):
        assert inputs.is_contiguous()
        assert other.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(inputs, other)
        assert torch.equal(labels, same)


@pytest.mark.parametrize("augment", ["none", "crop-flip"])
def test_the_last_batch_may_be_a_single_image(augment: str) -> None:
    batches = loader(split(9), augment=augment)
    assert len(batches) == 2
    assert [inputs.shape for inputs, _ in batches] == [(8, 3, 7, 5), (1, 3, 7, 5)]
    assert len(list(loader(split(9), drop_last=True))) == len(loader(split(9), drop_last=True)) == 1


def test_an_empty_split_gives_no_batch() -> None:
    batches = loader(split(0))
    assert len(batches) == 0
    assert list(batches) == []


@pytest.mark.parametrize("workers", [None, 0, 2])
def test_images_in_memory_need_no_worker_processes(workers: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError

    monkeypatch.setattr("strongticket.data.streaming.DataLoader", refuse)
    options: dict[str, Any] = {"batch_size": 8, "mean": MEAN, "std": STD, "shuffle": True, "augment": "crop-flip"}
    found = list(make_loader(split(), workers=workers, **options))
    assert len(found) == 3
    for (inputs, labels), (other, same) in zip(found, loader(split(), shuffle=True, augment="crop-flip"), strict=True):
        assert torch.equal(inputs, other)
        assert torch.equal(labels, same)


def test_the_images_of_the_split_are_never_written_to() -> None:
    data = split()
    before = data.images.clone()
    for inputs, _ in loader(data, augment="crop-flip"):
        inputs.zero_()
    assert torch.equal(data.images, before)


def test_the_global_generator_is_neither_read_nor_changed() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = [inputs for inputs, _ in loader(split(), shuffle=True, augment="crop-flip")]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    second = [inputs for inputs, _ in loader(split(), shuffle=True, augment="crop-flip")]
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"batch_size": 0}, "batch size is 0"),
        ({"augment": "rotate"}, "augment is 'rotate'"),
        ({"crop_padding": -1}, "crop padding is -1"),
        ({"flips": "alternate"}, "flips is 'alternate'; it must be one of random, alternating"),
        ({"mean": (0.5,), "std": (0.5,)}, "mean has 1 values for images of 3 channels"),
        ({"batch_size": 100, "drop_last": True}, "batch size of 100"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused(option: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        loader(split(), **option)


@pytest.mark.gpu
@pytest.mark.parametrize("augment", ["none", "crop-flip"])
def test_batches_on_a_gpu_are_those_of_the_processor(augment: str) -> None:
    here, there = (
        list(loader(split(), shuffle=True, augment=augment, channels_last=True, device=device))
        for device in ("cpu", "cuda")
    )
    for (inputs, labels), (other, same) in zip(here, there, strict=True):
        assert other.is_cuda
        torch.testing.assert_close(inputs, other.cpu())
        assert torch.equal(labels, same.cpu())
