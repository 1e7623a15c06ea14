"""Finding a ticket: scores learn, masks follow, weights stay."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import DataError, InterruptedRunError, ModelError, SearchError
from ..masks import (
    Edges,
    attachment_of,
    concluded,
    drawn_digest,
    edges,
    fix,
    refresh,
    scheduled_density,
    weights_digest,
)
from ..ticket import Ticket, extract, store
from ..weights import digest
from .checkpoint import Checkpoints, as_the_first, has_checkpoint
from .config import SearchConfig
from .events import EpochDone, Event, Resumed
from .interruption import StopRequest, listening
from .loop import Batches, Loop, Loss, steps_of
from .machine.hardware import Placement, place
from .processes import LostProcessError, Processes, joined, refuse_differing
from .processes.batch_norm import synchronised
from .processes.shares import Team
from .state import Best


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
    Validation data choose the epoch and nothing else. ``on_event`` hears ``Resumed``, ``StepDone`` and
    ``EpochDone``.

    With a folder ``checkpoint``, the state is saved there as often as ``config`` says, when data fail, and
    when SIGINT or SIGTERM asks to stop (InterruptedRunError). ``resume`` goes on from there to the same
    ticket, bit for bit (on a GPU if ``config`` says ``deterministic``): ``train`` has to give the same batches in
    each epoch, drawn from nothing but an epoch it is told by ``set_epoch``, the global generators of torch, numpy
    and Python, and a DataLoader's own generator. If the newest checkpoint is damaged the one before is taken and
    ``Resumed`` says so, or a warning where nobody listens. Without a checkpoint there, the search begins.

    Under a process group of torch with several processes, all of which have to call this, they search together
    (docs/scale.md): ``train`` gives every process the batches of all, of which it takes its share, unless it is a
    DataLoader with a DistributedSampler or has a method ``share(rank, count)`` that returns the loader of one process;
    likewise ``validation``. ``loss`` is a mean over examples. Each process returns the same, and process 0 alone reads
    and writes checkpoints.

    Raises ModelError if the model is not attached, SearchError if the loss diverges, the checkpoint
    does not fit or a process is lost, DataError if there are no batches, OSError if a checkpoint cannot be written.
    """
    with joined() as processes, nullcontext() if processes is None else processes.watched():
        return _search(
            model,
            train,
            config or SearchConfig(),
            processes,
            validation=validation,
            on_event=on_event,
            loss=loss,
            folder=None if checkpoint is None else Path(checkpoint),
            resume=resume,
        )


def _search(
    model: nn.Module,
    train: Batches,
    config: SearchConfig,
    processes: Processes | None,
    *,
    validation: Batches | None,
    on_event: Callable[[Event], None] | None,
    loss: Loss | None,
    folder: Path | None,
    resume: bool,
) -> SearchResult:
    attachment = attachment_of(model)
    selection = attachment.selection
    if selection is None:
        raise ModelError("the masks of this model are fixed already; attach a fresh model to search again")
    placement = place(model, config, steps=steps_of(train, config))
    frozen = weights_digest(model)
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
    is_first = processes is None or processes.rank == 0
    checkpoints = Checkpoints(folder, config) if folder is not None and is_first else None
    with ExitStack() as stack:
        stop = stack.enter_context(listening()) if folder is not None else StopRequest()
        team = None
        if processes is not None:
            team = Team(model, processes, stop)
            stack.enter_context(synchronised(model, processes, team.counts))
            stop = team.stop
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
            should_pause=checkpoints.due if checkpoints else None,
            team=team,
        )
        stack.callback(loop.end)
        begin = partial(_begun, loop, checkpoints, resume, on_event)
        best = begin() if processes is None else as_the_first(loop, processes, begin)
        best = _learn(loop, best, checkpoints, stop)
    if stop():
        raise _interrupted(loop, stop)
    if weights_digest(model) != (drawn_digest(model) if attachment.levels == "draws" else frozen):
        raise ModelError("a frozen weight changed during the search; something outside this library wrote to it")
    last = extract(model)
    ticket = best.ticket if best.ticket is not None and validation is not None else last
    fix(model, ticket.masks)
    store(model, ticket.stored)
    model.eval()
    placement = replace(placement, compiled=loop.forward.compiled)
    return SearchResult(ticket, last, best.epoch or config.epochs, loop.position.history, placement)


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
    placement = place(model, dense, steps=steps_of(train, dense))
    loop = Loop(model, train, dense, placement=placement, loss=loss, on_event=on_event)
    for _ in loop.epochs():
        pass
    return model.eval()


def _begun(loop: Loop, checkpoints: Checkpoints | None, resume: bool, on_event: Callable[[Event], None] | None) -> Best:
    """Put ``loop`` to where it goes on from, and return the best ticket so far."""
    best = Best()
    if checkpoints and resume and has_checkpoint(checkpoints.folder):
        best, damaged = checkpoints.load(loop)
        _tell(Resumed(loop.position.epochs_done, loop.position.batches_done, damaged), on_event)
    elif checkpoints:
        checkpoints.begin()
    return best


def _learn(loop: Loop, best: Best, checkpoints: Checkpoints | None, stop: StopRequest) -> Best:
    """Run ``loop`` to its end, or to where it was asked to stop, keep its checkpoints, and return the best ticket."""
    processes = None if loop.team is None else loop.team.processes
    try:
        with nullcontext() if processes is None else processes.watched():
            for event in loop.epochs():
                if event is not None and _is_best(event, loop.position.history, best.epoch):
                    best = Best(event.epoch, extract(loop.model))
                stopping = stop()
                if event is not None and processes is not None:
                    masks = {name: edge.mask for name, edge in edges(loop.model).items()}
                    refuse_differing(processes, digest(masks), f"after epoch {event.epoch} the masks")
                if checkpoints and (event is None or stopping or checkpoints.due_after(event.epoch)):
                    checkpoints.save(loop, best)
                if stopping:
                    break
    except DataError:
        if checkpoints and (loop.position.epochs_done or loop.position.batches_done):
            with suppress(SearchError, OSError):  # what is wrong with the data is the news
                checkpoints.save(loop, best)
        raise
    except SearchError as error:
        if checkpoints is None:
            raise
        kept = f"the last good checkpoint is kept in {checkpoints.folder}" if has_checkpoint(checkpoints.folder) else ""
        if isinstance(error, LostProcessError):
            how = f"{kept}: go on with --resume" if kept else "there is no checkpoint yet: start again"
            raise LostProcessError(error.ranks, f"; {how}") from None
        if kept:
            raise SearchError(f"{error}; {kept}") from None
        raise
    return best


def _kept_share(live: Mapping[str, Edges]) -> float:
    kept = sum(int(edge.mask.count_nonzero()) for edge in live.values())
    return kept / sum(edge.mask.numel() for edge in live.values())


def _tell(event: Resumed, on_event: Callable[[Event], None] | None) -> None:
    if on_event is not None:
        on_event(event)
    elif event.damaged:
        warnings.warn(event.damaged, stacklevel=3)


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
