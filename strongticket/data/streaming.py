"""Batches of images that are read from their files, for sets too large for memory."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import ConfigError, DataError
from .batching import (
    AlternatingFlips,
    Augment,
    BatchOrder,
    Flips,
    Normaliser,
    Part,
    check_augment,
    check_flips,
    seed_for,
)
from .decoding import open_image
from .loader import BatchLoader
from .splits import FileSplit, Split

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_WORKERS = 8
# Positions of the images of a batch, or of a part of it, which of them are mirrored besides what is drawn for them, the
# seed of the batch, and the first one's place in it.
_Key = tuple[list[int], list[bool], int, int]
_Batch = tuple[torch.Tensor, torch.Tensor]
_Read = tuple[torch.Tensor, torch.Tensor, dict[str, str]]  # images, labels, and what could not be read


class StreamLoader:
    """Iterate over one epoch of normalised batches that worker processes decode; otherwise like `BatchLoader`.

    The order, and the crop and flip of every image, are a pure function of (seed, epoch, batch index, place in the
    batch), whatever the number of workers and of processes that share the batches.
    Where the split lets images be skipped, one that cannot be read is missing from its batch.

    Parameters
    ----------
    split
        The files.
    batch_size, mean, std, shuffle, flips, seed, device, channels_last, drop_last
        As for `BatchLoader`.
    augment
        ``"none"``: the shorter side is resized to 8/7 of the image size and the centre is cut out, as usual for
        ImageNet; ``"flip"``: the same, mirrored with probability 1/2; ``"crop-flip"``: a random part of the image,
        8 % to 100 % of its area, is resized to the image size and mirrored with probability 1/2.
    workers
        Processes that decode; None takes one a processor, at most 8; 0 decodes in this process.

    Raises
    ------
    ConfigError
        If an option cannot be used.
    """

    def __init__(
        self,
        split: FileSplit,
        *,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        shuffle: bool = False,
        augment: Augment = "none",
        flips: Flips = "random",
        seed: int = 0,
        device: str | torch.device = "cpu",
        channels_last: bool = False,
        drop_last: bool = False,
        workers: int | None = None,
    ) -> None:
        check_augment(augment)
        check_flips(flips)
        if workers is not None and workers < 0:
            raise ConfigError(f"workers is {workers}; it must be at least 0")
        self.device = torch.device(device)
        self.epoch = 0
        self._order = BatchOrder(len(split), batch_size, shuffle, seed, drop_last)
        self._normalise = Normaliser(mean, std, device=self.device)
        self._memory_format = torch.channels_last if channels_last else torch.contiguous_format
        is_alternating = flips == "alternating" and augment != "none"
        self._flips = AlternatingFlips(len(split), seed) if is_alternating else None
        self._reader = _Reader(split, _transform(augment, split.image_size, draws_flips=not is_alternating))
        self._skipped = split.skipped
        self._part = Part()
        self._workers = min(_processors(), _MOST_WORKERS) if workers is None else workers

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self._order)

    @property
    def batch_size(self) -> int:
        """Images in a batch, the parts of all processes together."""
        return self._order.batch_size

    def share(self, rank: int, count: int) -> StreamLoader:
        """Return a loader of one process of `count`: its part of the same batches; no other image is read.

        A part of a batch may be empty.
        """
        shared = copy.copy(self)
        shared._part = Part(rank, count)
        return shared

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, that the next iteration gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[_Batch]:
        """Yield (float32 images ``(b, 3, image_size, image_size)``, int64 labels ``(b,)``)."""
        return self.batches()

    def batches(self, start: int = 0) -> Iterator[_Batch]:
        """Yield the same batches from batch `start` of the epoch on; those before it are not read.

        Raises
        ------
        DataError
            If an image cannot be read, or, where images may be skipped, none of a whole batch; the message names it.
        """
        seed, epoch = self._order.seed, self.epoch
        keys: Iterator[_Key] = (
            (own.tolist(), self._mirrored(own, epoch), seed_for(seed, f"batch/{epoch}/{batch}"), part.start)
            for batch, positions in self._order.batches(epoch, start=start)
            for part in [self._part.of(len(positions))]
            for own in [positions[part]]
        )
        reader: DataLoader[Any] = DataLoader(
            self._reader,
            batch_size=None,  # a key is a whole batch already
            sampler=keys,
            collate_fn=_unchanged,
            num_workers=self._workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # the loader draws a seed for its workers, else from the global generator
            worker_init_fn=_leave_stopping_to_the_parent,
        )
        for batch in reader:
            if isinstance(batch, DataError):
                raise batch
            images, labels, skipped = batch
            self._note(skipped)
            if not len(labels) and self._part.count == 1:  # the smaller batch at the end of the epoch
                continue
            inputs = self._normalise(images.to(self.device, non_blocking=True))
            yield (
                inputs.contiguous(memory_format=self._memory_format),
                labels.to(self.device, non_blocking=True),
            )

    def _mirrored(self, positions: torch.Tensor, epoch: int) -> list[bool]:
        return [False] * len(positions) if self._flips is None else self._flips.of(positions, epoch).tolist()

    def _note(self, skipped: dict[str, str]) -> None:
        """Add to what was skipped before; if it is a whole batch, something else than single images is wrong."""
        if len(skipped) * self._part.count == self._order.batch_size:
            raise DataError(f"none of the {len(skipped)} images of a batch can be read; {next(iter(skipped.values()))}")
        if self._skipped is not None:
            self._skipped.update(skipped)


def make_loader(
    split: Split | FileSplit,
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
    workers: int | None = None,
) -> BatchLoader | StreamLoader:
    """Return the loader for a split, wherever its images lie; the options are those of `BatchLoader`.

    ``workers`` processes read images that do not lie in memory; None is one for each processor, up to a limit.
    ``crop_padding`` is for images in memory; of others crop-flip takes a random part.
    """
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "mean": mean,
        "std": std,
        "shuffle": shuffle,
        "augment": augment,
        "flips": flips,
        "seed": seed,
        "device": device,
        "channels_last": channels_last,
        "drop_last": drop_last,
    }
    if isinstance(split, Split):
        return BatchLoader(split, crop_padding=crop_padding, **options)
    return StreamLoader(split, workers=workers, **options)


class _Reader(Dataset[Any]):
    """Reads a whole batch of files: uint8 ``(b, 3, size, size)``, labels, and what was skipped.

    A failure is returned and not raised: torch would wrap an exception of a worker process in its traceback.
    """

    def __init__(self, split: FileSplit, transform: Callable[[Any], torch.Tensor]) -> None:
        self._split = split
        self._transform = transform

    def __getitem__(self, key: _Key) -> _Read | DataError:
        positions, mirrored, seed, first = key
        size, skipped = self._split.image_size, dict[str, str]()
        images, read = torch.empty(len(positions), 3, size, size, dtype=torch.uint8), list[int]()
        with _own_randomness() as begin:
            for place, (position, is_mirrored) in enumerate(zip(positions, mirrored, strict=True), start=first):
                begin(seed_for(seed, str(place)))
                path = self._split.files[position]
                try:
                    image = self._transform(open_image(path).convert("RGB"))
                    images[len(read)] = image.flip(2) if is_mirrored else image
                except DataError as error:
                    if self._split.skipped is None:
                        return error
                    skipped[path] = str(error)
                else:
                    read.append(position)
        return images[: len(read)], self._split.labels[read], skipped


def _transform(augment: Augment, size: int, *, draws_flips: bool) -> Callable[[Any], torch.Tensor]:
    """Return the torchvision transform of a PIL image to a uint8 tensor ``(3, size, size)``."""
    # Importing torchvision takes a second, which no other command or data set should wait for.
    from torchvision.transforms import v2

    steps = [v2.Resize(round(size * 8 / 7)), v2.CenterCrop(size)]
    if augment == "crop-flip":
        steps = [v2.RandomResizedCrop(size)]
    if augment != "none" and draws_flips:
        steps.append(v2.RandomHorizontalFlip())
    transform: Callable[[Any], torch.Tensor] = v2.Compose([*steps, v2.PILToTensor()])
    return transform


@contextmanager
def _own_randomness() -> Iterator[Callable[[int], object]]:
    """Let torchvision's transforms, which know only torch's global generator, draw from given seeds; put it back."""
    state = torch.default_generator.get_state()
    try:
        yield torch.default_generator.manual_seed
    finally:
        torch.default_generator.set_state(state)


def _leave_stopping_to_the_parent(worker: int) -> None:
    """Let what signals a whole process group, as Ctrl-C does, stop the parent at a step boundary, not its readers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _unchanged(batch: Any) -> Any:
    """Return a batch as it is; a function of the module, since worker processes may have to pickle it."""
    return batch


def _processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
