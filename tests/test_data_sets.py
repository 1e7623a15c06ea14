"""A data set from its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from strongticket.data import FileSplit, ImageData, Split, available, load
from strongticket.errors import ConfigError, DataError


def parts(data: ImageData) -> tuple[Split, Split, Split]:
    splits = (data.train, data.validation, data.test)
    assert all(isinstance(split, Split) for split in splits)
    return splits  # type: ignore[return-value]


def message(name: str, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_folder(root: Path, test: str) -> None:
    for split in ("train", test):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for number in range(4):
                Image.new("L", (3, 3), number).save(root / split / name / f"{number}.png")


def test_digits_are_all_there_once_on_the_whole_scale_of_a_byte() -> None:
    bundled = load_digits()
    written = sorted(
        (tuple(round(float(pixel) * 255 / 16) for pixel in image.flatten()), int(label))
        for image, label in zip(bundled.images, bundled.target, strict=True)
    )
    data = load("digits")
    loaded = sorted(
        (tuple(image.flatten().tolist()), label)
        for part in parts(data)
        for image, label in zip(part.images, part.labels.tolist(), strict=True)
    )
    assert loaded == written
    assert len(loaded) == 1797
    assert data.input_shape == (1, 8, 8)
    assert data.classes == tuple("0123456789")
    assert data.name == "digits"


def test_the_test_part_of_digits_is_a_fifth_of_each_class_for_every_seed() -> None:
    first, second = (parts(load("digits", seed=seed)) for seed in (0, 1))
    assert torch.equal(first[2].images, second[2].images)
    sizes = np.bincount(load_digits().target)
    assert np.abs(first[2].labels.bincount().numpy() - sizes / 5).max() <= 0.5


def test_the_validation_part_of_digits_is_a_tenth_of_each_class_and_follows_the_seed() -> None:
    first, again, second = (parts(load("digits", seed=seed)) for seed in (0, 0, 1))
    together = first[0].labels.bincount() + first[1].labels.bincount()
    assert (first[1].labels.bincount() - together / 10).abs().max() <= 0.5
    assert torch.equal(first[1].images, again[1].images)
    assert not torch.equal(first[1].images, second[1].images)


def test_the_validation_part_is_as_large_as_asked_for() -> None:
    train, validation, _ = parts(load("digits", validation=0.5))
    assert abs(len(train) - len(validation)) <= 10
    assert len(load("digits", validation=0.0).validation) == 0


def test_an_image_folder_is_found_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "mine", "test")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (f"imagefolder:{tmp_path / 'mine'}", "imagefolder:mine", "imagefolder:~/mine"):
        data = load(name)
        assert data.name == name
        assert data.input_shape == (1, 3, 3)
        assert len(data.test) == 8


def test_imagenet_is_read_from_disk_at_224_pixels(tmp_path: Path) -> None:
    write_folder(tmp_path / "imagenet", "val")
    data = load("imagenet", data_dir=tmp_path)
    assert isinstance(data.train, FileSplit)
    assert data.input_shape == (3, 224, 224)
    assert load("imagenet", data_dir=tmp_path, image_size=64).input_shape == (3, 64, 64)


def test_a_missing_imagenet_names_the_folder(tmp_path: Path) -> None:
    text = message("imagenet", data_dir=tmp_path, download=True)
    assert f"imagenet is not in {tmp_path / 'imagenet'}; it cannot be fetched" in text


def test_a_missing_download_names_the_folder(tmp_path: Path) -> None:
    assert f"cifar10 is not in {tmp_path / 'cifar-10-batches-py'}" in message("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize(("name", "hint"), [("cifar", "cifar10"), ("MNIST", "mnist"), ("imagefolder", "imagefolder:")])
def test_an_unknown_name_lists_close_ones_and_all_there_are(name: str, hint: str) -> None:
    text = message(name)
    assert f"unknown data {name!r}; did you mean" in text
    assert hint in text.partition("There are")[0]
    assert "digits, mnist, fashion-mnist, cifar10, cifar100, svhn, imagenet, imagefolder:DIR" in text


def test_a_name_like_nothing_lists_all_there_are() -> None:
    assert "did you mean" not in message("qqqqqq")


def test_an_image_folder_needs_a_folder() -> None:
    assert "write imagefolder:DIR" in message("imagefolder:")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"image_size": 32}, "digits has one size"),
        ({"validation": 1.0}, "at least 0 and below 1"),
        ({"validation": float("nan")}, "at least 0 and below 1"),
        ({"seed": -1}, "seed"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused(option: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load("digits", **option)


def test_every_name_is_described_in_one_line() -> None:
    assert next(iter(available())) == "digits"
    assert all(description and "\n" not in description for description in available().values())
