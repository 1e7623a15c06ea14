"""Image files to pixels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import DataError

_FILES_A_TASK = 32
_WORTH_THREADS = 64 * 64  # pixels; of smaller images Python's part is so large that threads wait for each other


class Member(str):
    """The name of a file inside of a shard, an uncompressed tar archive, and where its bytes lie there."""

    __slots__ = ("offset", "shard", "size")

    shard: str
    offset: int
    size: int

    def __new__(cls, name: str, shard: str, offset: int, size: int) -> Member:
        """Return the name with its place: bytes `offset` to `offset` + `size` of the file `shard`."""
        self = super().__new__(cls, name)
        self.shard, self.offset, self.size = shard, offset, size
        return self

    def __getnewargs__(self) -> tuple[str, str, int, int]:  # type: ignore[override]
        """Return what a worker process makes it from."""
        return str(self), self.shard, self.offset, self.size

    def read(self) -> bytes:
        """Return the bytes; DataError if they are no longer there."""
        with open(self.shard, "rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise DataError(f"cannot read {self}: the shard ends before it; it has changed since it was listed")
        return data


def opened(path: str) -> str | BytesIO:
    """Return what Pillow opens: a path, or the bytes of a member of a shard."""
    return BytesIO(path.read()) if isinstance(path, Member) else path


def open_image(path: str) -> Image.Image:
    """Read an image file: mode ``L`` if it is grey, ``RGB`` otherwise; transparency is dropped.

    Raises
    ------
    DataError
        If the file cannot be read, is no image, is damaged, or has more than 8 bits a channel.
    """
    try:
        with Image.open(opened(path)) as image:
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
        raise DataError(
            f"cannot read the image {path}: {reason}; repair or remove it, or use --skip-bad-images"
        ) from error


def size_of(path: str) -> tuple[int, int]:
    """Return (height, width) of an image file, from its header."""
    width, height = open_image(path).size
    return height, width


def decode(
    files: Sequence[str],
    *,
    image_size: int | None = None,
    skipped: dict[str, str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Decode image files, in several threads if they are not small.

    Parameters
    ----------
    files
        At least one path.
    image_size
        Resize the shorter side of each image to it and cut out the centre; None takes images as they are.
    skipped
        Where to note a file that cannot be read, as {path: reason}, and go on without it; None makes it an error.
    on_progress
        Called with (images done, all images), in this thread.

    Returns
    -------
    uint8, ``(n, channels, height, width)``, of the files that were read; one channel if every image is grey, else
    three.

    Raises
    ------
    DataError
        If a file cannot be read, or all cannot where they may be skipped, or images are of different sizes.
    """

    def pixels(part: Sequence[str]) -> list[NDArray[np.uint8] | DataError]:
        return [_pixels_or_error(path, image_size) for path in part]

    first, *parts = [files[start : start + _FILES_A_TASK] for start in range(0, len(files), _FILES_A_TASK)]
    seen = pixels(first)
    is_small = image_size is None and all(
        image[0].size <= _WORTH_THREADS for image in seen if not isinstance(image, DataError)
    )
    pool = ThreadPoolExecutor(1 if is_small else max(2, os.cpu_count() or 1))
    try:
        decoded = (image for part in chain([seen], pool.map(pixels, parts)) for image in part)
        return _stack(files, decoded, skipped, on_progress)
    finally:
        pool.shutdown(cancel_futures=True)  # whatever ended this early does not wait for all the others


def first_size(files: Sequence[str], skipped: dict[str, str] | None) -> tuple[int, int]:
    """Return (height, width) of the first image file that can be read, or of the first one if `skipped` is None.

    Raises
    ------
    DataError
        If that cannot be read.
    """
    for path in files:
        try:
            return size_of(path)
        except DataError as error:
            if skipped is None:
                raise
            skipped[path] = str(error)
    raise _nothing_readable(files, skipped or {})


def _pixels_or_error(path: str, image_size: int | None) -> NDArray[np.uint8] | DataError:
    """Return one image as ``(channels, height, width)``, or why there is none."""
    try:
        image = open_image(path)
    except DataError as error:
        return error
    if image_size is not None:
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    values = np.asarray(image)
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)


def _stack(
    files: Sequence[str],
    decoded: Iterable[NDArray[np.uint8] | DataError],
    skipped: dict[str, str] | None,
    on_progress: Callable[[int, int], None] | None,
) -> torch.Tensor:
    """Put images into one array, that becomes one of three channels at the first image with colour."""
    images, example, count = np.empty((0, 1, 0, 0), dtype=np.uint8), "", 0
    for done, (path, image) in enumerate(zip(files, decoded, strict=True), start=1):
        if on_progress is not None:
            on_progress(done, len(files))
        if isinstance(image, DataError):
            if skipped is None:
                raise image
            skipped[path] = str(image)
            continue
        if not example:
            images, example = np.empty((len(files), *image.shape), dtype=np.uint8), path
        if image.shape[1:] != images.shape[2:]:
            first, other = ("x".join(map(str, shape)) for shape in (images.shape[2:], image.shape[1:]))
            raise DataError(
                f"images are of different sizes: {example} is {first}, {path} is {other} (height x width); "
                f"bring them to one size with --image-size N"
            )
        if len(image) > images.shape[1]:
            images = np.repeat(images, len(image), axis=1)
        images[count] = image
        count += 1
    if not count:
        raise _nothing_readable(files, skipped or {})
    return torch.from_numpy(images[:count])


def _nothing_readable(files: Sequence[str], skipped: Mapping[str, str]) -> DataError:
    return DataError(f"none of {len(files)} images can be read; the first: {skipped[files[0]]}")


def _one_line(error: Exception) -> str:
    """Return an exception's message on one line, without the number and the path of one of the system's."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
