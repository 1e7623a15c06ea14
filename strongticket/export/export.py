"""From a ticket to a file of another runtime."""

from __future__ import annotations

import copy
import importlib
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, ExportError, MissingExtraError
from ..masks import bake, is_attached
from ..ticket import Ticket, apply, extract
from . import c, onnx, openvino, pt2, safetensors
from .graph import Census
from .sizes import Sizes, sizes_of
from .source import source_of
from .text import core_reason, quiet
from .verify import RELATIVE_TOLERANCE, Comparison, read_example

Writer = Callable[..., Comparison]
"""What a target does: ``write(source, path, **options)`` writes a ``Source`` and returns how the file compares.

It writes ``path`` and what belongs to it in the same folder; the path of a target that writes a folder is an empty
one. What was written is compared with ``source.reference``; ExportError if it cannot be right.
"""


@dataclass(frozen=True)
class Target:
    """A format: how it is written, and what must be there for that.

    ``modules`` must be importable; ``extra`` is the extra of this package that brings them. ``options`` are the
    keyword options that ``write`` takes. With ``folder`` the path is a folder of files. ``memory`` reads off what
    was written how much it takes when it runs, if the target is a program.
    """

    description: str
    write: Writer
    modules: tuple[str, ...] = ()
    extra: str | None = None
    options: tuple[str, ...] = ()
    folder: bool = False
    memory: Callable[[Path], c.Memory] | None = None


TARGETS: Mapping[str, Target] = {
    "safetensors": Target("weights under ordinary state_dict names, dropped edges at zero", safetensors.write),
    "onnx": Target(
        "ONNX graph with a free batch dimension", onnx.write, onnx.MODULES, extra="onnx", options=("weights",)
    ),
    "c": Target(
        "folder of C99, a source and its header without dependencies; binary layers by popcount",
        c.write,
        options=("with_main", "activations"),
        folder=True,
        memory=c.read_memory,
    ),
    "openvino": Target(
        "OpenVINO model (NAME.xml, NAME.bin), binary layers by xnor and popcount",
        openvino.write,
        openvino.MODULES,
        extra="openvino",
        options=("batch",),
    ),
    "pt2": Target("program of torch.export with a free batch dimension", pt2.write),
}
"""Every format a ticket can be exported to, by name."""


@dataclass(frozen=True)
class ExportReport:
    """What was written and how it was found to be right.

    ``bytes`` counts all files of the export. ``inputs`` single inputs were sent through the network in
    torch and through the exported one: ``max_difference`` is the largest absolute difference of their
    outputs, ``max_relative`` the largest over the largest output of its batch (at most ``tolerance``),
    ``equal_decisions`` in [0, 1] the share of equal decisions. ``beyond`` counts the inputs whose outputs
    differ by more than ``tolerance``, as some may in a network with binary activations. ``sizes`` says how small
    the network could be; ``census`` counts what of it can matter, and is None for a network that is more than the
    layers that are counted. ``memory`` is what a program takes, None for other targets.
    """

    target: str
    path: Path
    bytes: int
    sizes: Sizes
    census: Census | None
    inputs: int
    max_difference: float
    max_relative: float
    equal_decisions: float
    beyond: int = 0
    tolerance: float = RELATIVE_TOLERANCE
    memory: c.Memory | None = None

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
    **options: Any,
) -> ExportReport:
    """Write the network of ``ticket`` to ``path`` in the format ``to`` and check that it computes the same.

    ``model`` is a fresh plain network, or one that carries this very ticket; it stays as it is.
    ``example`` is a batch of inputs (batch, …), or an (inputs, targets) batch; it gives the input's shape
    and is checked beside random inputs. ``options`` are the target's own (``TARGETS[to].options``). The file, or
    the folder of a target that writes several, is written beside ``path`` and gets its name only once it
    passed. ``overwrite`` allows files to be replaced.

    Raises ConfigError for an unknown format or option, MissingExtraError if its packages are not installed,
    TicketError for a ticket of another network, and ExportError for a path that cannot be written, an
    example that does not fit, a layer the format does not have, or a file that computes something else.
    """
    target, path = check_request(path, to=to, overwrite=overwrite, **options), Path(path)
    reference = bake(_carrying(ticket, model)).cpu().eval()
    inputs = None if example is None else read_example(example, reference)
    source = source_of(reference, ticket, inputs)
    place = path.resolve() if target.folder else path  # beside the working directory if that is to be filled
    try:
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name[:100]}.") as folder:
            staged = Path(folder) / place.name
            if target.folder:
                staged.mkdir()
            comparison = target.write(source, staged, **options)
            memory = target.memory(staged) if target.memory else None
            size = (_publish_folder if target.folder else _publish)(staged, place, overwrite)
    except OSError as error:
        raise ExportError(f"{path} cannot be written: {error.strerror or error}") from error
    return ExportReport(to, path, size, sizes_of(ticket, reference), source.census, memory=memory, **asdict(comparison))


def check_request(path: str | os.PathLike[str], *, to: str, overwrite: bool = False, **options: Any) -> Target:
    """Return the target ``to`` if it can write to ``path`` with these options; raise as ``export`` does if not.

    Nothing is written, and no network is needed to know.
    """
    target = _target(to)
    _check_options(to, target, options)
    _check_path(Path(path), target, overwrite)
    _check_modules(to, target)
    return target


def _target(to: str) -> Target:
    if to not in TARGETS:
        close = get_close_matches(str(to).lower(), TARGETS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigError(f"export target {to!r} is not known{hint}; the targets are {', '.join(TARGETS)}")
    return TARGETS[to]


def _check_options(to: str, target: Target, options: Mapping[str, Any]) -> None:
    for option in options:
        if option not in target.options:
            able = [name for name, other in TARGETS.items() if option in other.options]
            who = f"{' and '.join(able)} {'take' if len(able) > 1 else 'takes'} it" if able else "no target takes it"
            raise ConfigError(f"export to {to} takes no option {option!r}; {who}")


def _check_path(path: Path, target: Target, overwrite: bool) -> None:
    if not path.parent.is_dir():
        raise ExportError(f"the folder {path.parent} does not exist; create it first")
    if target.folder:
        if path.exists() and not path.is_dir():
            raise ExportError(f"{path} is a file; expected the name of a folder to write")
        if path.is_dir() and any(path.iterdir()) and not overwrite:
            raise ExportError(f"{path} exists already and is not empty; choose another name, or pass overwrite=True")
        return
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
    size = _on_disk([*companions, staged])
    for file in [*companions, staged]:
        file.replace(path.parent / file.name)
    return size


def _publish_folder(staged: Path, path: Path, overwrite: bool) -> int:
    """Give a folder of files its name, or move its files into one that exists, and return their size in bytes."""
    files = sorted(staged.iterdir())
    size = _on_disk(files)
    if not path.exists():
        staged.rename(path)
        return size
    if not overwrite and any(path.iterdir()):
        raise ExportError(f"{path} is not empty any more; choose another name, or pass overwrite=True")
    for file in files:
        file.replace(path / file.name)
    return size


def _on_disk(files: Iterable[Path]) -> int:
    """Wait until files are on the disk and return their size in bytes."""
    size = 0
    for file in files:
        with file.open("r+b") as opened:
            os.fsync(opened.fileno())
        size += file.stat().st_size
    return size
