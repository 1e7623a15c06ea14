"""From a ticket to a file of another runtime."""

from __future__ import annotations

import copy
import importlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import ConfigError, ExportError, MissingExtraError
from ..masks import bake, is_attached
from ..ticket import Ticket, apply, extract
from . import onnx, safetensors
from .text import core_reason, quiet
from .verify import RELATIVE_TOLERANCE, Comparison, read_example


class Writer(Protocol):
    """What a target does: write a baked network to a path, check the file and return how it compares."""

    def __call__(self, plain: nn.Module, path: Path, *, ticket: Ticket, example: Tensor | None) -> Comparison:
        """Write ``path`` (and what belongs to it, in the same folder); raise ExportError if it cannot be right."""


@dataclass(frozen=True)
class Target:
    """A format: how it is written, and what must be there for that.

    ``modules`` must be importable; ``extra`` is the extra of this package that brings them.
    """

    description: str
    write: Writer
    modules: tuple[str, ...] = ()
    extra: str | None = None


TARGETS: Mapping[str, Target] = {
    "safetensors": Target("weights under ordinary state_dict names, dropped edges at zero", safetensors.write),
    "onnx": Target("ONNX graph with a free batch dimension", onnx.write, onnx.MODULES, extra="onnx"),
}
"""Every format a ticket can be exported to, by name."""


@dataclass(frozen=True)
class ExportReport:
    """What was written and how it was found to be right.

    ``bytes`` counts all files of the export. ``inputs`` single inputs were sent through the network in
    torch and through the exported one: ``max_difference`` is the largest absolute difference of their
    outputs, ``max_relative`` the largest over the largest output of its batch (at most ``tolerance``),
    ``equal_decisions`` in [0, 1] the share of equal decisions. ``beyond`` counts the inputs whose outputs
    differ by more than ``tolerance``, as some may in a network with binary activations.
    """

    target: str
    path: Path
    bytes: int
    inputs: int
    max_difference: float
    max_relative: float
    equal_decisions: float
    beyond: int = 0
    tolerance: float = RELATIVE_TOLERANCE

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {**asdict(self), "path": str(self.path)}


def export(
    ticket: Ticket,
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    to: str,
    example: Tensor | tuple[Tensor, ...] | list[Tensor] | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Write the network of ``ticket`` to ``path`` in the format ``to`` and check that it computes the same.

    ``model`` is a fresh plain network, or one that carries this very ticket; it stays as it is.
    ``example`` is a batch of inputs (batch, …), or an (inputs, targets) batch; it gives the input's shape
    and is checked beside random inputs. The file is written beside ``path`` and gets its name only once
    it passed. ``overwrite`` allows a file to be replaced.

    Raises ConfigError for an unknown format, MissingExtraError if its packages are not installed,
    TicketError for a ticket of another network, and ExportError for a path that cannot be written, an
    example that does not fit, a layer the format does not have, or a file that computes something else.
    """
    target = _target(to)
    path = Path(path)
    _check_path(path, overwrite)
    _check_modules(to, target)
    plain = bake(_carrying(ticket, model)).cpu().eval()
    inputs = None if example is None else read_example(example, plain)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name[:100]}.") as folder:
            staged = Path(folder) / path.name
            comparison = target.write(plain, staged, ticket=ticket, example=inputs)
            size = _publish(staged, path, overwrite)
    except OSError as error:
        raise ExportError(f"{path} cannot be written: {error.strerror or error}") from error
    return ExportReport(to, path, size, **asdict(comparison))


def _target(to: str) -> Target:
    if to not in TARGETS:
        close = get_close_matches(str(to).lower(), TARGETS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigError(f"export target {to!r} is not known{hint}; the targets are {', '.join(TARGETS)}")
    return TARGETS[to]


def _check_path(path: Path, overwrite: bool) -> None:
    if not path.parent.is_dir():
        raise ExportError(f"the folder {path.parent} does not exist; create it first")
    if path.is_dir():
        raise ExportError(f"{path} is a folder; expected the name of a file to write")
    if path.exists() and not overwrite:
        raise ExportError(f"{path} exists already; choose another name, or pass overwrite=True to replace it")


def _check_modules(to: str, target: Target) -> None:
    for module in target.modules:
        try:
            with quiet():
                importlib.import_module(module)
        except ImportError as error:
            raise MissingExtraError(
                f"export to {to} needs {module} ({core_reason(error)}); pip install 'strongticket[{target.extra}]'"
            ) from error


def _carrying(ticket: Ticket, model: nn.Module) -> nn.Module:
    """Return a network that carries the ticket: ``model`` itself if it does already, else a copy."""
    if not is_attached(model):
        return apply(ticket, copy.deepcopy(model))
    found = extract(model)
    same = (
        found.weights_digest == ticket.weights_digest
        and _equal(found.masks, ticket.masks)
        and _equal(found.stored, ticket.stored)
    )
    if not same:
        raise ExportError("this model carries other weights, masks or statistics than the ticket; pass a fresh one")
    return model


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def _publish(staged: Path, path: Path, overwrite: bool) -> int:
    """Move what a target wrote to where it belongs, ``path`` last, and return its size in bytes."""
    companions = sorted(file for file in staged.parent.iterdir() if file != staged)
    for file in companions:
        if not overwrite and (path.parent / file.name).exists():
            raise ExportError(f"{path.parent / file.name} exists already; choose another name, or pass overwrite=True")
    size = 0
    for file in [*companions, staged]:
        with file.open("r+b") as opened:
            os.fsync(opened.fileno())
        size += file.stat().st_size
        file.replace(path.parent / file.name)
    return size
