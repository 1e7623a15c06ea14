"""A data set from its name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..errors import ConfigError, DataError
from .downloads import DOWNLOADED, load_downloaded
from .folders import MEMORY_LIMIT, load_image_folder
from .shards import SHARDS, load_shards
from .splits import ImageData, Split, assemble, hold_out

FOLDER = "imagefolder:"
IMAGENET_SIZE = 224
_DIGITS_TEST_PART = 0.2


def available() -> dict[str, str]:
    """Return every data name with a line that describes it."""
    return {
        "digits": "scikit-learn's bundled handwritten digits, 8x8 grey, 1,797; always there",
        **{name: known.description for name, known in DOWNLOADED.items()},
        "imagenet": "DATA_DIR/imagenet with train/ and val/, read from disk at 224x224",
        "imagefolder:DIR": "your own images: train/CLASS/ and test/CLASS/ (or val/CLASS/) in DIR",
        "webdataset:DIR": "your own images in tar shards: train*.tar and test*.tar (or val*.tar) in DIR",
    }


def load(
    name: str,
    *,
    data_dir: str | Path = "data",
    download: bool = False,
    validation: float = 0.1,
    seed: int = 0,
    image_size: int | None = None,
    memory_limit: int = MEMORY_LIMIT,
    skip_bad_images: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> ImageData:
    """Load a data set, and hold a stratified part of its training images out for validation.

    The validation part is a pure function of the set and the seed; the test part is always the same.

    Parameters
    ----------
    name
        ``digits``, ``mnist``, ``fashion-mnist``, ``cifar10``, ``cifar100``, ``svhn``, ``imagenet``,
        ``imagefolder:DIR`` or ``webdataset:DIR``. If an image folder has both ``test/`` and ``val/``, then ``test/`` is
        used; for shards see `load_shards`.
    data_dir
        Where the files of downloaded sets and ``imagenet/`` lie.
    download
        Whether to fetch the files of a downloaded set that are not there.
    validation
        The part of each class's training images to hold out, in [0, 1).
    seed
        From 0 to 2**64 - 1.
    image_size
        Only for image folders and shards: height and width in pixels that each image is given.
    memory_limit
        An image folder of more bytes than this (three a pixel) is not decoded into memory but read from disk in
        training; `make_loader` takes either.
    skip_bad_images
        Whether an image of a folder that cannot be read is left out, and noted in `ImageData.skipped`, instead of being
        an error. No other image changes its part or its label for it.
    on_progress
        Called with (images decoded, all images).

    Raises
    ------
    ConfigError
        If an option cannot be used.
    DataError
        If the name is unknown, or the data is missing or damaged.
    """
    root = Path(data_dir)
    if name.startswith(FOLDER) or name == "imagenet":
        folder = root / name if name == "imagenet" else Path(name.removeprefix(FOLDER)).expanduser()
        if name == FOLDER:
            raise DataError(f"{name!r} names no folder; write {FOLDER}DIR")
        if name == "imagenet" and not folder.is_dir():
            raise DataError(
                f"imagenet is not in {folder}; it cannot be fetched for you: put its train/ and val/ there, with one "
                f"folder of images for each class"
            )
        return load_image_folder(
            folder,
            name=name,
            validation=validation,
            seed=seed,
            image_size=IMAGENET_SIZE if name == "imagenet" and image_size is None else image_size,
            memory_limit=0 if name == "imagenet" else memory_limit,
            skip_bad_images=skip_bad_images,
            on_progress=on_progress,
        )
    if name.startswith(SHARDS):
        return load_shards(
            name,
            validation=validation,
            seed=seed,
            image_size=image_size,
            memory_limit=memory_limit,
            skip_bad_images=skip_bad_images,
            on_progress=on_progress,
        )
    if name != "digits" and name not in DOWNLOADED:
        close = difflib.get_close_matches(name.lower(), [*available(), FOLDER], n=3)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise DataError(f"unknown data {name!r}; {hint}There are {', '.join(available())}")
    if image_size is not None:
        raise ConfigError(f"image size {image_size} was asked for, but {name} has one size; leave it out")
    if name == "digits":
        return _digits(validation, seed)
    return load_downloaded(name, root, download=download, validation=validation, seed=seed)


def _digits(validation: float, seed: int) -> ImageData:
    """Load scikit-learn's digits; a fifth of each class, the same for every seed, is the test part."""
    # Importing scikit-learn takes a second, which no other command or data set should wait for.
    from sklearn.datasets import load_digits

    bundled = load_digits()
    # 17 grey levels, spread evenly over a byte
    images = torch.from_numpy(np.rint(bundled.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(bundled.target.astype(np.int64))
    test = torch.from_numpy(hold_out(labels.numpy(), _DIGITS_TEST_PART, seed=0, name="digits test"))
    return assemble(
        "digits",
        classes=[str(name) for name in bundled.target_names],
        train=Split(images[~test], labels[~test]),
        test=Split(images[test], labels[test]),
        validation=validation,
        seed=seed,
    )
