"""What both loaders share: which images stand in which batch, the randomness of a batch, and normalisation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from ..errors import ConfigError
from ..weights import words

Augment = Literal["none", "flip", "crop-flip"]
AUGMENTS: tuple[Augment, ...] = ("none", "flip", "crop-flip")
Flips = Literal["random", "alternating"]


@dataclass(frozen=True)
class BatchOrder:
    """The order of `count` images, in batches: a pure function of seed and epoch.

    Raises
    ------
    ConfigError
        If the batch size is below 1, or if `drop_last` would leave no batch of any images.
    """

    count: int
    batch_size: int
    shuffle: bool
    seed: int
    drop_last: bool

    def __post_init__(self) -> None:
        """Refuse a size that gives no batches."""
        if self.batch_size < 1:
            raise ConfigError(f"batch size is {self.batch_size}; it must be at least 1")
        if self.count and not len(self):
            raise ConfigError(
                f"a batch size of {self.batch_size} without a smaller last batch leaves none of {self.count} images; "
                f"use a batch size of at most {self.count}"
            )

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        whole, rest = divmod(self.count, self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield (batch index, int64 positions of its images) from batch `start` of an epoch on."""
        if self.shuffle:
            order = torch.randperm(self.count, generator=generator_for(self.seed, f"order/{epoch}"))
        else:
            order = torch.arange(self.count)
        for batch in range(start, len(self)):
            yield batch, order[batch * self.batch_size : (batch + 1) * self.batch_size]


def seed_for(seed: int, name: str) -> int:
    """Return a 64-bit seed for one use: a pure function of the user's seed and the name of the use."""
    return int(words(seed, name, 1)[0])


def generator_for(seed: int, name: str) -> torch.Generator:
    """Return a generator of its own for one use, so that torch's global one is never touched."""
    return torch.Generator().manual_seed(seed_for(seed, name))


def check_augment(augment: str) -> None:
    """Refuse an augmentation that does not exist."""
    if augment not in AUGMENTS:
        raise ConfigError(f"augment is {augment!r}; it must be one of {', '.join(AUGMENTS)}")


def check_flips(flips: str) -> None:
    """Refuse a way of mirroring that does not exist."""
    if flips not in get_args(Flips):
        raise ConfigError(f"flips is {flips!r}; it must be one of {', '.join(get_args(Flips))}")


class AlternatingFlips:
    """Which of `count` images are mirrored: by chance in the first epoch, and then as they were not in the one before.

    Jordan 2024 (arXiv 2404.00498), section 3.6.
    """

    def __init__(self, count: int, seed: int) -> None:
        self._first = coins(count, generator_for(seed, "flips")).bool()

    def of(self, positions: torch.Tensor, epoch: int) -> torch.Tensor:
        """Return, as bool, which of the images at `positions` are mirrored in an epoch, from 0."""
        return self._first[positions] ^ bool(epoch % 2)


def coins(count: int, generator: torch.Generator) -> torch.Tensor:
    """Return so many of 0 and 1, each by chance."""
    return torch.randint(0, 2, (count,), generator=generator)


@dataclass(frozen=True)
class Part:
    """The part of every batch that one of several processes has: number ``rank`` of ``count``, in their order."""

    rank: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        """Refuse a part that there is not."""
        if not 0 <= self.rank < self.count:
            raise ConfigError(f"part {self.rank} of {self.count} was asked for; parts count from 0")

    def of(self, examples: int) -> slice:
        """Return which of a batch's examples it has; as many as any other, if the batch can be divided."""
        return slice(examples * self.rank // self.count, examples * (self.rank + 1) // self.count)


class Normaliser:
    """uint8 images ``(b, c, h, w)`` to float32: ``(image / 255 - mean) / std`` of each channel.

    Raises
    ------
    ConfigError
        If mean and std are of different lengths, or a std is not above 0.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], *, device: torch.device) -> None:
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise ConfigError(f"mean {tuple(mean)} and std {tuple(std)} must be as many, and every std above 0")
        shape = (len(mean), 1, 1)
        self.scale = torch.tensor([1 / (255 * s) for s in std], device=device).view(shape)
        self.shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device).view(shape)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return a new float32 tensor of the same shape."""
        return images.to(torch.float32).mul_(self.scale).add_(self.shift)
