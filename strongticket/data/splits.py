"""The values: a split of images, a data set of three splits; and how a part is held out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import ConfigError, DataError
from ..weights import permutation


@dataclass(frozen=True, eq=False)
class Split:
    """Images in memory.

    Attributes
    ----------
    images
        uint8, ``(n, channels, height, width)``, 0 to 255.
    labels
        int64, ``(n,)``.
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __post_init__(self) -> None:
        """Refuse tensors of other types or shapes."""
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            raise DataError(
                f"images are {self.images.dtype} of shape {tuple(self.images.shape)}; "
                f"they must be torch.uint8 of shape (n, channels, height, width)"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"labels are {self.labels.dtype} of shape {tuple(self.labels.shape)}; "
                f"they must be torch.int64 of shape ({len(self.images)},), one for each image"
            )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)`` of one image."""
        _, channels, height, width = self.images.shape
        return channels, height, width


@dataclass(frozen=True, eq=False)
class FileSplit:
    """Image files that are too many for memory: they are read, in colour, whenever a batch needs them.

    Attributes
    ----------
    files
        The path of each image.
    labels
        int64, ``(n,)``.
    image_size
        Height and width in pixels that each image is given.
    skipped
        What an image that cannot be read is added to, as {path: reason}, and left out; None if it is an error.
    """

    files: tuple[str, ...]
    labels: torch.Tensor
    image_size: int
    skipped: dict[str, str] | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """``(3, image_size, image_size)``."""
        return 3, self.image_size, self.image_size


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set for classification, in three parts that have no image in common.

    Attributes
    ----------
    name
        As it was asked for.
    classes
        The name of each class; labels are positions in it.
    train, validation, test
        The training images, the part of them that is held out, and the images that a result is reported on.
    mean, std
        Of each channel over the training part, with pixels scaled to [0, 1].
    skipped
        The images that were left out because they cannot be read, {path: reason}; it grows while files are read.
    """

    name: str
    classes: tuple[str, ...]
    train: Split | FileSplit
    validation: Split | FileSplit
    test: Split | FileSplit
    mean: tuple[float, ...]
    std: tuple[float, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)`` of one image."""
        return self.train.input_shape

    def note_skipped(self, skipped: Mapping[str, str]) -> None:
        """Add images that another process left out, {path: reason}."""
        if isinstance(self.skipped, dict):
            self.skipped.update(skipped)


def hold_out(labels: NDArray[np.int64], fraction: float, *, seed: int, name: str) -> NDArray[np.bool_]:
    """Choose a part of every class, as a pure function of labels, fraction, seed and name.

    Of a class of n images ``fraction * n`` are chosen, rounded to nearest, but at least 1 and at most n - 1: a class of
    one image stays whole.

    Returns
    -------
    Bool ``(n,)``, True for what is held out.

    Raises
    ------
    ConfigError
        If the fraction is not in [0, 1).
    DataError
        If nothing can be held out, although the fraction is above 0.
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"the part held out for validation is {fraction}; it must be at least 0 and below 1")
    held = np.zeros(len(labels), dtype=np.bool_)
    if fraction == 0:
        return held
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(math.floor(fraction * len(members) + 0.5), 1), len(members) - 1)
        held[members[permutation(seed, f"{name}/{label}", len(members))[:count]]] = True
    if not held.any():
        raise DataError(
            f"no image can be held out for validation of {len(labels)} training images: "
            f"a class needs at least 2; add images, or set validation to 0"
        )
    return held


def channel_statistics(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, with pixels scaled to [0, 1].

    They come from exact counts of the 256 values, so they are the same on every machine. A constant channel gets a
    standard deviation of 1, so that one can divide by it.

    Parameters
    ----------
    images
        uint8, ``(n, channels, height, width)``.
    """
    values = np.arange(256, dtype=np.int64)
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = np.zeros(256, dtype=np.int64)
        for part in torch.split(images[:, channel], 4096):  # bincount works on an eight times larger copy
            counts += torch.bincount(part.flatten(), minlength=256).numpy()
        total, first, second = (int((counts * values**power).sum()) for power in (0, 1, 2))
        variance = (total * second - first * first) / total**2
        means.append(first / total / 255)
        stds.append(math.sqrt(variance) / 255 if variance > 0 else 1.0)
    return tuple(means), tuple(stds)


def assemble(
    name: str, *, classes: Sequence[str], train: Split, test: Split, validation: float, seed: int
) -> ImageData:
    """Hold a stratified part of the training images out, and put the data set together."""
    held = torch.from_numpy(hold_out(train.labels.numpy(), validation, seed=seed, name="validation"))
    part = Split(train.images[~held], train.labels[~held])
    mean, std = channel_statistics(part.images)
    return ImageData(
        name=name,
        classes=tuple(classes),
        train=part,
        validation=Split(train.images[held], train.labels[held]),
        test=test,
        mean=mean,
        std=std,
    )
