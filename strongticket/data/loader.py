"""Batches of images that lie in memory on the device, each image augmented by itself."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch

from ..errors import ConfigError
from .batching import (
    AlternatingFlips,
    Augment,
    BatchOrder,
    Flips,
    Normaliser,
    Part,
    check_augment,
    check_flips,
    coins,
    generator_for,
)
from .splits import Split


class BatchLoader:
    """Iterate over one epoch of normalised batches.

    The order, and the crop and flip of every image, are a pure function of (seed, epoch, batch index), on every device;
    an interrupted epoch can so go on at any batch. Torch's global generator is not touched.

    Parameters
    ----------
    split
        The images; they are moved to the device once.
    batch_size
        Images in a batch; the last one of an epoch may be smaller.
    mean, std
        Of each channel, for pixels scaled to [0, 1].
    shuffle
        Whether each epoch has an order of its own.
    augment
        ``"none"``; ``"flip"``: each image is mirrored with probability 1/2; or ``"crop-flip"``: each image is also
        shifted by up to `crop_padding` pixels in each direction, and what comes in is 0 after normalisation.
    crop_padding
        The largest shift in pixels, uniform in each direction.
    flips
        ``"random"``: an image is mirrored or not by chance in each epoch; ``"alternating"``: by chance in the first,
        and in each later one as it was not in the one before, so that two epochs show both; see `AlternatingFlips`.
    seed
        From 0 to 2**64 - 1.
    device
        Where images, labels and batches lie.
    channels_last
        Whether batches have torch's channels-last memory format.
    drop_last
        Whether a smaller last batch is left out.

    Raises
    ------
    ConfigError
        If an option cannot be used.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        shuffle: bool = False,
        augment: Augment = "none",
        crop_padding: int = 4,
        flips: Flips = "random",
        seed: int = 0,
        device: str | torch.device = "cpu",
        channels_last: bool = False,
        drop_last: bool = False,
    ) -> None:
        check_augment(augment)
        check_flips(flips)
        if crop_padding < 0:
            raise ConfigError(f"crop padding is {crop_padding} pixels; it must be at least 0")
        if len(mean) != split.input_shape[0]:
            raise ConfigError(f"mean has {len(mean)} values for images of {split.input_shape[0]} channels")
        self.device = torch.device(device)
        self.epoch = 0
        self._order = BatchOrder(len(split), batch_size, shuffle, seed, drop_last)
        self._normalise = Normaliser(mean, std, device=self.device)
        self._memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self._augment = augment
        self._part = Part()
        self._padding = crop_padding if augment == "crop-flip" else 0
        self._flips = AlternatingFlips(len(split), seed) if flips == "alternating" else None
        self._images = split.images.to(self.device).contiguous()
        self._labels = split.labels.to(self.device)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self._order)

    @property
    def batch_size(self) -> int:
        """Images in a batch, the parts of all processes together."""
        return self._order.batch_size

    def share(self, rank: int, count: int) -> BatchLoader:
        """Return a loader of one process of `count`: its part of the same batches, each image augmented as in them."""
        shared = copy.copy(self)
        shared._part = Part(rank, count)
        return shared

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, that the next iteration gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (float32 images ``(b, channels, height, width)``, int64 labels ``(b,)``)."""
        return self.batches()

    def batches(self, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the same batches from batch `start` of the epoch on; those before it are not computed."""
        epoch = self.epoch
        for batch, positions in self._order.batches(epoch, start=start):
            part = self._part.of(len(positions))
            chosen = self._sent(positions[part])
            images = self._images.index_select(0, chosen)
            if self._augment == "none":
                inputs = self._normalise(images)
            else:
                drawn = self._drawn(positions, epoch, batch)
                inputs = self._augmented(images, drawn[:, part].contiguous())
            # Last, since each step before it takes several times as long on channels-last tensors of few channels.
            yield inputs.contiguous(memory_format=self._memory_format), self._labels.index_select(0, chosen)

    def _drawn(self, positions: torch.Tensor, epoch: int, batch: int) -> torch.Tensor:
        """Draw a shift down, a shift to the right and a flip for every image of a batch: ``(3, count)``."""
        generator = generator_for(self._order.seed, f"batch/{epoch}/{batch}")
        drawn = torch.empty(3, len(positions), dtype=torch.int64)
        drawn[:2].random_(-self._padding, self._padding + 1, generator=generator)
        drawn[2] = coins(len(positions), generator) if self._flips is None else self._flips.of(positions, epoch)
        return drawn

    def _augmented(self, images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Shift and flip every image as it was drawn: move the bytes, then normalise once."""
        _, channels, height, width = images.shape
        down, right, flip = self._sent(drawn).unsqueeze(2)
        rows = torch.arange(height, device=self.device) + down
        columns = torch.arange(width, device=self.device) + right
        columns = torch.where(flip.bool(), columns.flip(1), columns)
        # A pixel from outside is read at the edge first, since no byte value is exactly 0 after normalisation.
        source = rows.clamp(0, height - 1).unsqueeze(2) * width + columns.clamp(0, width - 1).unsqueeze(1)
        moved = images.flatten(2).gather(2, source.flatten(1).unsqueeze(1).expand(-1, channels, -1))
        inputs = self._normalise(moved.view_as(images))
        if self._padding:
            inside = _within(rows, height).unsqueeze(2) & _within(columns, width).unsqueeze(1)
            inputs.mul_(inside.unsqueeze(1))
        return inputs

    def _sent(self, values: torch.Tensor) -> torch.Tensor:
        """Send a few numbers to the device; from pinned memory, since it is waited for otherwise."""
        pinned = values.pin_memory() if self.device.type == "cuda" else values
        return pinned.to(self.device, non_blocking=True)


def _within(positions: torch.Tensor, size: int) -> torch.Tensor:
    """Return which positions lie in [0, size)."""
    return (positions >= 0) & (positions < size)
