"""A search that is killed, at whatever moment and however often, ends as one that is left alone: bit for bit."""

from __future__ import annotations

import random
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forks import forked, kill_at_write
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from strongticket import SearchConfig, attach, search
from strongticket.data import FileSplit, make_loader
from strongticket.errors import DataError, InterruptedRunError
from strongticket.search import Event, Resumed, StepDone, seeded
from strongticket.search.checkpoint import has_checkpoint
from strongticket.ticket import to_bytes

EVERY_STEP = SearchConfig(epochs=6, learning_rate=0.3, device="cpu", precision="fp32", checkpoint_minutes=0.0)
TWO_EPOCHS = EVERY_STEP.model_copy(update={"epochs": 2})
THREE_EPOCHS = EVERY_STEP.model_copy(update={"epochs": 3})


class Noisy(Dataset[Any]):
    """Examples that draw from all the global generators there are, whenever they are read."""

    def __init__(self) -> None:
        self.inputs = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
        self.targets = (self.inputs.sum(1) > 0).long()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        drawn = torch.rand(()) + np.random.rand() + random.random() + random.gauss(0, 1) + np.random.standard_normal()
        return self.inputs[index] + 0.1 * float(drawn), self.targets[index]


def noisy_loader(*, own_generator: bool = False) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(3) if own_generator else None
    return DataLoader(Noisy(), batch_size=4, shuffle=True, generator=generator)


def held_out() -> list[tuple[Tensor, Tensor]]:
    data = Noisy()
    return [(data.inputs[:32], data.targets[:32]), (data.inputs[32:], data.targets[32:])]


class Drifting(nn.Module):
    """A layer with dropout and with a state that no ``state_dict`` knows."""

    level: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.2)
        self.register_buffer("level", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.level.lerp_(x.detach().mean(), 0.1)
        dropped: Tensor = self.dropout(x)
        return dropped - self.level


def network() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), Drifting(), nn.Linear(16, 2))
    attach(model, bn="learned")
    return model


def found(folder: Path | None, loader: Any, *, config: SearchConfig = EVERY_STEP, **options: Any) -> bytes:
    """Search, from the checkpoint in ``folder`` if there is one, and return all that was found as bytes."""
    with seeded(7):
        result = search(network(), loader, config, validation=held_out(), checkpoint=folder, resume=True, **options)
    losses = [(epoch["loss"], epoch["train_accuracy"], epoch["validation_loss"]) for epoch in result.history]
    return to_bytes(result.ticket) + to_bytes(result.last) + repr(losses).encode()


def after_steps(number: int) -> Callable[[Event], None]:
    """Return a listener that kills this process as it hears of its step number ``number``."""
    steps = 0

    def listen(event: Event) -> None:
        nonlocal steps
        steps += isinstance(event, StepDone)
        if steps == number:
            signal.raise_signal(signal.SIGKILL)

    return listen


@pytest.mark.parametrize(("optimizer", "kills"), [("sgd", 20), ("adam", 5)])
def test_killed_twenty_times_it_finds_the_same_ticket_byte_for_byte(optimizer: str, kills: int, tmp_path: Path) -> None:
    config = EVERY_STEP.model_copy(update={"optimizer": optimizer})
    expected = found(None, noisy_loader(), config=config)
    chance = random.Random(optimizer)
    for _ in range(kills):
        number, write = chance.randint(1, 6), chance.random() < 0.5

        def life(number: int = number, write: bool = write) -> None:
            if write:  # as it writes a checkpoint: of each step, about three writes
                kill_at_write(3 + number)
                found(tmp_path, noisy_loader(), config=config)
            found(tmp_path, noisy_loader(), config=config, on_event=after_steps(number))

        assert forked(life) == -signal.SIGKILL
    heard: list[Event] = []
    assert found(tmp_path, noisy_loader(), config=config, on_event=heard.append) == expected
    (resumed,) = (event for event in heard if isinstance(event, Resumed))
    assert resumed.damaged is None
    assert 0 < resumed.epochs < 6 or resumed.steps > 0  # it was killed before it was done, and went on


@pytest.mark.parametrize("stop_at", [3, 16, 21])
def test_a_loader_with_a_generator_of_its_own_goes_on_where_it_was(stop_at: int, tmp_path: Path) -> None:
    expected = found(None, noisy_loader(own_generator=True), config=TWO_EPOCHS)

    def life() -> None:
        found(tmp_path, noisy_loader(own_generator=True), config=TWO_EPOCHS, on_event=after_steps(stop_at + 1))

    assert forked(life) == -signal.SIGKILL
    assert found(tmp_path, noisy_loader(own_generator=True), config=TWO_EPOCHS) == expected


def test_the_check_of_equal_bytes_fails_if_a_generator_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = found(None, noisy_loader(), config=TWO_EPOCHS)

    def life() -> None:
        found(tmp_path, noisy_loader(), config=TWO_EPOCHS, on_event=after_steps(20))

    assert forked(life) == -signal.SIGKILL
    monkeypatch.setattr(np.random, "set_state", lambda state: None)
    assert found(tmp_path, noisy_loader(), config=TWO_EPOCHS) != expected


# Images that are read by processes of their own


def pictures(folder: Path, *, skipped: dict[str, str] | None = None) -> FileSplit:
    """Thirty-two images of two classes, larger than they are wanted."""
    files = []
    for number in range(32):
        pixels = np.random.default_rng(number).integers(0, 128, (12, 12, 3), dtype=np.uint8) + 100 * (number % 2)
        files.append(str(folder / f"{number}.png"))
        if not (folder / f"{number}.png").exists():
            Image.fromarray(pixels.astype(np.uint8)).save(files[-1])
    return FileSplit(tuple(files), torch.arange(32) % 2, 4, skipped)


def streamed(split: FileSplit, workers: int, *, augment: Any = "crop-flip") -> Any:
    options: dict[str, Any] = {"batch_size": 4, "mean": (0.5,) * 3, "std": (0.5,) * 3, "shuffle": True, "seed": 1}
    return make_loader(split, augment=augment, workers=workers, **options)


def ticket_of_pictures(
    folder: Path | None, split: FileSplit, *, workers: int = 0, config: SearchConfig = THREE_EPOCHS, **options: Any
) -> bytes:
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(32, 2)]
    model = nn.Sequential(*layers)
    attach(model)
    with seeded(7), warnings.catch_warnings():
        # From Python 3.12 a fork of a process with threads warns; torch's loader forks by default.
        warnings.simplefilter("ignore", DeprecationWarning)
        result = search(model, streamed(split, workers), config, checkpoint=folder, resume=True, **options)
    return (
        to_bytes(result.ticket) + repr([(epoch["loss"], epoch["train_accuracy"]) for epoch in result.history]).encode()
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_search_on_images_from_disk_goes_on_within_an_epoch(workers: int, tmp_path: Path) -> None:
    split = pictures(tmp_path)
    expected = ticket_of_pictures(None, split)
    place = tmp_path / "checkpoint"
    for number in (3, 4, 7, 2) if workers == 0 else (3, 8):

        def life(number: int = number) -> None:
            ticket_of_pictures(place, split, workers=workers, on_event=after_steps(number))

        assert forked(life) == -signal.SIGKILL
    heard: list[Event] = []
    assert ticket_of_pictures(place, split, workers=workers, on_event=heard.append) == expected
    (resumed,) = (event for event in heard if isinstance(event, Resumed))
    assert resumed.steps > 0


def test_an_image_that_disappears_within_an_epoch_ends_it_without_the_loss_of_a_step(tmp_path: Path) -> None:
    split = pictures(tmp_path)
    expected = ticket_of_pictures(None, split)
    (position, *_) = next(positions for _, positions in streamed(split, 0)._order.batches(1, start=5)).tolist()
    lost, place = Path(split.files[position]), tmp_path / "checkpoint"
    content = lost.read_bytes()

    def lose_it(event: Event) -> None:
        if isinstance(event, StepDone) and (event.epoch, event.step) == (2, 3):
            lost.unlink()

    # So rarely saved that nothing but the failure itself can be the reason.
    config = THREE_EPOCHS.model_copy(update={"checkpoint_minutes": 1e6, "checkpoint_epochs": 100})
    with pytest.raises(DataError, match=rf"cannot read the image .*/{position}\.png: No such file"):
        ticket_of_pictures(place, split, config=config, on_event=lose_it)
    assert has_checkpoint(place)
    lost.write_bytes(content)
    heard: list[Event] = []
    assert ticket_of_pictures(place, split, on_event=heard.append) == expected
    assert isinstance(heard[0], Resumed)
    assert (heard[0].epochs, heard[0].steps) == (1, 5)


# Stopping while it validates


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_while_it_validates_does_not_wait_for_the_rest_of_it(number: int, tmp_path: Path) -> None:
    class Held(list):  # type: ignore[type-arg]
        reads = 0
        stop_at = 4

        def __iter__(self) -> Any:
            for batch in list.__iter__(self):
                self.reads += 1
                if self.reads == self.stop_at:  # the first batch of the second epoch
                    signal.raise_signal(number)
                yield batch

    data = Noisy()
    train = list(zip(data.inputs.split(16), data.targets.split(16), strict=True))
    batches = [(data.inputs[:20], data.targets[:20]), (data.inputs[20:40], data.targets[20:40]), *held_out()[:1]]

    def run(validation: Any, folder: Path | None) -> bytes:
        with seeded(7):
            result = search(network(), train, EVERY_STEP, validation=validation, checkpoint=folder, resume=True)
        accuracies = [(epoch["validation_accuracy"], epoch["loss"]) for epoch in result.history]
        return to_bytes(result.ticket) + repr(accuracies).encode()

    expected = run(batches, None)
    held = Held(batches)
    with pytest.raises(InterruptedRunError, match="stopped after 1 epochs and 4 steps") as caught:
        run(held, tmp_path)
    assert caught.value.signal == number
    assert held.reads == 4
    held.stop_at = -1
    assert run(held, tmp_path) == expected
