"""What a search needs to go on after it was stopped: two files, neither of which can run code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..errors import SearchError
from ..files import write_beside
from ..masks import attachment_of
from .loop import Loop, Position

_FILE = "search.safetensors"
_VERSION = 1


def save_checkpoint(loop: Loop, folder: Path, *, best_epoch: int | None) -> None:
    """Write the state of ``loop`` into ``folder``: beside the last one, then in its place."""
    tensors = {f"model:{name}": value for name, value in _learned(loop).items()}
    optimizer = loop.optimizer.state_dict()
    scalars: dict[str, dict[str, Any]] = {}
    for index, state in optimizer["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer:{index}:{key}"] = value
            else:
                scalars.setdefault(str(index), {})[key] = value
    tensors["random:now"] = torch.get_rng_state()
    tensors["random:epoch"] = loop.random_at_epoch_start
    if torch.cuda.is_available():
        tensors["random:cuda"] = torch.cuda.get_rng_state()
    header = {
        "version": _VERSION,
        "config": _options(loop),
        "position": asdict(loop.position),
        "optimizer": scalars,
        "refreshes": attachment_of(loop.model).refreshes,
        "best_epoch": best_epoch,
    }
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_beside(folder / _FILE, save(tensors, {"search": json.dumps(header)}))


def load_checkpoint(loop: Loop, folder: Path) -> int | None:
    """Put the state in ``folder`` back into ``loop`` and return the best epoch so far.

    Raises SearchError if there is none, if it is damaged, or if it is of another search (naming the
    options that differ).
    """
    path = folder / _FILE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SearchError(f"there is no checkpoint to resume in {folder} ({error.strerror})") from None
    try:
        tensors = load(data)
        size = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["search"])
    except (SafetensorError, ValueError, KeyError) as error:
        raise SearchError(f"the checkpoint {path} is damaged ({error}); delete it and start again") from None
    if header.get("version") != _VERSION:
        raise SearchError(f"the checkpoint {path} has version {header.get('version')}; this release reads {_VERSION}")
    _refuse_other_options(header["config"], _options(loop), path)
    model = {name.removeprefix("model:"): value for name, value in tensors.items() if name.startswith("model:")}
    expected = _learned(loop)
    if {n: v.shape for n, v in model.items()} != {n: v.shape for n, v in expected.items()}:
        raise SearchError(f"the checkpoint {path} is of another network; start again with another output folder")
    with torch.no_grad():
        for name, value in expected.items():
            value.copy_(model[name])
    _restore_optimizer(loop, tensors, header["optimizer"])
    loop.position = Position(**header["position"])
    loop.random_at_epoch_start = tensors["random:epoch"]
    torch.set_rng_state(tensors["random:now"])
    if torch.cuda.is_available() and "random:cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random:cuda"])
    attachment_of(loop.model).refreshes = header["refreshes"]
    best: int | None = header["best_epoch"]
    return best


def has_checkpoint(folder: Path) -> bool:
    """Say whether ``folder`` holds a checkpoint."""
    return (folder / _FILE).exists()


def _learned(loop: Loop) -> dict[str, Tensor]:
    """Return the live tensors that change in a search: all but the frozen weights, which the seed gives back."""
    state = loop.model.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if not name.endswith(".original")}


def _restore_optimizer(loop: Loop, tensors: Mapping[str, Tensor], scalars: Mapping[str, dict[str, Any]]) -> None:
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in scalars.items()}
    for name, value in tensors.items():
        if name.startswith("optimizer:"):
            _, index, key = name.split(":")
            state.setdefault(int(index), {})[key] = value
    groups = loop.optimizer.state_dict()["param_groups"]
    loop.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _options(loop: Loop) -> dict[str, Any]:
    """Return what a search was told: its configuration, its masks, and what its frozen weights are drawn from."""
    attachment = attachment_of(loop.model)
    masks = {**attachment.search, "binary": asdict(attachment.binary)}
    drawn_from = {"seed": attachment.seed, "law": attachment.law.to_dict()}
    options: dict[str, Any] = json.loads(json.dumps({**loop.config.model_dump(), **masks, **drawn_from}))
    return options


def _refuse_other_options(saved: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    machine = {"device", "precision", "channels_last"}
    keys = [key for key in sorted(saved.keys() | now.keys()) if key not in machine]
    differing = [f"{key} ({saved.get(key)} → {now.get(key)})" for key in keys if saved.get(key) != now.get(key)]
    if differing:
        raise SearchError(f"the checkpoint {path} is of another search: {', '.join(differing)} differ")
