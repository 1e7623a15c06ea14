"""Finding a ticket: scores learn, masks follow, weights stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import InterruptedRunError, ModelError
from ..masks import Edges, attachment_of, concluded, edges, fix, refresh, scheduled_density, weights_digest
from ..ticket import Ticket, extract, load, save, store
from .checkpoint import has_checkpoint, load_checkpoint, save_checkpoint
from .config import SearchConfig
from .events import EpochDone, Event
from .hardware import Placement, place
from .interruption import StopRequest, listening
from .loop import Batches, Loop, Loss

_BEST = "best.safetensors"


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    ``ticket`` is the one to use: of the best validation epoch, or of the last where nothing was held
    out. ``last`` is the ticket of the last epoch. ``history`` has one dictionary an epoch, the fields of
    ``EpochDone``. ``placement`` says where it ran.
    """

    ticket: Ticket
    last: Ticket
    best_epoch: int
    history: list[dict[str, Any]]
    placement: Placement


def search(
    model: nn.Module,
    train: Batches,
    config: SearchConfig | None = None,
    *,
    validation: Batches | None = None,
    on_event: Callable[[Event], None] | None = None,
    loss: Loss | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
) -> SearchResult:
    """Learn the scores of an attached ``model`` and leave it with the fixed masks of the ticket found.

    ``train`` and ``validation`` are iterables of (input, target) batches that can be read once an
    epoch; targets are class indices unless ``loss`` (outputs, targets) → scalar says otherwise.
    Validation data choose the epoch and nothing else. ``on_event`` hears ``StepDone`` and ``EpochDone``.

    With a folder ``checkpoint``, the state is saved there after every epoch and when SIGINT or SIGTERM
    asks to stop (InterruptedRunError); ``resume`` goes on from it. Raises ModelError if the model is
    not attached, SearchError if the loss diverges or the checkpoint does not fit, DataError if there
    are no batches.
    """
    config = config or SearchConfig()
    attachment = attachment_of(model)
    selection = attachment.selection
    if selection is None:
        raise ModelError("the masks of this model are fixed already; attach a fresh model to search again")
    placement = place(model, config)
    digest = weights_digest(model)
    live = edges(model)
    final_density = _kept_share(live)

    def decide(progress: float) -> float:
        ramp = min(1.0, progress / config.density_epochs)
        density = scheduled_density(
            selection.density, ramp, schedule=config.density_schedule, start=config.density_start
        )
        refresh(model, density=density)
        over = config.density_schedule == "constant" or ramp >= 1
        return final_density if over else _kept_share(live)  # counting makes a GPU wait, so only in a ramp

    decide(0.0)
    folder = None if checkpoint is None else Path(checkpoint)
    with listening() if folder else nullcontext(StopRequest()) as stop:
        loop = Loop(
            model,
            train,
            config,
            placement=placement,
            validation=validation,
            loss=loss,
            after_step=decide,
            while_validating=partial(concluded, model),
            on_event=on_event,
            should_stop=stop,
        )
        best, best_epoch = None, 0
        if folder and resume and has_checkpoint(folder):
            best_epoch = load_checkpoint(loop, folder) or 0
            best = load(folder / _BEST) if best_epoch else None
        elif folder:
            folder.mkdir(parents=True, exist_ok=True)
        for event in loop.epochs():
            if event is not None and _is_best(event, loop.position.history, best_epoch):
                best, best_epoch = extract(model), event.epoch
                if folder:
                    save(best, folder / _BEST)
            if folder:
                save_checkpoint(loop, folder, best_epoch=best_epoch or None)
            if stop():
                raise _interrupted(loop, stop)
    if weights_digest(model) != digest:
        raise ModelError("a frozen weight changed during the search; something outside this library wrote to it")
    last = extract(model)
    ticket = best if best is not None and validation is not None else last
    fix(model, ticket.masks)
    store(model, ticket.stored)
    model.eval()
    return SearchResult(ticket, last, best_epoch or config.epochs, loop.position.history, placement)


def train_dense(
    model: nn.Module,
    train: Batches,
    config: SearchConfig,
    *,
    on_event: Callable[[Event], None] | None = None,
    loss: Loss | None = None,
) -> nn.Module:
    """Train the weights of a plain ``model`` on the budget of a search and return it in evaluation mode.

    Epochs, batches, schedule, warm-up and label smoothing are those of ``config``; optimizer, learning
    rate and weight decay are its ``trained_*`` fields. This is the target of the strong lottery ticket
    hypothesis.
    """
    dense = config.for_dense_training()
    loop = Loop(model, train, dense, placement=place(model, dense), loss=loss, on_event=on_event)
    for _ in loop.epochs():
        pass
    return model.eval()


def _kept_share(live: Mapping[str, Edges]) -> float:
    kept = sum(int(edge.mask.sum()) for edge in live.values())
    return kept / sum(edge.mask.numel() for edge in live.values())


def _is_best(event: EpochDone, history: list[dict[str, Any]], best_epoch: int) -> bool:
    if event.validation_accuracy is None:
        return False
    return best_epoch == 0 or event.validation_accuracy >= history[best_epoch - 1]["validation_accuracy"]


def _interrupted(loop: Loop, stop: StopRequest) -> InterruptedRunError:
    position = loop.position
    where = f"after {position.epochs_done} epochs"
    if position.batches_done:
        where += f" and {position.batches_done} steps"
    return InterruptedRunError(f"stopped {where}; the checkpoint is saved, --resume goes on", signal=stop.signal or 0)
