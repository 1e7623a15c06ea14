"""Image files to pixels."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from strongticket.data import decoding
from strongticket.data.decoding import decode, first_size, open_image, size_of
from strongticket.errors import DataError


def write(path: Path, mode: str = "RGB", size: tuple[int, int] = (6, 4), *, seed: int = 0) -> str:
    """Write random pixels, of `size` (width, height)."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    Image.frombytes(mode, size, pixels.tobytes()).save(path)
    return str(path)


def test_pixels_come_out_in_order_as_channels_height_width(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{seed}.png", seed=seed) for seed in range(70)]
    images = decode(files)
    assert images.shape == (70, 3, 4, 6)
    assert images.dtype == torch.uint8
    for seed in (0, 31, 32, 69):
        pixels = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
        assert np.array_equal(images[seed].permute(1, 2, 0).numpy(), pixels)


def test_images_keep_one_channel_if_all_are_grey(tmp_path: Path) -> None:
    files = [write(tmp_path / "a.png", "L"), write(tmp_path / "b.png", "LA")]
    assert decode(files).shape == (2, 1, 4, 6)


@pytest.mark.parametrize("modes", [("L", "L", "RGB"), ("RGB", "L", "L"), ("L", "RGB", "L")])
def test_one_image_with_colour_gives_all_three_channels(tmp_path: Path, modes: tuple[str, ...]) -> None:
    images = decode([write(tmp_path / f"{number}.png", mode) for number, mode in enumerate(modes)])
    grey = decode([write(tmp_path / "grey.png", "L")])[0]
    assert images.shape == (3, 3, 4, 6)
    for mode, image in zip(modes, images, strict=True):
        assert (mode == "RGB") != torch.equal(image, grey.expand(3, -1, -1))


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK", "1"])
def test_images_of_every_8_bit_mode_are_read(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode).save(path)
    image = decode([str(path)])
    assert image.shape == (1, 1 if mode == "1" else 3, 4, 6)
    assert (image == 255).all()


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.new("P", (6, 4)).save(path, transparency=b"\x00\x80")
    assert open_image(str(path)).mode == "RGB"


def test_16_bit_images_are_refused_since_their_pixels_would_be_clipped(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((4, 6), 1000, dtype=np.uint16)).save(path)
    with pytest.raises(DataError, match=r"deep\.png has more than 8 bits"):
        decode([str(path)])


def test_resizing_takes_the_centre_by_the_shorter_side(tmp_path: Path) -> None:
    pixels = np.zeros((8, 24), dtype=np.uint8)
    pixels[:, 8:12], pixels[:, 12:16], pixels[:, :8] = 100, 200, 7
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    (image,) = decode([str(tmp_path / "wide.png")], image_size=8)
    assert np.array_equal(image[0].numpy(), pixels[:, 8:16])
    (smaller,) = decode([str(tmp_path / "wide.png")], image_size=2)
    assert smaller.shape == (1, 2, 2)
    assert smaller[0, 0, 0] < 150 < smaller[0, 0, 1]


def test_images_of_different_sizes_get_one_by_resizing(tmp_path: Path) -> None:
    files = [write(tmp_path / "a.png", size=(6, 4)), write(tmp_path / "b.png", size=(5, 9))]
    assert decode(files, image_size=7).shape == (2, 3, 7, 7)


def test_images_of_different_sizes_are_refused_with_two_examples(tmp_path: Path) -> None:
    files = [write(tmp_path / "a.png"), write(tmp_path / "b.png"), write(tmp_path / "c.png", size=(5, 4))]
    with pytest.raises(DataError, match=r"a\.png is 4x6, .*c\.png is 4x5 .*--image-size N"):
        decode(files)


@pytest.mark.parametrize("damage", ["text", "empty", "cut", "gone", "folder", "header"])
def test_an_unreadable_image_is_named_in_one_line(tmp_path: Path, damage: str) -> None:
    files = [write(tmp_path / f"{number}.png", size=(40, 40)) for number in range(3)]
    broken = Path(files[1])
    content = broken.read_bytes()
    broken.unlink()
    if damage == "folder":
        broken.mkdir()
    elif damage != "gone":
        broken.write_bytes(
            {"text": b"no image", "empty": b"", "cut": content[: len(content) // 2], "header": content[:20]}[damage]
        )
    with pytest.raises(DataError, match=r"cannot read the image .*1\.png: .*repair or remove it") as caught:
        decode(files)
    assert "\n" not in str(caught.value)


def test_progress_counts_every_image_in_the_calling_thread(tmp_path: Path) -> None:
    calls: list[tuple[int, int, bool]] = []
    here = threading.get_ident()
    decode(
        [write(tmp_path / f"{number}.png") for number in range(5)],
        on_progress=lambda done, total: calls.append((done, total, threading.get_ident() == here)),
    )
    assert calls == [(done, 5, True) for done in range(1, 6)]


@pytest.mark.parametrize(
    ("mode", "size", "image_size"), [("RGB", (65, 64), None), ("L", (65, 64), None), ("RGB", (6, 4), 3)]
)
def test_images_are_decoded_in_several_threads(
    mode: str, size: tuple[int, int], image_size: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2, timeout=20)
    original, here = decoding.open_image, threading.current_thread()

    def wait_for_another(path: str) -> Image.Image:
        if threading.current_thread() is not here:  # which reads the first, to see how large they are
            both.wait()
        return original(path)

    monkeypatch.setattr(decoding, "open_image", wait_for_another)
    monkeypatch.setattr(decoding, "_FILES_A_TASK", 1)
    files = [write(tmp_path / f"{number}.png", mode, size=size) for number in range(5)]
    assert len(decode(files, image_size=image_size)) == 5


def test_small_images_are_decoded_by_one_thread_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, readers = decoding.open_image, set()

    def noting(path: str) -> Image.Image:
        readers.add(threading.current_thread())
        time.sleep(0.001)  # which another thread would use
        return original(path)

    monkeypatch.setattr(decoding, "open_image", noting)
    monkeypatch.setattr(decoding, "_FILES_A_TASK", 1)
    assert len(decode([write(tmp_path / f"{number}.png", size=(64, 64)) for number in range(20)])) == 20
    assert len(readers - {threading.current_thread()}) == 1


def test_the_size_of_a_file_is_height_first(tmp_path: Path) -> None:
    assert size_of(write(tmp_path / "a.png", size=(6, 4))) == (4, 6)


# Images that may be left out


def test_images_that_cannot_be_read_are_left_out_and_noted(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{number}.png", seed=number) for number in range(5)]
    for number, content in ((0, b""), (3, b"no image")):
        Path(files[number]).write_bytes(content)
    skipped: dict[str, str] = {}
    calls: list[tuple[int, int]] = []
    images = decode(files, skipped=skipped, on_progress=lambda done, total: calls.append((done, total)))
    assert list(skipped) == [files[0], files[3]]
    assert skipped[files[3]].startswith(f"cannot read the image {files[3]}: it is not an image")
    assert torch.equal(images, torch.cat([decode([files[number]]) for number in (1, 2, 4)]))
    assert calls == [(done, 5) for done in range(1, 6)]


def test_if_no_image_can_be_read_it_is_an_error_even_so(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{number}.png") for number in range(3)]
    for file in files:
        Path(file).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"none of 3 images can be read; the first: cannot read the image .*0\.png"):
        decode(files, skipped={})
    with pytest.raises(DataError, match="none of 3 images can be read"):
        first_size(files, {})


def test_images_of_different_sizes_are_refused_and_not_left_out(tmp_path: Path) -> None:
    files = [write(tmp_path / "a.png"), write(tmp_path / "b.png"), write(tmp_path / "c.png", size=(5, 4))]
    Path(files[0]).write_bytes(b"")
    with pytest.raises(DataError, match=r"b\.png is 4x6, .*c\.png is 4x5"):
        decode(files, skipped={})


def test_the_first_size_is_of_the_first_image_that_can_be_read(tmp_path: Path) -> None:
    files = [write(tmp_path / "a.png"), write(tmp_path / "b.png", size=(9, 7))]
    Path(files[0]).write_bytes(b"")
    skipped: dict[str, str] = {}
    assert first_size(files, skipped) == (7, 9)
    assert list(skipped) == [files[0]]
    with pytest.raises(DataError, match=r"a\.png"):
        first_size(files, None)


def test_what_ends_decoding_early_does_not_wait_for_the_other_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, original = [], decoding.open_image

    def slowly(path: str) -> Image.Image:
        read.append(path)
        time.sleep(0.01)
        return original(path)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(decoding, "open_image", slowly)
    monkeypatch.setattr(decoding, "_FILES_A_TASK", 1)
    files = [write(tmp_path / "a.png")] * 500
    with pytest.raises(KeyboardInterrupt):
        decode(files, on_progress=stop)
    assert len(read) < 100
