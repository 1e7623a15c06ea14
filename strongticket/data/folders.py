"""Image folders: ``train/CLASS/image.jpg`` and ``test/CLASS/image.jpg`` (or ``val/``)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import ConfigError, DataError
from .decoding import decode, first_size
from .splits import FileSplit, ImageData, Split, channel_statistics, hold_out

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
TEST_FOLDERS = ("test", "val")
MEMORY_LIMIT = 4 * 2**30
# Of ImageNet's training images: the usual constants for images that are too many to measure first.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Listing:
    """The images of one split: class names in order, files, and the class of each file."""

    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels: NDArray[np.int64]


Parts = tuple[Listing, Listing, Listing]


def load_image_folder(
    root: Path,
    *,
    name: str,
    validation: float,
    seed: int,
    image_size: int | None = None,
    memory_limit: int = MEMORY_LIMIT,
    skip_bad_images: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> ImageData:
    """Read an image folder; what would take more bytes than the limit stays on disk.

    With `skip_bad_images`, images that cannot be read are left out and noted in `ImageData.skipped`: at once if they go
    into memory, else whenever one is come upon.

    Raises
    ------
    ConfigError
        If the image size is below 1.
    DataError
        If a folder is missing or has no images, the classes of the two folders differ, an image cannot be read (or
        none of a class for training, or of a part, where they may be left out), or images are of different sizes
        without an image size.
    """
    if image_size is not None and image_size < 1:
        raise ConfigError(f"image size is {image_size}; it must be at least 1 pixel")
    train, test = _list_both(root)
    held = hold_out(train.labels, validation, seed=seed, name="validation")
    parts = (part_of(train, ~held), part_of(train, held), test)
    return load_listed(
        parts,
        root=root,
        name=name,
        image_size=image_size,
        memory_limit=memory_limit,
        skip_bad_images=skip_bad_images,
        on_progress=on_progress,
    )


def load_listed(
    parts: Parts,
    *,
    root: Path,
    name: str,
    image_size: int | None,
    memory_limit: int,
    skip_bad_images: bool,
    on_progress: Callable[[int, int], None] | None,
) -> ImageData:
    """Read the images of the training, the validation and the test part, which lie under `root`; see above."""
    train = parts[0]
    count = sum(len(part.files) for part in parts)
    skipped: dict[str, str] | None = {} if skip_bad_images else None
    height, width = first_size(train.files, skipped) if image_size is None else (image_size, image_size)
    size = count * height * width * 3
    if size <= memory_limit:
        files = [path for part in parts for path in part.files]
        images = decode(files, image_size=image_size, skipped=skipped, on_progress=on_progress)
        if skipped:
            parts = _readable(*parts, skipped)
        # One array of all three parts in this order, so that each is a view of it and nothing is copied.
        views = torch.split(images, [len(part.files) for part in parts])
        splits = [Split(view, torch.from_numpy(part.labels)) for view, part in zip(views, parts, strict=True)]
        mean, std = channel_statistics(splits[0].images)
        noted = skipped or {}
        return ImageData(name, train.classes, splits[0], splits[1], splits[2], mean=mean, std=std, skipped=noted)
    if image_size is None:
        raise DataError(
            f"{count} images of {height}x{width} in {root} need {size / 2**30:.3g} GiB, more than the "
            f"{memory_limit / 2**30:.3g} GiB kept in memory; give --image-size N, and what is still too large is "
            f"read from disk all along"
        )
    streams = [FileSplit(part.files, torch.from_numpy(part.labels), image_size, skipped) for part in parts]
    return ImageData(
        name,
        train.classes,
        streams[0],
        streams[1],
        streams[2],
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        skipped={} if skipped is None else skipped,
    )


def _list_both(root: Path) -> tuple[Listing, Listing]:
    """List the training and the test images, which must have the same classes."""
    layout = "an image folder holds train/ and test/ (or val/), and in each of them one folder of images for each class"
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; {layout}")
    tests = [root / folder for folder in TEST_FOLDERS if (root / folder).is_dir()]
    for missing, there in (("train/", (root / "train").is_dir()), ("test/ or val/", bool(tests))):
        if not there:
            raise DataError(f"the folder {root} has no {missing}; {layout}")
    train, test = _list(root / "train"), _list(tests[0])
    if train.classes != test.classes:
        only = [
            f"only {folder.name}/ has {_few(sorted(set(one.classes) - set(other.classes)))}"
            for folder, one, other in ((root / "train", train, test), (tests[0], test, train))
            if set(one.classes) - set(other.classes)
        ]
        raise DataError(f"train/ and {tests[0].name}/ of {root} have different classes: {'; '.join(only)}")
    return train, test


def part_of(listing: Listing, chosen: NDArray[np.bool_]) -> Listing:
    """Return a listing of the chosen images only."""
    files = tuple(path for path, is_chosen in zip(listing.files, chosen, strict=True) if is_chosen)
    return Listing(listing.classes, files, listing.labels[chosen])


def _readable(train: Listing, validation: Listing, test: Listing, skipped: Mapping[str, str]) -> Parts:
    """Return what is left of each part without the images in `skipped`; DataError if that is too little."""
    parts = {"training": train, "validation": validation, "test": test}
    left = {
        name: part_of(part, np.array([path not in skipped for path in part.files], dtype=np.bool_))
        for name, part in parts.items()
    }
    reason = next(iter(skipped.values()))
    for name, part in parts.items():
        if part.files and not left[name].files:
            raise DataError(f"none of the {len(part.files)} {name} images can be read; {reason}")
    missing = np.setdiff1d(train.labels, left["training"].labels)
    if missing.size:
        names = _few(train.classes[label] for label in missing)
        raise DataError(f"no training image of the class {names} can be read; {reason}")
    return left["training"], left["validation"], left["test"]


def _list(folder: Path) -> Listing:
    """List the class folders and their images, both sorted by name; hidden ones and other files do not count."""
    try:
        classes = sorted(
            entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")
        )
        files = [_images_under(folder / name) for name in classes]
    except OSError as error:
        raise DataError(f"cannot list the folder {error.filename}: {error.strerror}") from error
    if not classes:
        raise DataError(f"the folder {folder} has no class folders; put the images of each class in one of its own")
    empty = [name for name, images in zip(classes, files, strict=True) if not images]
    if len(empty) == len(classes):
        raise DataError(f"the folder {folder} has no images; files ending in {', '.join(SUFFIXES)} count")
    if empty:
        named = _few(str(folder / name) for name in empty)
        raise DataError(f"there are no images in the class folder {named}; add images, or remove the folder")
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(images) for images in files])
    return Listing(tuple(classes), tuple(path for images in files for path in images), labels)


def _images_under(folder: Path) -> list[str]:
    """Return the image files in a folder and all its subfolders, sorted."""

    def fail(error: OSError) -> None:
        raise error

    return sorted(
        os.path.join(parent, file)
        for parent, _, names in os.walk(folder, onerror=fail, followlinks=True)
        for file in names
        if file.lower().endswith(SUFFIXES) and not file.startswith(".")
    )


def _few(names: Iterable[str]) -> str:
    """Write names as a list, and of many only the first ones."""
    listed = list(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
