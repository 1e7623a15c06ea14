"""Image folders."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from strongticket.data.folders import IMAGENET_MEAN, IMAGENET_STD, load_image_folder
from strongticket.data.splits import FileSplit, ImageData, Split
from strongticket.errors import ConfigError, DataError

PER_CLASS = {"train": 10, "test": 3}


def write(path: Path, value: int, size: tuple[int, int] = (6, 5)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 255)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes; the red of each image is a number of its own."""
    value = 0
    for split, count in PER_CLASS.items():
        for name in ("cat", "ant", "bee"):
            for number in range(count):
                write(tmp_path / split / name / f"{number}.png", value)
                value += 1
    return tmp_path


def load(root: Path, **options: Any) -> ImageData:
    return load_image_folder(root, **{"name": "mine", "validation": 0.2, "seed": 0, **options})


def message(root: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def in_memory(data: ImageData) -> tuple[Split, Split, Split]:
    parts = (data.train, data.validation, data.test)
    assert all(isinstance(part, Split) for part in parts)
    return parts  # type: ignore[return-value]


def test_every_image_is_in_one_part_with_the_label_of_its_folder(root: Path) -> None:
    data = load(root)
    train, validation, test = in_memory(data)
    assert data.classes == ("ant", "bee", "cat")
    assert data.input_shape == (3, 5, 6)
    assert [len(part) for part in (train, validation, test)] == [24, 6, 9]
    reds = [part.images[:, 0, 0, 0].tolist() for part in (train, validation, test)]
    assert sorted(reds[0] + reds[1]) == list(range(30))
    assert sorted(reds[2]) == list(range(30, 39))
    for part in (train, validation, test):
        for red, label in zip(part.images[:, 0, 0, 0].tolist(), part.labels.tolist(), strict=True):
            folder = (red // 10) if red < 30 else (red - 30) // 3
            assert data.classes[label] == ("cat", "ant", "bee")[folder]
    assert validation.labels.bincount().tolist() == [2, 2, 2]


def test_the_parts_depend_on_the_seed_alone(root: Path) -> None:
    first, again, other = (in_memory(load(root, seed=seed))[1].images for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_mean_and_deviation_are_of_the_training_part(root: Path) -> None:
    data = load(root)
    pixels = in_memory(data)[0].images.double() / 255
    np.testing.assert_allclose(data.mean, pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(data.std[0], pixels[:, 0].std(correction=0), rtol=1e-12)
    assert data.std[1:] == (1.0, 1.0)  # constant channels


def test_val_stands_in_for_test(root: Path) -> None:
    before = load(root)
    (root / "test").rename(root / "val")
    assert torch.equal(in_memory(load(root))[2].images, in_memory(before)[2].images)


def test_test_is_used_if_there_is_val_too(root: Path) -> None:
    shutil.copytree(root / "train", root / "val")
    assert len(load(root).test) == 9


def test_hidden_and_other_files_do_not_count_but_subfolders_do(root: Path) -> None:
    for name in (".DS_Store", "notes.txt", ".hidden.png"):
        (root / "train" / "ant" / name).write_text("no image")
    (root / "train" / ".cache").mkdir()
    (root / "train" / "list.csv").write_text("no image")
    write(root / "train" / "ant" / "more" / "upper.PNG", 99)
    assert len(load(root).train) + len(load(root).validation) == 31


def test_progress_is_over_all_images(root: Path) -> None:
    calls: list[tuple[int, int]] = []
    load(root, on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 39) for done in range(1, 40)]


def test_image_size_is_given_to_every_image(root: Path) -> None:
    write(root / "train" / "ant" / "0.png", 0, (50, 9))
    assert load(root, image_size=4).input_shape == (3, 4, 4)
    assert "different sizes" in message(root)
    with pytest.raises(ConfigError, match="image size is 0"):
        load(root, image_size=0)


def test_what_is_larger_than_the_limit_stays_on_disk(root: Path) -> None:
    size = 39 * 4 * 4 * 3
    assert isinstance(load(root, image_size=4, memory_limit=size).train, Split)
    data = load(root, image_size=4, memory_limit=size - 1)
    parts = (data.train, data.validation, data.test)
    files: list[str] = []
    for part, same in zip(parts, in_memory(load(root, image_size=4)), strict=True):
        assert isinstance(part, FileSplit)
        assert torch.equal(part.labels, same.labels)
        files += part.files
    assert len(set(files)) == 39
    assert (data.mean, data.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert data.input_shape == (3, 4, 4)


def test_beyond_the_limit_an_image_size_is_asked_for(root: Path) -> None:
    text = message(root, memory_limit=39 * 5 * 6 * 3 - 1)
    assert "39 images of 5x6" in text
    assert "--image-size N" in text


def test_a_missing_folder_is_named_with_the_layout(root: Path) -> None:
    assert f"no folder {root / 'nowhere'}; an image folder holds train/" in message(root / "nowhere")
    shutil.rmtree(root / "test")
    assert f"{root} has no test/ or val/" in message(root)
    shutil.rmtree(root / "train")
    assert f"{root} has no train/" in message(root)


def test_different_classes_are_named_on_either_side(root: Path) -> None:
    (root / "test" / "cat").rename(root / "test" / "dog")
    text = message(root)
    assert "only train/ has cat" in text
    assert "only test/ has dog" in text


def test_of_many_different_classes_the_first_are_named(root: Path) -> None:
    for number in range(8):
        write(root / "train" / f"more{number}" / "0.png", 0)
    text = message(root)
    assert "only train/ has more0, more1, more2, more3, more4 and 3 more" in text
    assert "only test/" not in text


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_class_is_named(root: Path, split: str) -> None:
    (root / split / "wasp").mkdir()
    assert f"no images in the class folder {root / split / 'wasp'}" in message(root)


def test_a_folder_without_classes_or_images_says_so(root: Path) -> None:
    shutil.rmtree(root / "train")
    (root / "train").mkdir()
    write(root / "train" / "loose.png", 0)
    assert f"{root / 'train'} has no class folders" in message(root)
    (root / "train" / "ant").mkdir()
    assert f"{root / 'train'} has no images" in message(root)


def test_an_unreadable_image_is_named(root: Path) -> None:
    (root / "test" / "bee" / "1.png").write_bytes(b"\x89PNG")
    assert str(root / "test" / "bee" / "1.png") in message(root)


def test_a_folder_that_cannot_be_listed_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("os.scandir", refuse)
    assert f"cannot list the folder {root / 'train'}: Permission denied" in message(root)


def test_classes_of_one_image_leave_nothing_to_hold_out(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            write(tmp_path / split / name / "0.png", 0)
    assert "no image can be held out" in message(tmp_path)
    assert len(load(tmp_path, validation=0.0).validation) == 0


# Images that may be left out


def damage(root: Path, *names: str) -> set[str]:
    for name in names:
        (root / name).write_bytes(b"no image")
    return {str(root / name) for name in names}


def reds(split: Split) -> list[int]:
    values: list[int] = split.images[:, 0, 0, 0].tolist()
    return values


def test_without_bad_images_the_others_keep_their_part_and_their_label(root: Path) -> None:
    before = in_memory(load(root))
    expected = [dict(zip(reds(part), part.labels.tolist(), strict=True)) for part in before]
    assert load(root, skip_bad_images=True).skipped == {}
    # The red of cat is 0 to 9, of ant 10 to 19, of bee 20 to 29, of the test images from 30 on.
    bad = damage(root, "train/ant/0.png", "train/bee/4.png", "train/bee/5.png", "test/cat/2.png")
    data = load(root, skip_bad_images=True)
    assert data.classes == ("ant", "bee", "cat")
    assert set(data.skipped) == bad
    for part, values in zip(in_memory(data), expected, strict=True):
        left = {red: label for red, label in values.items() if red not in (10, 24, 25, 32)}
        assert dict(zip(reds(part), part.labels.tolist(), strict=True)) == left
    with pytest.raises(DataError, match=r"cannot read the image .*or use --skip-bad-images"):
        load(root)


def test_the_first_image_may_be_a_bad_one(root: Path) -> None:
    bad = damage(root, "train/ant/0.png")
    data = load(root, skip_bad_images=True)
    assert data.input_shape == (3, 5, 6)
    assert set(data.skipped) == bad


def test_a_class_or_a_part_of_which_nothing_is_left_is_refused(root: Path) -> None:
    test = [f"test/{name}/{number}.png" for name in ("ant", "bee", "cat") for number in range(3)]
    contents = {name: (root / name).read_bytes() for name in test}
    damage(root, *test)
    assert "none of the 9 test images can be read; cannot read the image" in message(root, skip_bad_images=True)
    for name, content in contents.items():
        (root / name).write_bytes(content)
    damage(root, *(f"train/bee/{number}.png" for number in range(10)))
    assert "no training image of the class bee can be read" in message(root, skip_bad_images=True, validation=0.0)


def test_on_disk_bad_images_are_noted_in_the_data_when_they_are_come_upon(root: Path) -> None:
    options: dict[str, Any] = {"image_size": 4, "memory_limit": 0}
    data = load(root, skip_bad_images=True, **options)
    assert data.skipped == {}
    for part in (data.train, data.validation, data.test):
        assert isinstance(part, FileSplit)
        assert part.skipped is data.skipped
    plain = load(root, **options).train
    assert isinstance(plain, FileSplit)
    assert plain.skipped is None
