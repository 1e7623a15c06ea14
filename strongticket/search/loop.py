"""The loop that optimises what may be optimised: scores in a search, weights in the dense baseline."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from ..errors import DataError, SearchError
from .config import SearchConfig
from .events import EpochDone, Event, StepDone
from .hardware import Placement

Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Position:
    """How far a run has come: whole epochs, batches of the epoch under way, and that epoch's figures so far."""

    epochs_done: int = 0
    batches_done: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    density: float = 1.0
    learning_rate: float = 0.0
    steps_in_epoch: int | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


class Loop:
    """Epochs and steps over ``parameters`` of ``model``, from wherever ``position`` stands.

    ``after_step`` is called with the progress in epochs after every optimizer step and returns the
    density it left behind; validation runs inside ``while_validating``; ``should_stop`` is asked at every
    step boundary.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Batches,
        config: SearchConfig,
        *,
        placement: Placement,
        validation: Batches | None = None,
        loss: Loss | None = None,
        after_step: Callable[[float], float] | None = None,
        while_validating: Callable[[], AbstractContextManager[None]] = nullcontext,
        on_event: Callable[[Event], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        self.model, self.train, self.config, self.validation = model, train, config, validation
        self.placement = placement
        self.loss: Loss = loss or _cross_entropy(config.label_smoothing)
        self.optimizer = make_optimizer([p for p in model.parameters() if p.requires_grad], config)
        self.position = Position(steps_in_epoch=len(train) if isinstance(train, Sized) else None)
        self.random_at_epoch_start = torch.get_rng_state()
        self._images_per_second = 0.0
        self._after_step = after_step or (lambda progress: 1.0)
        self._while_validating = while_validating
        self._on_event = on_event or (lambda event: None)
        self._should_stop = should_stop or (lambda: False)

    def epochs(self) -> Iterator[EpochDone | None]:
        """Run to the end, yielding after each epoch; yields None, and ends, if it was asked to stop within one."""
        while self.position.epochs_done < self.config.epochs:
            started = time.perf_counter()
            if not self._epoch(self.position.epochs_done + 1):
                yield None
                return
            event = self._close_epoch(started)
            self._on_event(event)
            yield event

    def _epoch(self, epoch: int) -> bool:
        position = self.position
        self.model.train()
        if position.batches_done == 0:
            self.random_at_epoch_start = torch.get_rng_state()
        loss_sum = torch.tensor(position.loss_sum, device=self.placement.device, dtype=torch.float64)
        correct = torch.tensor(position.correct, device=self.placement.device)
        seen_before, started = position.seen, time.perf_counter()
        for inputs, targets in self._batches(epoch):
            self._set_learning_rate(epoch)
            inputs, targets = self.placement.inputs(inputs), targets.to(self.placement.device, non_blocking=True)
            with self.placement.autocast():
                outputs = self.model(inputs)
                loss = self.loss(outputs, targets)
            if self.placement.device.type == "cpu":  # elsewhere reading it would wait for the device
                refuse_divergence(float(loss.detach()), epoch, position.batches_done + 1)
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            self.optimizer.step()
            position.batches_done += 1
            position.seen += len(targets)
            position.density = self._after_step(self._progress(epoch))
            loss_sum += loss.detach() * len(targets)
            correct += count_correct(outputs.detach(), targets)
            self._on_event(StepDone(epoch, position.batches_done, position.steps_in_epoch))
            if self._should_stop():
                position.loss_sum, position.correct = float(loss_sum), int(correct)
                return False
        if position.batches_done == 0:
            raise DataError(
                f"the training data gave no batch in epoch {epoch}; expected an iterable that can be read once an "
                "epoch, such as a list or a DataLoader"
            )
        position.loss_sum, position.correct = float(loss_sum), int(correct)
        refuse_divergence(position.loss_sum, epoch, position.batches_done)
        self._images_per_second = (position.seen - seen_before) / max(time.perf_counter() - started, 1e-9)
        position.steps_in_epoch = position.batches_done
        return True

    def _close_epoch(self, started: float) -> EpochDone:
        position, config = self.position, self.config
        accuracy = loss = None
        if self.validation is not None:
            with self._while_validating():
                accuracy, loss = validate(self.model, self.validation, self.placement)
        position.epochs_done += 1
        seconds = time.perf_counter() - started
        event = EpochDone(
            epoch=position.epochs_done,
            epochs=config.epochs,
            loss=position.loss_sum / position.seen,
            train_accuracy=position.correct / position.seen,
            validation_accuracy=accuracy,
            validation_loss=loss,
            learning_rate=position.learning_rate,
            density=position.density,
            images_per_second=self._images_per_second,
            seconds=seconds,
            seconds_left=seconds * (config.epochs - position.epochs_done),
        )
        position.history.append(event.as_dict())
        position.batches_done, position.seen, position.loss_sum, position.correct = 0, 0, 0.0, 0
        return event

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of the epoch that are still to be done; skips the others as cheaply as the loader can."""
        start = self.position.batches_done
        if hasattr(self.train, "set_epoch"):
            self.train.set_epoch(epoch - 1)
        elif hasattr(getattr(self.train, "sampler", None), "set_epoch"):
            self.train.sampler.set_epoch(epoch - 1)  # type: ignore[attr-defined]
        if hasattr(self.train, "batches"):
            yield from self.train.batches(start)
            return
        if not start:
            yield from self.train
            return
        # An ordinary loader shuffles from the global generator: begin as the epoch began, then go on as it stopped.
        now = torch.get_rng_state()
        torch.set_rng_state(self.random_at_epoch_start)
        rest = islice(iter(self.train), start, None)
        first = next(rest, None)
        torch.set_rng_state(now)
        if first is not None:
            yield first
            yield from rest

    def _progress(self, epoch: int) -> float:
        """Return how many epochs are done, the part of the one under way included."""
        steps = self.position.steps_in_epoch
        return epoch - 1 + (min(1.0, self.position.batches_done / steps) if steps else 0.0)

    def _set_learning_rate(self, epoch: int) -> None:
        rate = self.config.learning_rate * learning_rate_factor(self._progress(epoch), self.config)
        self.position.learning_rate = rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate


def learning_rate_factor(progress: float, config: SearchConfig) -> float:
    """Return the factor on the peak learning rate after ``progress`` epochs, in [0, 1].

    Linear from 1/10 to 1 during warm-up, then ½(1 + cos(π·t)) with t from 0 to 1 over the remaining
    epochs, or 1 throughout under the constant schedule.
    """
    if progress < config.warmup_epochs:
        return 0.1 + 0.9 * progress / config.warmup_epochs
    if config.schedule == "constant":
        return 1.0
    rest = max(config.epochs - config.warmup_epochs, 1e-9)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - config.warmup_epochs) / rest)))


def make_optimizer(parameters: list[nn.Parameter], config: SearchConfig) -> torch.optim.Optimizer:
    """Return the configured optimizer; vectors (affine parameters, biases) get no weight decay."""
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            groups,
            lr=config.learning_rate,
            momentum=config.momentum,
            nesterov=config.nesterov and config.momentum > 0,
        )
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=config.learning_rate)


@torch.no_grad()
def validate(model: nn.Module, batches: Batches, placement: Placement) -> tuple[float, float]:
    """Return accuracy and mean cross-entropy of ``model`` in evaluation mode over ``batches``."""
    model.eval()
    correct, loss, seen = 0, 0.0, 0
    with parametrize.cached():  # no mask changes, so each masked weight is computed once
        for inputs, targets in batches:
            with placement.autocast():
                outputs = model(placement.inputs(inputs))
            targets = targets.to(placement.device)
            correct += int(count_correct(outputs, targets))
            loss += float(F.cross_entropy(outputs.float(), targets, reduction="sum"))
            seen += targets.numel()
    if not seen:
        raise DataError("the validation data gave no batch; expected an iterable that can be read once an epoch")
    return correct / seen, loss / seen


def count_correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return how many targets are the arg max over dimension 1 of the outputs (a tensor, not read back)."""
    return (outputs.argmax(1) == targets).sum()


def refuse_divergence(loss: float, epoch: int, step: int) -> None:
    """Raise SearchError if the loss is NaN or infinite."""
    if not math.isfinite(loss):
        raise SearchError(
            f"the loss became {loss} in epoch {epoch} at step {step}; lower the learning rate, add warm-up epochs, "
            "or use precision 'fp32'"
        )


def _cross_entropy(label_smoothing: float) -> Loss:
    return lambda outputs, targets: F.cross_entropy(outputs, targets, label_smoothing=label_smoothing)
