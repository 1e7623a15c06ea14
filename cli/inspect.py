"""``strongticket inspect``: what a ticket holds, and what it takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import rich_click as click
import torch
from torch import nn

from strongticket import Ticket, apply
from strongticket.errors import StrongTicketError, TicketError
from strongticket.evaluate import Layer, Values, layers_of, outputs_of
from strongticket.masks import MOST_LEVELS
from strongticket.models import check_fits, is_factory
from strongticket.search import seeded
from strongticket.ticket import bound_bits, coder_of, mask_bits
from strongticket.weights import digest

from .assembly import network_of
from .console import print_json, print_line, print_table
from .run_folder import open_ticket

# How large a network may be that is built to look at a file: a mask at a density of 0.01 holds 99 edges a byte.
_FREE_VALUES = 1 << 23
_VALUES_PER_BYTE = 128


@click.command(name="inspect")
@click.argument("ticket", metavar="RUN|TICKET", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(ticket: Path, as_json: bool) -> None:
    """Show each tensor's mask with its bits a weight beside the entropy bound, sizes, digests and origin."""
    found, run = open_ticket(ticket)
    file = ticket if run is None else run.ticket
    facts = {"file": str(file), **facts_of(found, file_bytes=file.stat().st_size, coder=coder_of(file))}
    if as_json:
        print_json(facts)
    else:
        _print(facts)


def facts_of(ticket: Ticket, *, file_bytes: int, coder: str = "zstd") -> dict[str, Any]:
    """Return what there is to know of a ticket whose file takes ``file_bytes``, as JSON values.

    ``bits_per_weight`` is the size of the mask, coded with ``coder``, over its number of weights, ``entropy_bound`` is
    H(density), which no code undercuts that knows the density alone. ``dense_bytes`` is what the drawn
    and stored tensors take as float32.
    """
    tensors = [_tensor_facts(name, ticket, coder) for name in ticket.tensors]
    layers, outputs = _layers(ticket, _FREE_VALUES + _VALUES_PER_BYTE * file_bytes)
    masked = [tensor for tensor in tensors if tensor["masked"]]
    values = sum(tensor["total"] for tensor in tensors) + sum(tensor.numel() for tensor in ticket.stored.values())
    return {
        "file_bytes": file_bytes,
        "coder": coder,
        "dense_bytes": 4 * values,
        "ratio": 4 * values / file_bytes,
        "seed": ticket.seed,
        "law": ticket.law.to_dict(),
        "search": dict(ticket.search),
        "kept": ticket.kept,
        "total": ticket.total,
        "density": ticket.density,
        "bits_per_weight": sum(tensor["bits_per_weight"] * tensor["total"] for tensor in masked) / ticket.total,
        "entropy_bound": sum(tensor["entropy_bound"] * tensor["total"] for tensor in masked) / ticket.total,
        "weights_digest": ticket.weights_digest,
        "masks_digest": digest(ticket.masks),
        "levels": _levels_facts(ticket),
        "trained": list(ticket.trained),
        "binary": {"gain": ticket.binary.gain, "activations": dict(ticket.binary.activations)},
        "layers": [layer.as_dict() for layer in layers],
        "outputs": outputs,
        "stored": {name: list(tensor.shape) for name, tensor in ticket.stored.items()},
        "model": dict(ticket.model),
        "provenance": dict(ticket.provenance),
        "tensors": tensors,
    }


def _levels_facts(ticket: Ticket) -> dict[str, Any] | None:
    """Return what the levels of kept edges are, and how many edges have each; None if masks have none."""
    if ticket.levels is None:
        return None
    counts = sum(torch.bincount(mask.flatten(), minlength=MOST_LEVELS + 1) for mask in ticket.masks.values())
    edges = {str(level): count for level, count in enumerate(torch.as_tensor(counts).tolist()) if level and count}
    return {"kind": ticket.levels, "edges": edges}


def _tensor_facts(name: str, ticket: Ticket, coder: str) -> dict[str, Any]:
    drawn = ticket.tensors[name]
    total = kept = math.prod(drawn.shape)
    bits = bound = 0.0
    if drawn.masked:
        mask = ticket.masks[name]
        kept = int(mask.count_nonzero())
        alone = replace(ticket, tensors={name: drawn}, masks={name: mask})
        bits, bound = mask_bits(alone, coder=coder) / total, bound_bits(mask) / total
    return {
        "name": name,
        "shape": list(drawn.shape),
        "dtype": drawn.dtype,
        "masked": drawn.masked,
        "kept": kept,
        "total": total,
        "density": kept / total,
        "bits_per_weight": bits,
        "entropy_bound": bound,
        "scale": drawn.scale,
    }


def _layers(ticket: Ticket, most: int) -> tuple[list[Layer], Values]:
    """Return what is binary layer by layer, and whether the outputs are.

    What a layer reads is seen on the networks that this package builds. A user's own factory is not called: to inspect
    a file is not to run what it names. Nothing is seen either where the ticket is not one of the network that it names,
    or where that has more than ``most`` values.
    """
    name, shape = str(ticket.model.get("name", ":")), ticket.model.get("input_shape", ())
    if not is_factory(name):
        with suppress(StrongTicketError), seeded(0):  # a network that initialises itself draws from torch's generator
            _check_size(ticket, most)
            model = apply(ticket, network_of(ticket.model))
            check_fits(model, tuple(shape), len(ticket.model["classes"]))
            images = torch.randn(2, *shape)
            return layers_of(model, images), outputs_of(model, images)
    binary = ticket.binary.gain is not None and ticket.levels != "coats"
    layers = [
        Layer(name, "binary" if binary and tensor.masked else "real", "not seen")
        for name, tensor in ticket.tensors.items()
    ]
    return layers, "not seen"


def _check_size(ticket: Ticket, most: int) -> None:
    """Raise TicketError if weights, draws and largest activation of the network of a ticket are over ``most`` values.

    A file of a kilobyte may name a network of any size. This one is built and run on a device without memory; raises
    ModelError for one that cannot be.
    """
    largest = 0

    def watch(module: nn.Module, inputs: object, outputs: object) -> None:
        nonlocal largest
        largest = max(largest, outputs.numel() if isinstance(outputs, torch.Tensor) else 0)

    with torch.device("meta"):
        model = network_of(ticket.model)
        for module in model.modules():
            module.register_forward_hook(watch)
        check_fits(model, tuple(ticket.model["input_shape"]), len(ticket.model["classes"]))
    again = sum(mask.numel() * int(mask.max()) for mask in ticket.masks.values() if ticket.levels == "draws")
    if sum(value.numel() for value in model.parameters()) + largest + again > most:
        raise TicketError(f"this ticket is of a network of more than {most} values")


def _print(facts: Mapping[str, Any]) -> None:
    rows = [
        [*_row(tensor["name"], "×".join(map(str, tensor["shape"])), tensor), _weights(layer), layer["inputs"]]
        for tensor, layer in zip(facts["tensors"], facts["layers"], strict=True)
    ]
    rows.append([*_row("all masks", "", facts), "", ""])
    print_table(
        ["tensor", "shape", "kept", "of", "density", "bits a weight", "entropy bound", "weights", "inputs"], rows
    )
    print_line(f"outputs: {facts['outputs']}")
    if signs := facts["binary"]["activations"]:
        print_line(f"activations of ±1, with their gradients: {_pairs(signs)}")
    print_line()
    print_line(f"file: {facts['file']}, {facts['file_bytes']:,} bytes, masks coded with {facts['coder']}")
    print_line(f"dense float32: {facts['dense_bytes']:,} bytes, {facts['ratio']:.1f} times the file")
    print_line(f"seed: {facts['seed']}")
    print_line(f"weights: {_pairs(facts['law'])}; SHA-256 {facts['weights_digest']}")
    print_line(f"masks: {_pairs(facts['search'])}; SHA-256 {facts['masks_digest']}")
    if (levels := facts["levels"]) is not None:
        print_line(f"levels: {levels['kind']}; {', '.join(f'{n:,} edges of {k}' for k, n in levels['edges'].items())}")
    print_line(f"trained besides scores: {', '.join(facts['trained']) or 'nothing'}")
    print_line(f"stored: {', '.join(facts['stored']) or 'nothing'}")
    print_line(f"network: {_pairs(facts['model']) or 'not said'}")
    print_line(f"origin: {_pairs(facts['provenance']) or 'not said'}")


def _row(name: str, shape: str, facts: Mapping[str, Any]) -> list[str]:
    return [
        name,
        shape,
        f"{facts['kept']:,}",
        f"{facts['total']:,}",
        f"{facts['density']:.4f}",
        f"{facts['bits_per_weight']:.4f}" if facts.get("masked", True) else "no mask",
        f"{facts['entropy_bound']:.4f}" if facts.get("masked", True) else "",
    ]


def _weights(layer: Mapping[str, Any]) -> str:
    """Return "real", or "±" with the gain of the layer, or with the least and the largest gain of its channels."""
    return f"± {' to '.join(f'{gain:.4g}' for gain in layer['gain'])}" if layer["gain"] else str(layer["weights"])


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_words(value)}" for key, value in values.items() if value is not None)


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({_pairs(value)})"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
