"""The parts that processes have of every batch: together they are the batch, augmented as it would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from strongticket.data import FileSplit, Split, make_loader
from strongticket.errors import ConfigError, DataError

HOW: dict[str, Any] = {"batch_size": 8, "shuffle": True, "seed": 3}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> FileSplit:
    """Nineteen images of different sizes: two batches of eight, and one of three."""
    folder, paths = tmp_path_factory.mktemp("images"), []
    for number in range(19):
        pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 40 - number, 3), dtype=np.uint8)
        paths.append(str(folder / f"{number}.png"))
        Image.fromarray(pixels).save(paths[-1])
    return FileSplit(tuple(paths), torch.arange(19), 12)


def in_memory() -> Split:
    generator = torch.Generator().manual_seed(0)
    return Split(torch.randint(0, 256, (19, 3, 10, 12), generator=generator, dtype=torch.uint8), torch.arange(19))


def loader(split: Split | FileSplit, **options: Any) -> Any:
    options = {**HOW, "mean": (0.5,) * 3, "std": (0.5,) * 3, **options}
    return make_loader(split, **options, **({} if isinstance(split, Split) else {"workers": 0}))


@pytest.mark.parametrize("augment", ["none", "flip", "crop-flip"])
@pytest.mark.parametrize("count", [1, 2, 4, 8])
@pytest.mark.parametrize("place", ["memory", "files"])
def test_parts_make_up_the_batches_image_by_image(files: FileSplit, place: str, count: int, augment: str) -> None:
    whole = loader(in_memory() if place == "memory" else files, augment=augment)
    parts = [whole.share(rank, count) for rank in range(count)]
    for each in (whole, *parts):
        each.set_epoch(2)
        assert (len(each), each.batch_size) == (3, 8)
    sizes = []
    for batch, *shares in zip(whole, *parts, strict=True):
        for value, together in zip(batch, map(torch.cat, zip(*shares, strict=True)), strict=True):
            assert torch.equal(value, together)
        sizes.append([len(labels) for _, labels in shares])
    assert sizes[0] == sizes[1] == [8 // count] * count
    assert sum(sizes[2]) == 3
    assert max(sizes[2]) - min(sizes[2]) <= 1


@pytest.mark.parametrize("place", ["memory", "files"])
def test_a_part_goes_on_at_any_batch(files: FileSplit, place: str) -> None:
    part = loader(in_memory() if place == "memory" else files, augment="crop-flip").share(1, 2)
    part.set_epoch(1)
    for whole, rest in zip(list(part)[1:], part.batches(1), strict=True):
        assert torch.equal(whole[0], rest[0])


def test_a_loader_is_whole_after_it_was_shared(files: FileSplit) -> None:
    whole = loader(files)
    whole.share(0, 2)
    assert [len(labels) for _, labels in whole] == [8, 8, 3]


def test_a_part_whose_images_are_all_left_out_is_empty_and_not_missing(files: FileSplit, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    paths = (*files.files[:16], *[str(tmp_path / "bad.png")] * 2)
    split = FileSplit(paths, torch.arange(18), 12, skipped={})
    last = list(loader(split, shuffle=False).share(1, 2))[-1]
    assert (len(last[0]), len(last[1])) == (0, 0)
    assert list(split.skipped or {}) == [str(tmp_path / "bad.png")]


def test_a_whole_part_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    bad = [tmp_path / f"{number}.png" for number in range(8)]
    for file in bad:
        file.write_bytes(b"no image")
    split = FileSplit(tuple(map(str, bad)), torch.arange(8), 12, skipped={})
    with pytest.raises(DataError, match="none of the 4 images of a batch"):
        list(loader(split).share(0, 2))


@pytest.mark.parametrize(("rank", "count"), [(2, 2), (-1, 2), (0, 0)])
def test_a_part_that_there_is_not_is_refused(rank: int, count: int) -> None:
    with pytest.raises(ConfigError, match=f"part {rank} of {count}"):
        loader(in_memory()).share(rank, count)
