"""Image files to pixels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import DataError

_FILES_A_TASK = 32


def open_image(path: str) -> Image.Image:
    """Read an image file: mode ``L`` if it is grey, ``RGB`` otherwise; transparency is dropped.

    Raises
    ------
    DataError
        If the file cannot be read, is no image, is damaged, or has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            if image.mode[0] in "IF":
                raise DataError(
                    f"the image {path} has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits"
                )
            if image.mode in ("1", "L", "LA"):
                return image.convert("L")
            # Pillow warns of a palette with transparency that goes straight to RGB.
            return (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")
    except DataError:
        raise
    except Exception as error:  # decoders raise errors of many kinds for damaged files, SyntaxError among them
        reason = "it is not an image" if isinstance(error, UnidentifiedImageError) else _one_line(error)
        raise DataError(f"cannot read the image {path}: {reason}; repair or remove it") from error


def size_of(path: str) -> tuple[int, int]:
    """Return (height, width) of an image file, from its header."""
    width, height = open_image(path).size
    return height, width


def decode(
    files: Sequence[str], *, image_size: int | None = None, on_progress: Callable[[int, int], None] | None = None
) -> torch.Tensor:
    """Decode image files in several threads.

    Parameters
    ----------
    files
        At least one path.
    image_size
        Resize the shorter side of each image to it and cut out the centre; None takes images as they are.
    on_progress
        Called with (images done, all images), in this thread.

    Returns
    -------
    uint8, ``(n, channels, height, width)``; one channel if every image is grey, else three.

    Raises
    ------
    DataError
        If a file cannot be read, or images are of different sizes.
    """

    def pixels(part: Sequence[str]) -> list[NDArray[np.uint8]]:
        return [_pixels(path, image_size) for path in part]

    parts = [files[start : start + _FILES_A_TASK] for start in range(0, len(files), _FILES_A_TASK)]
    with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
        decoded = (image for part in pool.map(pixels, parts) for image in part)
        return _stack(files, decoded, on_progress)


def _pixels(path: str, image_size: int | None) -> NDArray[np.uint8]:
    """Return one image as ``(channels, height, width)``."""
    image = open_image(path)
    if image_size is not None:
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    values = np.asarray(image)
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)


def _stack(
    files: Sequence[str], decoded: Iterable[NDArray[np.uint8]], on_progress: Callable[[int, int], None] | None
) -> torch.Tensor:
    """Put images into one array, that becomes one of three channels at the first image with colour."""
    images = np.empty((0, 1, 0, 0), dtype=np.uint8)
    for done, image in enumerate(decoded):
        if done == 0:
            images = np.empty((len(files), *image.shape), dtype=np.uint8)
        if image.shape[1:] != images.shape[2:]:
            first, other = ("x".join(map(str, shape)) for shape in (images.shape[2:], image.shape[1:]))
            raise DataError(
                f"images are of different sizes: {files[0]} is {first}, {files[done]} is {other} (height x width); "
                f"bring them to one size with --image-size N"
            )
        if len(image) > images.shape[1]:
            images = np.repeat(images, len(image), axis=1)
        images[done] = image
        if on_progress is not None:
            on_progress(done + 1, len(files))
    return torch.from_numpy(images)


def _one_line(error: Exception) -> str:
    """Return an exception's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__
