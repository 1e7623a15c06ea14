"""Batches of images that are read from their files."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from strongticket.data import BatchLoader, FileSplit, Split, StreamLoader, make_loader, streaming
from strongticket.data.batching import AlternatingFlips, seed_for
from strongticket.data.folders import load_image_folder
from strongticket.errors import ConfigError, DataError

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@pytest.fixture
def files(tmp_path: Path) -> FileSplit:
    """Eleven images of different sizes, the first two grey."""
    paths = []
    for number in range(11):
        shape = (20 + number, 30 - number) if number < 2 else (20 + number, 30 - number, 3)
        pixels = np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(pixels).save(paths[-1])
    return FileSplit(tuple(paths), torch.arange(11), 16)


def loader(split: FileSplit, **options: Any) -> StreamLoader:
    return StreamLoader(split, **{"batch_size": 4, "mean": MEAN, "std": STD, "workers": 0, **options})


def epoch(batches: StreamLoader, number: int = 0) -> Tensor:
    batches.set_epoch(number)
    return torch.cat([inputs for inputs, _ in batches])


def test_batches_are_normalised_colour_images_in_order(files: FileSplit) -> None:
    batches = list(loader(files))
    assert [tuple(inputs.shape) for inputs, _ in batches] == [(4, 3, 16, 16), (4, 3, 16, 16), (3, 3, 16, 16)]
    assert len(loader(files)) == 3
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(11))
    inputs = batches[0][0]
    assert inputs.dtype == torch.float32
    assert -1 <= inputs.min() < -0.5
    assert 0.5 < inputs.max() <= 1
    assert torch.equal(inputs[0, 0], inputs[0, 1])  # the grey one


def test_evaluation_takes_the_centre_of_the_resized_image(tmp_path: Path) -> None:
    pixels = np.zeros((8, 24), dtype=np.uint8)
    pixels[1:7, 9:15] = 200  # 6 of 8 pixels: size 6 of the shorter side round(6 · 8/7) = 7
    Image.fromarray(pixels).save(tmp_path / "a.png")
    split = FileSplit((str(tmp_path / "a.png"),), torch.tensor([0]), 6)
    ((inputs, _),) = loader(split)
    resized = Image.open(tmp_path / "a.png").convert("RGB").resize((21, 7), Image.Resampling.BILINEAR)
    top, left = round((7 - 6) / 2), round((21 - 6) / 2)
    expected = np.asarray(resized)[top : top + 6, left : left + 6].transpose(2, 0, 1) / 255 * 2 - 1
    np.testing.assert_allclose(inputs[0].numpy(), expected, atol=1e-6)


def test_flips_are_drawn_for_each_image(files: FileSplit) -> None:
    plain = epoch(loader(files))
    flips = []
    for number in range(4):
        for image, original in zip(epoch(loader(files, augment="flip"), number), plain, strict=True):
            mirrored = torch.equal(image, original.flip(2))
            assert mirrored or torch.equal(image, original)
            flips.append(mirrored)
    assert 8 < sum(flips) < 36
    assert len({tuple(flips[start : start + 11]) for start in (0, 11, 22, 33)}) > 1


def test_crops_are_drawn_for_each_image(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    split = FileSplit((str(tmp_path / "a.png"),) * 6, torch.zeros(6, dtype=torch.int64), 16)
    inputs = epoch(loader(split, batch_size=6, augment="crop-flip"))
    assert len({image.numpy().tobytes() for image in inputs}) == 6


def test_an_epoch_is_a_pure_function_of_seed_and_epoch(files: FileSplit) -> None:
    def of(seed: int, number: int) -> Tensor:
        return epoch(loader(files, shuffle=True, augment="crop-flip", seed=seed), number)

    assert torch.equal(of(1, 2), of(1, 2))
    assert not torch.equal(of(1, 2), of(1, 3))
    assert not torch.equal(of(1, 2), of(2, 2))


# From Python 3.12 a fork of a process with threads warns; torch's loader forks by default.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("processes", [1, 2])
def test_worker_processes_change_nothing(files: FileSplit, processes: int) -> None:
    options: dict[str, Any] = {"shuffle": True, "augment": "crop-flip", "channels_last": True}
    here, there = (list(loader(files, workers=workers, **options)) for workers in (0, processes))
    assert len(here) == 3
    for (inputs, labels), (same, also) in zip(here, there, strict=True):
        assert torch.equal(inputs, same)
        assert torch.equal(labels, also)
        assert same.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("start", [0, 2, 3])
def test_an_epoch_goes_on_at_any_batch_without_reading_those_before(files: FileSplit, start: int) -> None:
    batches = loader(files, shuffle=True, augment="crop-flip")
    batches.set_epoch(1)
    whole = list(batches)
    for _, labels in whole[:start]:
        for label in labels.tolist():
            Path(files.files[label]).unlink()
    rest = list(batches.batches(start))
    assert len(rest) == 3 - start
    for (inputs, labels), (same, also) in zip(whole[start:], rest, strict=True):
        assert torch.equal(inputs, same)
        assert torch.equal(labels, also)


def test_the_global_generator_is_neither_read_nor_changed(files: FileSplit) -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = epoch(loader(files, shuffle=True, augment="crop-flip"))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(first, epoch(loader(files, shuffle=True, augment="crop-flip")))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_in_one_line(files: FileSplit, workers: int) -> None:
    Path(files.files[5]).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cannot read the image .*5\.png") as caught:
        list(loader(files, workers=workers))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "words"),
    [({"workers": -1}, "workers is -1"), ({"augment": "rotate"}, "augment is"), ({"batch_size": 0}, "batch size is 0")],
)
def test_an_option_that_cannot_be_used_is_refused(files: FileSplit, option: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        loader(files, **option)


@pytest.mark.parametrize("workers", [0, 2])
def test_alternating_flips_turn_every_image_whatever_its_batch_and_process(files: FileSplit, workers: int) -> None:
    plain, halves = dict(enumerate(epoch(loader(files)))), []
    batches = loader(files, shuffle=True, augment="flip", flips="alternating", workers=workers)
    for number in range(3):
        batches.set_epoch(number)
        seen = {}
        for rank in range(2):
            for inputs, labels in batches.share(rank, 2):
                for image, label in zip(inputs, labels.tolist(), strict=True):
                    seen[label] = torch.equal(image, plain[label].flip(2))
                    assert seen[label] or torch.equal(image, plain[label])
        halves.append([seen[label] for label in range(11)])
    assert 0 < sum(halves[0]) < 11
    assert halves[1] == [not mirrored for mirrored in halves[0]]
    assert halves[2] == halves[0]


def test_alternating_flips_leave_what_is_not_augmented_alone(files: FileSplit) -> None:
    assert torch.equal(epoch(loader(files, flips="alternating")), epoch(loader(files)))


def test_alternating_flips_mirror_the_same_part_that_is_cut_out(files: FileSplit) -> None:
    drawn = epoch(loader(files, augment="crop-flip", flips="alternating"))
    cut = []
    for number, path in enumerate(files.files):
        torch.manual_seed(seed_for(seed_for(0, f"batch/0/{number // 4}"), str(number % 4)))
        cut.append(v2.PILToTensor()(v2.RandomResizedCrop(16)(Image.open(path).convert("RGB"))) / 255 * 2 - 1)
    mirrored = AlternatingFlips(11, 0).of(torch.arange(11), 0)
    for image, part, is_mirrored in zip(drawn, cut, mirrored.tolist(), strict=True):
        torch.testing.assert_close(image, part.flip(2) if is_mirrored else part, atol=1e-6, rtol=0)


def test_the_right_loader_is_made_for_either_kind_of_split(files: FileSplit) -> None:
    memory = Split(torch.zeros(5, 3, 4, 4, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64))
    assert isinstance(make_loader(memory, batch_size=2, mean=MEAN, std=STD), BatchLoader)
    assert isinstance(make_loader(files, batch_size=2, mean=MEAN, std=STD), StreamLoader)
    assert len(make_loader(files, batch_size=2, mean=MEAN, std=STD, drop_last=True)) == 5


def test_alternating_flips_reach_either_kind_of_split(files: FileSplit) -> None:
    ramp = torch.arange(8, dtype=torch.uint8).expand(30, 3, 1, 8).contiguous()
    memory = Split(ramp, torch.zeros(30, dtype=torch.int64))
    options: dict[str, Any] = {"batch_size": 30, "mean": MEAN, "std": STD, "augment": "flip", "flips": "alternating"}
    for split in (memory, files):
        batches = make_loader(split, **options)
        (first, _), *_ = batches
        batches.set_epoch(1)
        (second, _), *_ = batches
        assert torch.equal(first, second.flip(3))
        assert not torch.equal(first, second)
        with pytest.raises(ConfigError, match="flips is 'both'; it must be one of random, alternating"):
            make_loader(split, **{**options, "flips": "both"})


def test_crop_padding_reaches_images_in_memory() -> None:
    white = torch.full((50, 3, 4, 4), 255, dtype=torch.uint8)
    memory = Split(white, torch.zeros(50, dtype=torch.int64))
    options: dict[str, Any] = {"batch_size": 50, "mean": MEAN, "std": STD, "augment": "crop-flip"}
    emptied = {}
    for padding in (1, 4):
        (inputs, _), *_ = make_loader(memory, crop_padding=padding, **options)
        emptied[padding] = int((inputs == 0).all(dim=1).flatten(1).sum(dim=1).max())
    assert emptied[1] == 16 - 9  # a shift by one pixel down and right leaves 3 × 3 of 4 × 4
    assert emptied[4] > 9


@pytest.mark.parametrize(
    ("asked", "processors", "expected"), [(None, 3, 3), (None, 64, 8), (0, 3, 0), (1, 3, 1), (20, 3, 20)]
)
def test_as_many_processes_read_as_asked_for_or_one_a_processor_up_to_eight(
    asked: int | None, processors: int, expected: int, files: FileSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []

    def note(*arguments: Any, num_workers: int, **options: Any) -> Any:
        counts.append(num_workers)
        return DataLoader(*arguments, num_workers=0, **options)

    monkeypatch.setattr(streaming, "DataLoader", note)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(processors), raising=False)
    batches = make_loader(files, batch_size=4, mean=MEAN, std=STD, workers=asked)
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(11))
    assert counts == [expected]


def test_a_negative_number_of_processes_is_refused_where_files_are_read(files: FileSplit) -> None:
    with pytest.raises(ConfigError, match="workers is -1; it must be at least 0"):
        make_loader(files, batch_size=4, mean=MEAN, std=STD, workers=-1)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_folder_beyond_the_limit_is_read_in_batches(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for value, name in enumerate(("black", "white")):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(5):
                Image.new("RGB", (9 + number, 8), (value * 255,) * 3).save(tmp_path / split / name / f"{number}.png")
    data = load_image_folder(tmp_path, name="mine", validation=0.2, seed=0, image_size=8, memory_limit=1000)
    batches = make_loader(data.train, batch_size=3, mean=MEAN, std=STD, shuffle=True, augment="crop-flip")
    seen = 0
    for inputs, labels in batches:
        assert torch.equal(inputs, (labels * 2.0 - 1).view(-1, 1, 1, 1).expand(-1, 3, 8, 8))
        seen += len(labels)
    assert seen == len(data.train) == 8


# Images that may be left out


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_is_missing_from_its_batch_and_noted(files: FileSplit, workers: int) -> None:
    whole = list(loader(files))
    for number in (1, 6):
        Path(files.files[number]).write_bytes(b"no image")
    skipped: dict[str, str] = {}
    split = replace(files, skipped=skipped)
    batches = list(loader(split, workers=workers))
    assert [labels.tolist() for _, labels in batches] == [[0, 2, 3], [4, 5, 7], [8, 9, 10]]
    assert torch.equal(batches[0][0], whole[0][0][[0, 2, 3]])
    assert torch.equal(batches[1][0], whole[1][0][[0, 1, 3]])
    assert set(skipped) == {files.files[1], files.files[6]}
    assert skipped[files.files[1]].startswith(f"cannot read the image {files.files[1]}: it is not an image")


def test_an_epoch_without_bad_images_goes_on_at_any_batch(files: FileSplit) -> None:
    Path(files.files[3]).unlink()
    batches = loader(replace(files, skipped={}), shuffle=True, augment="crop-flip")
    whole, rest = list(batches), list(batches.batches(1))
    assert len(whole) == 3
    for (inputs, labels), (same, also) in zip(whole[1:], rest, strict=True):
        assert torch.equal(inputs, same)
        assert torch.equal(labels, also)


def test_a_whole_batch_of_bad_images_is_an_error_and_the_rest_of_an_epoch_is_not(files: FileSplit) -> None:
    for number in (8, 9, 10):  # the smaller batch at the end
        Path(files.files[number]).write_bytes(b"")
    skipped: dict[str, str] = {}
    assert [len(labels) for _, labels in loader(replace(files, skipped=skipped))] == [4, 4]
    assert len(skipped) == 3
    for number in (4, 5, 6, 7):
        Path(files.files[number]).unlink()
    with pytest.raises(DataError, match=r"none of the 4 images of a batch can be read; cannot read .*4\.png"):
        list(loader(replace(files, skipped={})))


# Signals for the whole process group


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_processes_that_read_leave_stopping_to_their_parent(files: FileSplit, number: int) -> None:
    batches = iter(loader(files, workers=1))
    first = next(batches)
    for reader in multiprocessing.active_children():
        assert reader.pid is not None
        os.kill(reader.pid, number)
    assert [first[1].tolist(), *(labels.tolist() for _, labels in batches)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
