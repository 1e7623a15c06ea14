"""Images in tar shards: the same images, classes and batches as in folders, wherever they lie."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_runs import refusal, search
from PIL import Image

from strongticket.data import ImageData, load, make_loader
from strongticket.errors import ConfigError, DataError

ANIMALS = ("cat", "dog", "owl")


def image(number: int, size: tuple[int, int] = (8, 8), kind: str = "png") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, {"jpg": "jpeg"}.get(kind, kind))
    return file.getvalue()


def write(shard: Path, files: Mapping[str, bytes], mode: Any = "w") -> None:
    with tarfile.open(shard, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def samples(numbers: range, label: Callable[[int], str] = lambda number: str(number % 3)) -> dict[str, bytes]:
    found = {}
    for number in numbers:
        found[f"{number:05d}.cls"] = label(number).encode()
        found[f"{number:05d}.png"] = image(number)
        found[f"{number:05d}.json"] = b"{}"
    return found


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two training shards of fifteen images and one test shard of nine, three classes in turns."""
    write(tmp_path / "train-000000.tar", samples(range(15)))
    write(tmp_path / "train-000001.tar", samples(range(15, 30)))
    write(tmp_path / "test-000000.tar", samples(range(30, 39)))
    (tmp_path / "classes.json").write_text(json.dumps(ANIMALS))
    return tmp_path


def read(place: object, **options: Any) -> ImageData:
    return load(f"webdataset:{place}", **{"validation": 0.2, **options})


def pixels_of(data: ImageData, part: str) -> dict[bytes, int]:
    """Return the class of every image, by its pixels."""
    loader = make_loader(getattr(data, part), batch_size=7, mean=(0.0,) * 3, std=(1.0,) * 3)
    found = {}
    for inputs, labels in loader:
        for pixels, label in zip((inputs * 255).round().to(torch.uint8), labels.tolist(), strict=True):
            found[pixels.permute(1, 2, 0).contiguous().numpy().tobytes()] = label
    return found


def drawn(number: int) -> bytes:
    return np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8).tobytes()


@pytest.mark.parametrize("memory_limit", [2**30, 0])
def test_every_image_is_there_once_with_its_class(shards: Path, memory_limit: int) -> None:
    if not memory_limit:  # streamed images are resized to 8/7, and cut: of the same colour they stay what they are
        ranges = {"train-000000": range(15), "train-000001": range(15, 30), "test-000000": range(30, 39)}
        for split, numbers in ranges.items():
            plain = {f"{n}.cls": str(n % 3).encode() for n in numbers}
            plain |= {f"{n}.png": _plain(n) for n in numbers}
            write(shards / f"{split}.tar", plain)
    data = read(shards, memory_limit=memory_limit, image_size=8)
    assert data.classes == ANIMALS
    assert data.input_shape == (3, 8, 8)
    train, held_out, test = (pixels_of(data, part) for part in ("train", "validation", "test"))
    assert (len(train), len(held_out), len(test)) == (24, 6, 9)
    expected = (lambda n: bytes([n, 2 * n, 3 * n]) * 64) if not memory_limit else drawn
    assert train | held_out == {expected(number): number % 3 for number in range(30)}
    assert test == {expected(number): number % 3 for number in range(30, 39)}
    assert sorted(held_out.values()) == [0, 0, 1, 1, 2, 2]  # of each class as many


def _plain(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 2 * number, 3 * number)).save(file, "png")
    return file.getvalue()


def test_shards_give_the_batches_of_a_folder_with_the_same_files(shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for split, numbers in (("train", range(30)), ("test", range(30, 39))):
        for number in numbers:
            place = folder / split / ANIMALS[number % 3]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number:05d}.png").write_bytes(image(number))
    options: dict[str, Any] = {"validation": 0.0, "memory_limit": 0, "image_size": 6}
    for data in (load(f"imagefolder:{folder}", **options), read(shards, **options)):
        images = torch.cat(
            [x for x, _ in make_loader(data.test, batch_size=4, mean=data.mean, std=data.std, workers=0)]
        )
        if data.name.startswith("imagefolder"):
            expected = images
    order = [index for label in range(3) for index in range(label, 9, 3)]  # folders sort by class
    assert torch.equal(images[order], expected)


def test_val_shards_are_the_test_images_unless_there_are_test_shards(shards: Path) -> None:
    write(shards / "validation-0.tar", samples(range(40, 46)))
    assert [len(getattr(read(shards), part)) for part in ("train", "validation", "test")] == [30, 6, 9]
    (shards / "test-000000.tar").unlink()
    assert [len(getattr(read(shards), part)) for part in ("train", "validation", "test")] == [24, 6, 6]


def test_a_pattern_says_where_the_split_stands(shards: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "other").mkdir(exist_ok=True)
        write(tmp_path / "other" / f"pets-{split}-0.tar", samples(range(9), lambda number: ANIMALS[number % 3]))
    data = read(tmp_path / "other" / "pets-{split}-*.tar")
    assert data.classes == ANIMALS
    assert len(data.test) == 9


@pytest.mark.parametrize(
    ("named", "classes"),
    [
        (None, ("0", "1", "2")),
        ({"owl": 2, "cat": 0, "dog": 1}, ANIMALS),
        (["a", "b", "c", "d"], ("a", "b", "c", "d")),
    ],
)
def test_classes_are_named_by_a_file_or_by_themselves(shards: Path, named: Any, classes: tuple[str, ...]) -> None:
    (shards / "classes.json").unlink()
    if named is not None:
        (shards / "classes.json").write_text(json.dumps(named))
    assert read(shards).classes == classes


def test_members_are_read_in_worker_processes_wherever_python_starts_them(shards: Path) -> None:
    path = read(shards, memory_limit=0, image_size=8).test.files[0]  # type: ignore[union-attr]
    again = pickle.loads(pickle.dumps(path))
    assert (str(again), again.shard, again.offset, again.size) == (str(path), path.shard, path.offset, path.size)
    assert again.read() == image(30)


def rename(files: dict[str, bytes], name: str, other: str) -> dict[str, bytes]:
    return {other if key == name else key: data for key, data in files.items()}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "has no images"),
        (rename(samples(range(3)), "00001.cls", "other.cls"), r"00001\.png has no class; 00001\.cls has to be"),
        (samples(range(3), lambda number: "7"), "is of class '7', which is none of the 3 classes"),
        (samples(range(3), lambda number: "x" * 2000), "is no class: it has more than 1000 bytes"),
        ({**samples(range(3)), "00001.jpg": b""}, "two images of the key"),
    ],
)
def test_what_a_shard_lacks_is_said(shards: Path, files: dict[str, bytes], expected: str) -> None:
    write(shards / "train-000002.tar", files)
    with pytest.raises(DataError, match=expected):
        read(shards)


def test_shards_that_are_missing_compressed_cut_short_or_no_archives_are_said(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no training shards .*train\*\.tar"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match="names no shards"):
        read("")
    with pytest.raises(ConfigError, match="at least 1 pixel"):
        read(shards, image_size=0)
    last = shards / "train-000001.tar"
    whole = last.read_bytes()
    for data in (b"no archive" * 100, whole[: len(whole) // 2 + 100], whole[: 1024 * 3], whole + whole, b""):
        last.write_bytes(data)
        with pytest.raises(DataError, match=r"train-000001\.tar"):
            list(make_loader(read(shards).train, batch_size=4, mean=(0.5,) * 3, std=(0.5,) * 3))
    write(last, samples(range(3)), "w:gz")
    with pytest.raises(DataError, match="a tar that is not compressed"):
        read(shards)
    last.unlink()
    for text in ("[", "3", '["cat", "cat"]', '{"cat": 5}'):
        (shards / "classes.json").write_text(text)
        with pytest.raises(DataError, match=r"classes\.json"):
            read(shards)


def test_a_shard_that_changes_while_it_is_read_is_an_error(shards: Path) -> None:
    data = read(shards, memory_limit=0, image_size=8)
    (shards / "test-000000.tar").write_bytes(b"")
    with pytest.raises(DataError, match="the shard ends before it"):
        list(make_loader(data.test, batch_size=4, mean=data.mean, std=data.std, workers=0))  # type: ignore[call-overload]


def test_a_bad_image_is_named_or_left_out(shards: Path) -> None:
    write(shards / "train-000002.tar", {"9.cls": b"0", "9.png": b"no image"})
    with pytest.raises(DataError, match=r"train-000002\.tar/9\.png"):
        read(shards)
    data = read(shards, skip_bad_images=True)
    assert [Path(name).name for name in data.skipped] == ["9.png"]


def test_the_command_searches_in_shards(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = search(shards / "run", "--data", f"webdataset:{shards}", "--batch-size", "8")
    assert json.loads((run / "report.json").read_text())["dataset"] == f"webdataset:{shards}"
    assert "no training shards" in refusal(capsys, "search", "--data", "webdataset:nowhere")
