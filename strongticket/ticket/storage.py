"""The ticket file: one safetensors file, every bit of it under a digest. ``docs/format.md`` has each byte."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import MissingExtraError, TicketError
from ..files import write_beside
from ..masks import mask_dtype
from ..weights import digest
from .coding import CODERS, CodedMasks, check_masks, decode_masks, encode_masks
from .container import Container, pack, read_container
from .describing import describe
from .description import STORED_DTYPES, dtype_name
from .layout import content, described, laid_out
from .levels import join, split
from .ticket import Ticket

__all__ = ["coded_levels", "coded_masks", "coder_of", "from_bytes", "load", "mask_bits", "save", "to_bytes"]

# A few bytes of zstd can honestly stand for any number of edges of one kind, so a mask's size is bounded
# by the file's: without this a file of a kilobyte could ask for all memory there is.
_FREE_EDGES = 1 << 26
_EDGES_PER_BYTE = 1024


def save(ticket: Ticket, path: str | Path, *, coder: str = "zstd") -> None:
    """Write ``ticket`` to ``path``, in one step: the file is whole or it is as it was before.

    ``coder`` says what masks are coded with: "zstd", within 2 % of their entropy, or "ans", within 0.1 %, which needs
    an extra to be written and to be read. Equal tickets give equal bytes under the same versions of the coder and
    of safetensors. Raises TicketError if the ticket is inconsistent or the file cannot be written, ConfigError for
    an unknown coder, MissingExtraError where the extra is not installed; nothing is left behind then.
    """
    data = to_bytes(ticket, coder=coder)
    try:
        write_beside(Path(path), data)
    except FileNotFoundError:
        raise TicketError(f"the ticket cannot be written to {path}: there is no folder {Path(path).parent}") from None
    except (OSError, ValueError) as error:
        raise TicketError(f"the ticket cannot be written to {path}: {_reason(error)}") from None


def load(path: str | Path) -> Ticket:
    """Return the ticket in the file at ``path``.

    Nothing in the file is run, and sizes are checked before memory is taken. Raises TicketError, in one
    line that begins with the path, if there is no such file, if it is no ticket or of a format version
    that this release does not read, and if one bit of it is not as it was written; MissingExtraError for
    masks coded with "ans" where the extra is not installed.
    """
    with _opened(path) as container:
        return _ticket(container)


def coder_of(path: str | Path) -> str:
    """Return the coder that the file at ``path`` was saved with; TicketError as ``load`` raises it."""
    with _opened(path) as container:
        said = described(container)
        codecs = {mask.codec for mask in (*said.masks.values(), *said.above.masks.values())}
    return next(coder for coder, chosen in CODERS.items() if codecs <= {*chosen})


def to_bytes(ticket: Ticket, *, coder: str = "zstd") -> bytes:
    """Return the content of the ticket's file; TicketError if the ticket is inconsistent.

    What is returned has been read back: a ticket that could not be loaded is never written. ``coder`` as ``save``
    takes it.
    """
    masks, above = coded_masks(ticket, coder=coder), coded_levels(ticket, coder=coder)
    stored = {name: _plain(name, value) for name, value in ticket.stored.items()}
    try:
        text, table = describe(ticket, masks, above, stored_digest=digest(stored))
        data = pack(text, laid_out(table, masks, above, stored))
        from_bytes(data)
    except (TicketError, SafetensorError, KeyError, ValueError) as error:
        raise TicketError(f"this ticket cannot be saved: {error}") from None
    return data


def from_bytes(data: bytes) -> Ticket:
    """Return the ticket whose file has the content ``data``; TicketError as ``load`` raises it."""
    return _ticket(read_container(BytesIO(data), len(data)))


def coded_masks(ticket: Ticket, *, coder: str = "zstd") -> CodedMasks:
    """Return the masks as their file holds them, without levels; TicketError if they are not of the masked tensors.

    ``coder`` as ``save`` takes it.
    """
    expected = {name: tensor.shape for name, tensor in ticket.tensors.items() if tensor.masked}
    found = {name: tuple(mask.shape) for name, mask in ticket.masks.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise TicketError(
                f"this ticket is inconsistent: the mask of {name} has shape {found.get(name)}, "
                f"the masked tensor {expected.get(name)}"
            )
    for name, shape in expected.items():
        if 0 in shape:
            raise TicketError(f"this ticket is inconsistent: {name} has shape {shape}, there is nothing to mask")
    masks, dtype = {name: ticket.masks[name] for name in expected}, mask_dtype(ticket.levels)
    for name, mask in masks.items():
        if mask.dtype is not dtype:
            said = "none" if ticket.levels is None else repr(ticket.levels)
            raise TicketError(
                f"the mask of {name} is {dtype_name(mask.dtype)}; expected {dtype_name(dtype)}, levels being {said}"
            )
    return encode_masks({name: mask > 0 for name, mask in masks.items()} if ticket.levels else masks, coder=coder)


def coded_levels(ticket: Ticket, *, coder: str = "zstd") -> CodedMasks | None:
    """Return the levels of the kept edges as their file holds them, None if the masks have none.

    ``coder`` as ``save`` takes it.
    """
    if ticket.levels is None:
        return None
    masks = {name: ticket.masks[name] for name, tensor in ticket.tensors.items() if tensor.masked}
    return encode_masks(split(masks)[1], coder=coder)


def mask_bits(ticket: Ticket, *, coder: str = "zstd") -> int:
    """Return the size of all coded masks in bits, without the rest of the file; ``bound_bits`` is the yardstick.

    ``coder`` as ``save`` takes it.
    """
    above = coded_levels(ticket, coder=coder)
    return 8 * (coded_masks(ticket, coder=coder).size + (0 if above is None else above.size))


@contextmanager
def _opened(path: str | Path) -> Iterator[Container]:
    """Give what the file at ``path`` holds; its errors, and those of the block, are TicketErrors that name the path."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise TicketError(f"this is a folder; name the file in it, such as {Path(path) / 'ticket.safetensors'}")
        if not stat.S_ISREG(mode):
            raise TicketError("this is a device or a pipe; expected a ticket file")
        with open(path, "rb") as file:
            yield read_container(file, os.fstat(file.fileno()).st_size)
    except (OSError, ValueError) as error:
        raise TicketError(f"{path} cannot be read: {_reason(error)}") from None
    except MemoryError:
        raise TicketError(f"{path} takes more memory than there is") from None
    except (TicketError, MissingExtraError) as error:
        raise type(error)(f"{path}: {error}") from None


def _ticket(container: Container) -> Ticket:
    said = described(container)
    most = _FREE_EDGES + _EDGES_PER_BYTE * len(container.data)
    if said.claimed > most:
        raise TicketError(
            f"the masks claim {said.claimed} edges in a file of {len(container.data)} bytes; expected at most {most}, "
            f"that is 2**26 and {_EDGES_PER_BYTE} for each byte"
        )
    coded, above, stored = content(said, container)
    if digest(stored) != said.stored_digest:
        raise TicketError("the stored tensors have another digest than stored_digest says")
    shapes = {name: said.tensors[name].shape for name in said.masks}
    if said.claimed > _FREE_EDGES:  # all masks are checked before the first takes the memory of its edges
        for group in coded:
            check_masks(group, shapes)
        check_masks(above, said.shapes_above)
    masks = {name: mask for group in coded for name, mask in decode_masks(group, shapes).items()}
    if said.levels is not None:
        masks = join(masks, decode_masks(above, said.shapes_above))
    return Ticket(
        seed=said.seed,
        law=said.law,
        tensors=said.tensors,
        masks=masks,
        weights_digest=said.weights_digest,
        stored=stored,
        trained=said.trained,
        binary=said.binary,
        levels=said.levels,
        search=said.search,
        model=said.model,
        provenance=said.provenance,
    )


def _plain(name: str, value: Tensor) -> Tensor:
    if value.layout is not torch.strided or value.is_meta or value.is_quantized:
        raise TicketError(f"this ticket cannot be saved: {name} is no dense tensor with values")
    if value.dtype not in STORED_DTYPES.values():
        raise TicketError(f"this ticket cannot be saved: {name} is {value.dtype}, which a ticket file cannot hold")
    return value.detach().cpu().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).lower()
