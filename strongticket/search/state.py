"""All that a search consists of between two steps, but for the frozen weights, which its seed gives back."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from ..errors import SearchError, TicketError
from ..masks import attachment_of, redraw
from ..ticket import Ticket, from_bytes, to_bytes
from .config import MACHINE_OPTIONS
from .events import EpochDone
from .loop import Loop, Position
from .machine.randomness import RandomState, random_state, set_random_state
from .optimizer import REMEMBERED


@dataclass
class Best:
    """The ticket of the epoch, from 1, that did best on the validation data; ``epoch`` is 0 while there is none."""

    epoch: int = 0
    ticket: Ticket | None = None
    _coded: bytes = field(default=b"", repr=False)

    def coded(self) -> bytes:
        """Return the ticket as its file would hold it; empty while there is none."""
        if self.ticket is not None and not self._coded:
            self._coded = to_bytes(self.ticket)
        return self._coded


@dataclass(frozen=True)
class State:
    """The state of a search: ``tensors`` on the CPU in C order, and JSON ``values``."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]


def capture(loop: Loop, best: Best) -> State:
    """Return the state of ``loop``, its tensors copied; SearchError if it has diverged and is not worth keeping."""
    _refuse_what_diverged(loop)
    tensors = {f"model:{name}": value for name, value in _changing(loop).items()}
    for index, state in loop.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer:{index}:{key}": value for key, value in state.items() if value is not None}
    random = {"now": random_state(loop.train, loop.placement.device), "epoch": loop.random_at_epoch_start}
    for moment, drawn in random.items():
        tensors |= {f"random:{moment}:{name}": value for name, value in drawn.tensors.items()}
    if coded := best.coded():
        tensors["best"] = torch.frombuffer(bytearray(coded), dtype=torch.uint8)
    values = {
        "options": _options(loop),
        "position": asdict(loop.position),
        "random": {moment: drawn.values for moment, drawn in random.items()},
        "refreshes": attachment_of(loop.model).refreshes,
        "best_epoch": best.epoch,
    }
    return State({name: _copy(value) for name, value in tensors.items()}, values)


def restore(loop: Loop, state: State) -> Best:
    """Put ``state`` into ``loop``, and return the best ticket so far.

    Raises SearchError if it is of another search, naming the options that differ, or of another network; what it says
    begins with a verb, for the caller to name the file.
    """
    try:
        _refuse_other_options(state.values["options"], _options(loop))
        _restore_model(loop, _with_prefix(state.tensors, "model:"))
        redraw(loop.model)
        _restore_optimizer(loop, _with_prefix(state.tensors, "optimizer:"))
        loop.position = _position(state.values["position"], loop)
        attachment_of(loop.model).refreshes = _count(state.values["refreshes"], "refreshes", sys.maxsize)
        best = Best(_count(state.values["best_epoch"], "best_epoch", loop.position.epochs_done))
        if ("best" in state.tensors) != bool(best.epoch):
            raise ValueError("a best epoch goes with its ticket")
        if "best" in state.tensors:
            best.ticket = from_bytes(state.tensors["best"].numpy().tobytes())
        now, epoch = (
            RandomState(_with_prefix(state.tensors, f"random:{moment}:"), state.values["random"][moment])
            for moment in ("now", "epoch")
        )
        loop.random_at_epoch_start = epoch
        set_random_state(now, loop.train, loop.placement.device)
    except (LookupError, TypeError, ValueError, OverflowError, RuntimeError, AttributeError, TicketError) as error:
        why = _first_of(error) if isinstance(error, ValidationError) else repr(error)
        raise SearchError(f"does not hold what a search of this release consists of ({why})") from None
    return best


def _changing(loop: Loop) -> dict[str, Tensor]:
    """Return the live tensors that may change in a search, buffers that no ``state_dict`` holds among them."""
    found = {**loop.model.state_dict(keep_vars=True), **dict(loop.model.named_buffers())}
    return {name: value for name, value in found.items() if isinstance(value, Tensor) and not _is_frozen(name)}


def _is_frozen(name: str) -> bool:
    """Say whether a tensor is the weight behind a mask, which the seed gives back."""
    return "parametrizations" in name.split(".") and name.endswith(".original")


def _copy(value: Tensor) -> Tensor:
    return torch.empty(value.shape, dtype=value.dtype).copy_(value.detach())


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _position(values: Mapping[str, Any], loop: Loop) -> Position:
    """Return the position that JSON ``values`` hold; raises if no run of ``loop`` can stand there."""
    if values.keys() != asdict(Position()).keys():
        raise ValueError(f"a position has {', '.join(asdict(Position()))}")
    position = TypeAdapter(Position).validate_json(json.dumps(values), strict=True)
    history = TypeAdapter(list[EpochDone]).validate_json(json.dumps(position.history), strict=True)
    epochs = [event.epoch for event in history]
    if position.epochs_done > loop.config.epochs or epochs != list(range(1, position.epochs_done + 1)):
        raise ValueError("the epochs done are not those that its history tells of")
    if (position.batches_done == 0) != (position.seen == 0):
        raise ValueError("batches done go with examples seen")
    if any((event.validation_accuracy is None) != (loop.validation is None) for event in history):
        raise SearchError("is of another search: one of the two has validation data, and the other has none")
    return position


def _count(value: object, name: str, most: int) -> int:
    if not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"{name} is no count up to {most}")
    return value


def _first_of(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _restore_model(loop: Loop, saved: Mapping[str, Tensor]) -> None:
    live = _changing(loop)
    kinds = [{name: (value.shape, value.dtype) for name, value in found.items()} for found in (saved, live)]
    if kinds[0] != kinds[1]:
        raise SearchError("is of another network; start again with another output folder")
    with torch.no_grad():
        for name, value in live.items():
            value.copy_(saved[name])


def _restore_optimizer(loop: Loop, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in loop.optimizer.param_groups for parameter in group["params"]]
    for name, value in tensors.items():
        index, key = name.split(":")
        like = torch.zeros(()) if key == "step" else parameters[int(index)]
        if value.shape != like.shape or value.dtype != like.dtype:
            # A fused optimizer would go through both by address, and leave the shorter one at its end.
            raise ValueError(f"the optimizer's {key} is not of its parameter's shape and type")
        state.setdefault(int(index), {})[key] = value
    if any(values.keys() != REMEMBERED[loop.config.optimizer] for values in state.values()):
        raise ValueError(f"{loop.config.optimizer} remembers {', '.join(sorted(REMEMBERED[loop.config.optimizer]))}")
    fresh = loop.optimizer.state_dict()
    if not fresh["state"].keys() <= state.keys():
        raise ValueError("the optimizer remembers nothing of some parameters")
    groups = fresh["param_groups"]
    loop.optimizer.load_state_dict({"state": state, "param_groups": groups})
    for parameter, values in loop.optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, Tensor) and key != "step":
                # In the parameter's memory format, as it was: fused optimizers go through both by address.
                values[key] = torch.empty_like(parameter, requires_grad=False).copy_(value)


def _options(loop: Loop) -> dict[str, Any]:
    """Return what a search was told: its configuration, its masks, and what its frozen weights are drawn from."""
    attachment = attachment_of(loop.model)
    masks = {**attachment.search, "binary": asdict(attachment.binary)}
    drawn_from = {"seed": attachment.seed, "law": attachment.law.to_dict()}
    options: dict[str, Any] = json.loads(json.dumps({**loop.config.model_dump(), **masks, **drawn_from}))
    return options


def _refuse_other_options(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    keys = sorted((saved.keys() | now.keys()) - MACHINE_OPTIONS)
    differing = [f"{key} ({saved.get(key)!s:.99} → {now.get(key)})" for key in keys if saved.get(key) != now.get(key)]
    if differing:
        raise SearchError(f"is of another search: {', '.join(differing)} differ")


def _refuse_what_diverged(loop: Loop) -> None:
    position = loop.position
    if math.isfinite(position.loss_sum) and all(map(_is_finite, _learned(loop))):
        return
    epoch = position.epochs_done + 1 if position.batches_done else position.epochs_done
    step = f" by step {position.batches_done}" if position.batches_done else ""
    raise SearchError(
        f"what is learned became NaN or infinite{step} of epoch {epoch}; lower the learning rate, add warm-up epochs, "
        "or use precision 'fp32'"
    )


def _learned(loop: Loop) -> Iterator[Tensor]:
    """Yield the parameters that learn and what the optimizer remembers of them."""
    yield from (parameter for parameter in loop.model.parameters() if parameter.requires_grad)
    states: Iterable[Mapping[str, Any]] = loop.optimizer.state.values()
    yield from (value for state in states for value in state.values() if isinstance(value, Tensor))


def _is_finite(value: Tensor) -> bool:
    if not value.is_floating_point() or not value.numel():
        return True
    least, largest = torch.aminmax(value.detach())  # in one pass, and NaN if anything is
    return math.isfinite(float(least)) and math.isfinite(float(largest))
