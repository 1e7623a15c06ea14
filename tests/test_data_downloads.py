"""The sets of torchvision, from tiny files in their own formats."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets as sets

from strongticket.data.downloads import DOWNLOADED, load_downloaded
from strongticket.data.splits import ImageData, Split
from strongticket.errors import DataError

COUNTS = {"train": 40, "test": 20}


def load(name: str, data_dir: Path, *, download: bool = False) -> ImageData:
    return load_downloaded(name, data_dir, download=download, validation=0.25, seed=0)


def message(name: str, data_dir: Path, *, download: bool = False) -> str:
    with pytest.raises(DataError) as caught:
        load(name, data_dir, download=download)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def pixels(split: str, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(len(split)).integers(0, 256, (COUNTS[split], *shape), dtype=np.uint8)


def labels(split: str, classes: int = 10) -> list[int]:
    return [number % classes for number in range(COUNTS[split])]


def check(data: ImageData, shape: tuple[int, int, int], classes: int = 10) -> None:
    """The parts are those that were written, whichever of them are held out."""
    assert isinstance(data.train, Split)
    assert isinstance(data.validation, Split)
    assert isinstance(data.test, Split)
    assert data.input_shape == shape
    assert len(data.classes) == classes
    assert np.array_equal(data.test.images.numpy(), pixels("test", shape))
    assert data.test.labels.tolist() == labels("test", classes)
    assert [len(data.train), len(data.validation)] == [30, 10]
    written = {
        image.tobytes(): label for image, label in zip(pixels("train", shape), labels("train", classes), strict=True)
    }
    for part in (data.train, data.validation):
        for image, label in zip(part.images, part.labels.tolist(), strict=True):
            assert written.pop(image.numpy().tobytes()) == label
    assert not written


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_mnist_files_are_read(tmp_path: Path, name: str, folder: str) -> None:
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        count = COUNTS[split]
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(
            struct.pack(">4i", 0x803, count, 28, 28) + pixels(split, (28, 28)).tobytes()
        )
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, count) + bytes(labels(split)))
    check(load(name, tmp_path), (1, 28, 28))


@pytest.mark.parametrize(
    ("name", "loader", "folder", "key", "classes"),
    [
        ("cifar10", sets.CIFAR10, "cifar-10-batches-py", "labels", 10),
        ("cifar100", sets.CIFAR100, "cifar-100-python", "fine_labels", 5),
    ],
)
def test_cifar_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, loader: Any, folder: str, key: str, classes: int
) -> None:
    (tmp_path / folder).mkdir()
    for split, kind in (("train", "train_list"), ("test", "test_list")):
        content = {"data": pixels(split, (3, 32, 32)).reshape(COUNTS[split], -1), key: labels(split, classes)}
        (tmp_path / folder / split).write_bytes(pickle.dumps(content))
        monkeypatch.setattr(loader, kind, [[split, None]])  # without the checksum of the real files
    names = [f"class {number}" for number in range(classes)]
    (tmp_path / folder / "meta").write_bytes(pickle.dumps({"names": names}))
    monkeypatch.setattr(loader, "meta", {"filename": "meta", "key": "names", "md5": None})
    data = load(name, tmp_path)
    check(data, (3, 32, 32), classes)
    assert data.classes == tuple(names)


def test_svhn_files_are_read_and_the_label_10_is_the_digit_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in COUNTS:
        names = np.array(labels(split))
        content = {"X": pixels(split, (3, 32, 32)).transpose(2, 3, 1, 0), "y": np.where(names == 0, 10, names)[:, None]}
        scipy.io.savemat(tmp_path / f"{split}.mat", content)
    files = {split: ["no address", f"{split}.mat", None] for split in COUNTS}
    monkeypatch.setattr(sets.SVHN, "split_list", files)
    data = load("svhn", tmp_path)
    check(data, (3, 32, 32))
    assert data.classes == tuple("0123456789")


@pytest.mark.parametrize("name", DOWNLOADED)
def test_missing_files_name_their_folder_and_the_way_to_fetch_them(tmp_path: Path, name: str) -> None:
    text = message(name, tmp_path / "data")
    assert f"{name} is not in {tmp_path / 'data' / DOWNLOADED[name].folder}" in text
    assert "--download" in text


def test_the_folder_that_is_named_is_the_one_torchvision_reads() -> None:
    for known in DOWNLOADED.values():
        loader = getattr(sets, known.loader)
        if issubclass(loader, sets.MNIST):
            assert known.folder == f"{loader.__name__}/raw"
        else:
            assert known.folder == getattr(loader, "base_folder", "")


@pytest.mark.parametrize("name", DOWNLOADED)
def test_a_download_that_fails_is_one_line_with_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("<urlopen error [Errno -3] Temporary failure in name resolution>")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    text = message(name, tmp_path, download=True)
    assert f"{name} could not be downloaded to {tmp_path / DOWNLOADED[name].folder}" in text
    assert "name resolution" in text
    assert capsys.readouterr().out == ""


def test_damaged_files_are_told_from_missing_ones(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, 5, 28, 28) + bytes(100))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, 5) + bytes(5))
    text = message("mnist", tmp_path)
    assert f"the files of mnist in {raw} are damaged" in text


def test_download_is_passed_on_for_both_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    class Stand:
        def __init__(self, root: Path, **options: Any) -> None:
            assert root == tmp_path
            calls.append(options)
            self.data, self.targets = torch.zeros(20, 28, 28, dtype=torch.uint8), [0, 1] * 10

    monkeypatch.setattr(sets, "MNIST", Stand)
    load("mnist", tmp_path, download=True)
    assert calls == [{"download": True, "train": True}, {"download": True, "train": False}]
