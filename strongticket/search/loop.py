"""The loop that optimises what may be optimised: scores in a search, weights in the dense baseline."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated, Any

import torch
from pydantic import Field, FiniteFloat
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from ..errors import ConfigError, DataError, SearchError
from .config import SearchConfig
from .events import EpochDone, Event, StepDone
from .machine.compilation import Forward
from .machine.determinism import deterministic
from .machine.hardware import Placement
from .machine.randomness import random_state, set_random_state
from .muon import directions_of
from .optimizer import learning_rate_factor, make_optimizer
from .processes.gradients import MeanGradients
from .processes.shares import Share, Team, shares_of
from .stopwatch import Stopwatch

Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]
Count = Annotated[int, Field(ge=0, lt=2**53)]


@dataclass
class Position:
    """How far a run has come: whole epochs, batches of the epoch under way, and that epoch's figures so far."""

    epochs_done: Count = 0
    batches_done: Count = 0
    loss_sum: FiniteFloat = 0.0
    correct: Count = 0
    seen: Count = 0
    seconds: FiniteFloat = 0.0
    density: FiniteFloat = 1.0
    learning_rate: FiniteFloat = 0.0
    steps_in_epoch: Count | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


class Loop:
    """Epochs and steps over ``parameters`` of ``model``, from wherever ``position`` stands.

    ``after_step`` is called with the progress in epochs after every optimizer step and returns the
    density it left behind; validation runs inside ``while_validating``. At every step boundary
    ``should_pause`` is asked whether the state is wanted, and ``should_stop`` whether to end. With a
    ``team`` this process does its share of every batch, and all figures are those of all processes.
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
        should_pause: Callable[[], bool] | None = None,
        stopwatch: Stopwatch | None = None,
        team: Team | None = None,
    ) -> None:
        self.model, self.config, self.team = model, config, team
        self.placement = placement
        self.train: Any = train
        self.validation, self._cuts_train, self._cuts_validation = validation, False, False
        if team is not None:
            self.train, self._cuts_train = team.taken(train)
            if validation is not None:
                self.validation, self._cuts_validation = team.taken(validation)
        self.loss: Loss = loss or _cross_entropy(config.label_smoothing)
        learned = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(learned, config, directions=directions_of(model))
        self.position = Position(steps_in_epoch=len(self.train) if isinstance(self.train, Sized) else None)
        self.random_at_epoch_start = random_state(self.train, placement.device)
        self._images_per_second = 0.0
        self._after_step = after_step or (lambda progress: 1.0)
        self._while_validating = while_validating
        self._on_event = on_event or (lambda event: None)
        self._should_stop = should_stop or (lambda: False)
        self._should_pause = should_pause or (lambda: False)
        self._stopwatch = stopwatch
        must_compile = config.compile == "on"
        # Batch norm that waits for other processes ends what can be compiled, which "auto" need not find out.
        compiled = placement.compiled and (team is None or must_compile)
        self.forward = Forward(model, compiled=compiled, must_compile=must_compile)
        self._gradients = None if team is None else MeanGradients(learned, team.processes)

    def epochs(self) -> Iterator[EpochDone | None]:
        """Run to the end, yielding after each epoch, and None where the state is wanted within one.

        Whenever it yields, ``position`` and the model are those of a step boundary, and so they are if it raises
        DataError. It ends, after None, if it was asked to stop.
        """
        while self.position.epochs_done < self.config.epochs:
            started = time.perf_counter() - self.position.seconds
            for _ in self._epoch(self.position.epochs_done + 1):
                self.position.seconds = time.perf_counter() - started
                yield None
                if self._should_stop():
                    return
            event = self._close_epoch(started)
            if event is None:
                yield None
                return
            self._on_event(event)
            yield event

    def end(self) -> None:
        """Leave the parameters to themselves."""
        if self._gradients is not None:
            self._gradients.end()

    def _epoch(self, epoch: int) -> Iterator[None]:
        """Do what is left of an epoch, pausing where the state is wanted."""
        position, on_cpu = self.position, self.placement.device.type == "cpu"
        self.model.train()
        if position.batches_done == 0:
            self.random_at_epoch_start = random_state(self.train, self.placement.device)
        loss_sum = torch.tensor(position.loss_sum, device=self.placement.device, dtype=torch.float64)
        correct = torch.tensor(position.correct, device=self.placement.device)
        sound = torch.tensor(position.batches_done, device=self.placement.device)
        seen_before, started = position.seen, time.perf_counter()

        def read_back() -> None:
            position.loss_sum, position.correct = float(loss_sum), int(correct)
            refuse_divergence(position.loss_sum, epoch, int(sound) + 1)

        shares = shares_of(self._batches(epoch), self.team, cuts=self._cuts_train)
        while (share := self._next(shares, read_back)) is not None:
            self._set_learning_rate(epoch)
            with deterministic(self.config.deterministic):
                with self._phase("forward"), self.placement.autocast(), self._drawing(epoch):
                    outputs = self.forward(share.inputs)
                    loss = self.loss(outputs, share.targets)
                batch_loss, batch_correct = self._figures(loss.detach(), outputs.detach(), share)
                if on_cpu:  # elsewhere reading it would wait for the device
                    refuse_divergence(float(batch_loss), epoch, position.batches_done + 1)
                with self._phase("backward"):
                    self.optimizer.zero_grad(set_to_none=True)
                    torch.autograd.backward(self._weighted(loss, share))
                    if self._gradients is not None:
                        self._gradients.finish()
                with self._phase("optimizer"):
                    self.optimizer.step()
            position.batches_done += 1
            position.seen += share.total
            loss_sum += batch_loss * share.total
            sound += loss_sum.isfinite()  # once it is not, it stays so
            correct += batch_correct
            with self._phase("masks"):
                position.density = self._decide(epoch, read_back)
            self._on_event(StepDone(epoch, position.batches_done, position.steps_in_epoch))
            if self._stopwatch is not None:
                self._stopwatch.step()
            if self._should_stop() or self._should_pause():
                read_back()
                yield
        if position.batches_done == 0:
            raise DataError(
                f"the training data gave no batch in epoch {epoch}; expected an iterable that can be read once an "
                "epoch, such as a list or a DataLoader"
            )
        read_back()
        if position.seen > seen_before:
            self._images_per_second = (position.seen - seen_before) / max(time.perf_counter() - started, 1e-9)
        else:  # it was stopped while it validated
            self._images_per_second = position.seen / max(position.seconds, 1e-9)
        position.steps_in_epoch = position.batches_done

    def _next(self, shares: Iterator[Share], read_back: Callable[[], None]) -> Share | None:
        """Return the next batch on the device, None after the last one; what was done before data fail is not lost."""
        try:
            with self._phase("data"):
                share = next(shares, None)
                if share is None:
                    return None
                inputs = self.placement.inputs(share.inputs)
                targets = share.targets.to(self.placement.device, non_blocking=True)
                return Share(inputs, targets, share.examples, share.total)
        except DataError:
            read_back()
            raise

    def _drawing(self, epoch: int) -> AbstractContextManager[None]:
        if self.team is None:
            return nullcontext()
        return self.team.drawing(self.placement.device, f"{epoch}/{self.position.batches_done}")

    def _figures(self, loss: Tensor, outputs: Tensor, share: Share) -> tuple[Tensor, Tensor]:
        """Return the mean loss of the whole batch, and how many of its examples are right; neither is read back."""
        correct = count_correct(outputs, share.targets)
        if self.team is None:
            return loss, correct
        own = torch.stack([loss.double() * (share.examples / share.total), correct.double() * (share.examples > 0)])
        sums = self.team.processes.add(own)
        return sums[0], sums[1].long()

    def _weighted(self, loss: Tensor, share: Share) -> Tensor:
        """Return the loss whose gradient's mean over all processes is that of the whole batch."""
        if self.team is None or share.examples * self.team.processes.count == share.total:
            return loss
        return loss * (share.examples * self.team.processes.count / share.total)

    def _decide(self, epoch: int, read_back: Callable[[], None]) -> float:
        """Let the masks follow the scores; if they cannot be ranked, say where that was."""
        try:
            return self._after_step(self._progress(epoch))
        except ConfigError as error:
            read_back()
            raise SearchError(f"{error} (epoch {epoch}, step {self.position.batches_done})") from None

    def _close_epoch(self, started: float) -> EpochDone | None:
        """Validate and return the epoch's figures, None if it was asked to stop before it knew them."""
        position, config = self.position, self.config
        accuracy = loss = None
        if self.validation is not None:
            with self._while_validating(), deterministic(config.deterministic):
                batches = self._until_stopped(self.validation)
                shares = shares_of(batches, self.team, cuts=self._cuts_validation)
                accuracy, loss = validate(self.model, shares, self.placement, team=self.team)
            if self._should_stop():
                position.seconds = time.perf_counter() - started
                return None
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
        position.seconds = 0.0
        return event

    def _until_stopped(self, batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in batches:
            yield batch
            if self._should_stop():
                return

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of the epoch that are still to be done; skips the others as cheaply as the loader can."""
        start = self.position.batches_done
        if hasattr(self.train, "set_epoch"):
            self.train.set_epoch(epoch - 1)
        elif hasattr(getattr(self.train, "sampler", None), "set_epoch"):
            self.train.sampler.set_epoch(epoch - 1)
        if hasattr(self.train, "batches"):
            yield from self.train.batches(start)
            return
        if not start:
            yield from self.train
            return
        # An ordinary loader shuffles from the global generator: begin as the epoch began, then go on as it stopped.
        device = self.placement.device
        now = random_state(self.train, device)
        set_random_state(self.random_at_epoch_start, self.train, device)
        rest = iter(self.train)
        for _ in islice(rest, start):
            pass
        set_random_state(now, self.train, device)
        yield from rest

    def _phase(self, name: str) -> AbstractContextManager[None]:
        return nullcontext() if self._stopwatch is None else self._stopwatch.phase(name)

    def _progress(self, epoch: int) -> float:
        """Return how many epochs are done, the part of the one under way included."""
        steps = self.position.steps_in_epoch
        return epoch - 1 + (min(1.0, self.position.batches_done / steps) if steps else 0.0)

    def _set_learning_rate(self, epoch: int) -> None:
        rate = self.config.learning_rate * learning_rate_factor(self._progress(epoch), self.config)
        self.position.learning_rate = rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate


def steps_of(train: Batches, config: SearchConfig) -> int | None:
    """Return how many steps a run takes, None if the length of an epoch is not known."""
    return config.epochs * len(train) if isinstance(train, Sized) else None


@torch.no_grad()
def validate(
    model: nn.Module, batches: Batches | Iterable[Share], placement: Placement, *, team: Team | None = None
) -> tuple[float, float]:
    """Return accuracy and mean cross-entropy of ``model`` in evaluation mode over ``batches``, of a whole team."""
    model.eval()
    correct, loss, seen = 0, 0.0, 0
    with parametrize.cached():  # no mask changes, so each masked weight is computed once
        for batch in batches:
            inputs, targets = (batch.inputs, batch.targets) if isinstance(batch, Share) else batch
            with placement.autocast():
                outputs = model(placement.inputs(inputs))
            if isinstance(batch, Share) and not batch.examples:
                continue
            targets = targets.to(placement.device)
            correct += int(count_correct(outputs, targets))
            loss += float(F.cross_entropy(outputs.float(), targets, reduction="sum"))
            seen += targets.numel()
    if team is not None:
        loss, *counts = team.processes.add(torch.tensor([loss, correct, seen], dtype=torch.float64)).tolist()
        correct, seen = map(int, counts)
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
