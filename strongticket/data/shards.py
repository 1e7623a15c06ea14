"""Images in tar shards, as webdataset writes them: in ``train-0000.tar`` a ``KEY.jpg`` and a ``KEY.cls`` an image."""

from __future__ import annotations

import glob
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import ConfigError, DataError
from .decoding import Member
from .folders import SUFFIXES, Listing, load_listed, part_of
from .splits import ImageData, hold_out

SHARDS = "webdataset:"
CLASSES = "classes.json"
_SPLIT = "{split}"
_READERS = 16  # listing a shard is waiting for its disk
_LONGEST_CLASS = 1000  # bytes
_LONGEST_END = 2**16  # bytes; twice what any program pads an archive with


class _Sample(NamedTuple):
    """An image, and what its ``.cls`` says."""

    image: Member
    label: str


def load_shards(
    name: str,
    *,
    validation: float,
    seed: int,
    image_size: int | None,
    memory_limit: int,
    skip_bad_images: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> ImageData:
    """List the images of tar shards, and load or stream them like those of an image folder.

    ``webdataset:DIR`` takes ``DIR/train*.tar``, ``DIR/test*.tar`` and ``DIR/val*.tar``; ``webdataset:PATTERN`` any path
    with ``{split}`` in the place of these words, and ``*`` for whatever else differs. Where there are test shards,
    those called val are what is held out; otherwise they are the test images, and `validation` of each class of the
    training images is held out. The class of an image is the number in its ``KEY.cls``, or a name. ``classes.json``
    beside the shards names the classes in order, as a list or as {name: number}; without it numbers are their own
    names, and names are sorted.

    Nothing is unpacked and no shard is read through: only headers and classes are when it begins, and then of each
    image the bytes at its place. So every image has the same batch, whatever the number of processes and workers.

    Raises
    ------
    ConfigError
        If the image size is below 1.
    DataError
        If shards are missing or no tar archives, an image has no class or one that is not known, or an image cannot be
        read.
    """
    if image_size is not None and image_size < 1:
        raise ConfigError(f"image size is {image_size}; it must be at least 1 pixel")
    place = str(Path(name.removeprefix(SHARDS)).expanduser())
    if name == SHARDS:
        raise DataError(f"{name!r} names no shards; write {SHARDS}DIR")
    pattern = place if _SPLIT in place else os.path.join(glob.escape(place), f"{_SPLIT}*.tar")
    files = {split: sorted(glob.glob(pattern.replace(_SPLIT, split))) for split in ("train", "test", "val")}
    for split, found, named in (("train", files["train"], "training"), ("test", files["test"] or files["val"], "test")):
        if not found:
            raise DataError(
                f"there are no {named} shards {pattern.replace(_SPLIT, split)}; shards are called train*.tar, "
                f"test*.tar and val*.tar, or by a pattern with {_SPLIT} in the place of these words"
            )
    samples = {split: _samples(found) for split, found in files.items()}
    folder = Path(pattern.partition(_SPLIT)[0]).parent if _SPLIT in place else Path(place)
    classes = _classes(folder / CLASSES, [sample for found in samples.values() for sample in found])
    listed = {split: _listing(found, classes) for split, found in samples.items()}
    train, held_out = listed["train"], listed["val"]
    if not files["test"]:
        listed["test"] = listed["val"]
    if not (files["test"] and files["val"]):
        held = hold_out(train.labels, validation, seed=seed, name="validation")
        train, held_out = part_of(train, ~held), part_of(train, held)
    return load_listed(
        (train, held_out, listed["test"]),
        root=folder,
        name=name,
        image_size=image_size,
        memory_limit=memory_limit,
        skip_bad_images=skip_bad_images,
        on_progress=on_progress,
    )


def _samples(shards: Sequence[str]) -> list[_Sample]:
    """Return the samples of shards, in their order."""
    with ThreadPoolExecutor(_READERS) as pool:
        return [sample for found in pool.map(_samples_of, shards) for sample in found]


def _samples_of(shard: str) -> list[_Sample]:
    images: dict[str, Member] = {}
    labels: dict[str, str] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            end = 0
            for member in archive:
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                folder, _, file = member.name.rpartition("/")
                stem, _, kind = file.partition(".")  # a key ends at the first dot of its file
                key, kind = f"{folder}/{stem}", kind.lower()
                if not member.isfile() or not stem:
                    continue
                if f".{kind}" in SUFFIXES:
                    if key in images:
                        raise DataError(f"{shard} holds two images of the key {key[-80:]!r}; a sample has one")
                    images[key] = Member(f"{shard}/{member.name}", shard, member.offset_data, member.size)
                elif kind == "cls":
                    content = archive.extractfile(member)
                    data = b"" if content is None else content.read(_LONGEST_CLASS + 1)
                    if len(data) > _LONGEST_CLASS:
                        raise DataError(f"{shard}/{member.name} is no class: it has more than {_LONGEST_CLASS} bytes")
                    text = data.decode("utf-8", "replace").strip()
                    labels[key] = str(int(text)) if _is_number(text) else text
        _check_end(shard, end)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        raise DataError(f"cannot list the shard {shard}: {reason}; it has to be a tar that is not compressed") from None
    for key, image in images.items():
        if key not in labels:
            raise DataError(f"the image {image} has no class; {key.rpartition('/')[2]}.cls has to be in the same shard")
    if not images:
        raise DataError(f"the shard {shard} has no images; files ending in {', '.join(SUFFIXES)} count")
    return [_Sample(image, labels[key]) for key, image in images.items()]


def _check_end(shard: str, end: int) -> None:
    """Raise TarError unless nothing but the end of an archive follows its last member, which ends at ``end``."""
    with open(shard, "rb") as file:
        file.seek(end)
        rest = file.read(_LONGEST_END)
    if len(rest) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it is cut short")
    if any(rest):
        raise tarfile.ReadError(f"what follows its first {end} bytes cannot be read")


def _classes(file: Path, samples: Sequence[_Sample]) -> tuple[str, ...]:
    """Return the names of the classes, in the order of their numbers."""
    if file.exists():
        try:
            named = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"cannot read {file}: {' '.join(str(error).split())}") from None
        if isinstance(named, dict) and sorted(map(repr, named.values())) == sorted(map(repr, range(len(named)))):
            named = sorted(named, key=lambda name: int(named[name]))
        if not isinstance(named, list) or not named or len({*map(str, named)}) != len(named):
            raise DataError(f"{file} does not name classes; it has to be a list of names, or names with numbers from 0")
        return tuple(map(str, named))
    found = {sample.label for sample in samples}
    numbers = [int(label) for label in found if _is_number(label)]
    if len(numbers) < len(found):
        return tuple(sorted(found))
    if max(numbers) >= len(samples):
        raise DataError(f"a class is number {max(numbers)}, of {len(samples)} images; name the classes in {file}")
    return tuple(str(number) for number in range(max(numbers) + 1))


def _is_number(label: str) -> bool:
    return label.isascii() and label.isdigit() and len(label) < 10


def _listing(samples: Sequence[_Sample], classes: tuple[str, ...]) -> Listing:
    number = {name: index for index, name in enumerate(classes)} | {str(i): i for i in range(len(classes))}
    for sample in samples:
        if sample.label not in number:
            raise DataError(
                f"the image {sample.image} is of class {sample.label[:80]!r}, which is none of the {len(classes)} "
                f"classes ({', '.join(classes[:3])}, …); mend {CLASSES}"
            )
    labels = np.array([number[sample.label] for sample in samples], dtype=np.int64)
    return Listing(classes, tuple(sample.image for sample in samples), labels)
