"""What a ticket file says of itself, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .coding import CodedMask, CodedMasks
from .description import JOINED, LEVELLED, TABLE, dtype_name
from .levels import key_of
from .strict import as_json, as_text
from .ticket import Ticket

__all__ = ["describe"]


def describe(
    ticket: Ticket, coded: CodedMasks, above: CodedMasks | None = None, *, stored_digest: str
) -> tuple[str, str]:
    """Return the JSON of a ticket, its ``sha256`` being 64 zeros, and that of its table, which grows with the network.

    ``coded`` has all its masks, ``above`` those of its levels if it has any. Equal tickets give equal texts: keys stand
    in a fixed order, tensors in the order of the ticket, stored ones in that of their names. TicketError for what JSON
    cannot hold.
    """
    tensors = {}
    for name, tensor in ticket.tensors.items():
        mask = coded.masks.get(name)
        how = {"codec": mask.codec, "count": mask.count} if mask else None
        tensors[name] = {
            "shape": list(tensor.shape),
            "dtype": tensor.dtype,
            "scale": float(tensor.scale),
            "mask": how,
        }
    values = {
        "sha256": "0" * 64,
        "format": JOINED if above is None else LEVELLED,
        "seed": ticket.seed,
        "law": ticket.law.to_dict(),
        "weights_digest": ticket.weights_digest,
        "stored_digest": stored_digest,
        "masks_digest": coded.sha256,
        "kept": ticket.kept,
        "total": ticket.total,
        "search": ticket.search,
        "model": ticket.model,
        "provenance": ticket.provenance,
        "tensors": tensors,
        "stored": {
            name: {"dtype": dtype_name(ticket.stored[name].dtype), "shape": list(ticket.stored[name].shape)}
            for name in sorted(ticket.stored)
        },
        "trained": list(ticket.trained),
        "binary": {"gain": ticket.binary.gain, "activations": ticket.binary.activations},
    }
    if above is not None:
        values["levels"], values["levels_digest"] = ticket.levels, above.sha256
        values["above"] = _listed(above, coded.masks)
    said = {key: as_json(value, key) for key, value in values.items()}
    table = {key: said.pop(key) for key in TABLE if key in said}
    return as_text(said), as_text(table)


def _listed(above: CodedMasks, masks: Mapping[str, CodedMask]) -> dict[str, list[dict[str, Any]]]:
    """Return the masks of levels as the table has them: for each tensor with any a list, from level 2."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in masks:
        level = 2
        while (mask := above.masks.get(key_of(name, level))) is not None:
            found.setdefault(name, []).append({"codec": mask.codec, "count": mask.count})
            level += 1
    return found
