"""Between a network and its ticket: take one out, put one in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..errors import ConfigError, TicketError
from ..masks import (
    Attachment,
    Slot,
    attachment_of,
    binary_activations,
    can_be_activation,
    concluded_masks,
    drawn_digest,
    freeze,
    open_slots,
    put_fixed,
    resettable,
)
from ..masks import weights_digest as digest_of_model
from ..weights import digest
from .ticket import Ticket


def extract(
    model: nn.Module, *, model_spec: Mapping[str, Any] | None = None, provenance: Mapping[str, Any] | None = None
) -> Ticket:
    """Return the ticket of an attached model: its seed, the masks its scores decide now, what no seed gives back.

    ``model_spec`` (how the network is built) and ``provenance`` (where the ticket comes from) are JSON
    values that travel with it. The model stays as it is. Raises ModelError if it has no masks.
    """
    attachment, masks = attachment_of(model), concluded_masks(model)
    return Ticket(
        seed=attachment.seed,
        law=attachment.law,
        tensors=dict(attachment.tensors),
        masks=masks,
        # Dropped weights that were drawn anew are in no ticket.
        weights_digest=drawn_digest(model, masks) if attachment.levels == "draws" else digest_of_model(model),
        stored=_stored(model, attachment),
        trained=attachment.trained,
        binary=attachment.binary,
        levels=attachment.levels,
        search=dict(attachment.search),
        model=dict(model_spec or {}),
        provenance=dict(provenance or {}),
    )


def apply(ticket: Ticket, model: nn.Module) -> nn.Module:
    """Turn a plain ``model`` into the ticket's subnetwork, in place and bit for bit, and return it.

    The frozen weights are drawn again from the seed and checked against the ticket's digest; masks are
    fixed, and the gains of binary weights computed from both; binary activations replace the modules they
    replaced in the search; batch-norm statistics and whatever else was stored are put back. The model is left in
    evaluation mode. Raises TicketError if the ticket is of another network or its weights cannot be
    regenerated here, ModelError if the model is attached already; the model is then as it was.
    """
    slots = open_slots(model)
    for name, tensor in ticket.tensors.items():
        if name not in slots:
            raise TicketError(
                f"this ticket is of another network: it has {name}, the model has {', '.join(list(slots)[:8])}"
            )
        parameter = slots[name].parameter
        if tuple(parameter.shape) != tensor.shape:
            raise TicketError(
                f"this ticket is of another network: {name} has shape {tensor.shape} in the ticket "
                f"and {tuple(parameter.shape)} in the model"
            )
        if str(parameter.dtype) != f"torch.{tensor.dtype}":
            raise TicketError(f"{name} is {tensor.dtype} in the ticket and {parameter.dtype} in the model; convert it")
    for name, slot in slots.items():
        if slot.by_default and name not in ticket.tensors:
            raise TicketError(f"this ticket is of another network: the model has {name}, the ticket does not")
    bn = "learned" if ticket.trained else "frozen"
    reset, trained = resettable(model, bn)  # type: ignore[arg-type]
    if set(trained) != set(ticket.trained):
        raise TicketError(
            f"this ticket is of another network: trained besides scores are {', '.join(ticket.trained[:4])}"
        )
    _check_activations(ticket, model)
    attachment = Attachment(
        ticket.seed,
        ticket.law,
        dict(ticket.tensors),
        reset,
        ticket.trained,
        dict(ticket.search),
        ticket.binary,
        ticket.levels,
    )
    expected = {  # what a replaced activation holds goes with it
        name: value
        for name, value in _stored(model, attachment).items()
        if name.rpartition(".")[0] not in ticket.binary.activations
    }
    if expected.keys() != ticket.stored.keys():
        odd = sorted(expected.keys() ^ ticket.stored.keys())
        raise TicketError(f"this ticket is of another network: {', '.join(odd[:4])} is in one of the two only")
    for name, value in ticket.stored.items():
        if value.shape != expected[name].shape:
            raise TicketError(
                f"this ticket is of another network: {name} has shape {tuple(value.shape)} in the ticket "
                f"and {tuple(expected[name].shape)} in the model"
            )
        if value.dtype is not expected[name].dtype:  # copying would round it in silence
            raise TicketError(
                f"{name} is {value.dtype} in the ticket and {expected[name].dtype} in the model; convert it"
            )
    try:
        drawn = drawn_weights(ticket, slots)
    except ConfigError as error:
        raise TicketError(f"the weights of this ticket cannot be drawn: {error}") from None
    if (found := digest(drawn)) != ticket.weights_digest:
        raise TicketError(
            f"the weights of seed {ticket.seed} regenerate to {found[:12]}…, the ticket was found on "
            f"{ticket.weights_digest[:12]}…: the ticket is damaged or was written by an incompatible release"
        )
    freeze(model, attachment, drawn)
    put_fixed(model, ticket.masks)
    store(model, ticket.stored)
    return model.requires_grad_(False).eval()


def drawn_weights(ticket: Ticket, slots: Mapping[str, Slot]) -> dict[str, Tensor]:
    """Return the random weights of a ticket, {tensor name: CPU tensor}; ``slots`` are those of its plain network."""
    return {
        name: slots[name].drawn(ticket.law, ticket.seed, tensor.scale, ticket.draws(name))
        for name, tensor in ticket.tensors.items()
    }


def _check_activations(ticket: Ticket, model: nn.Module) -> None:
    """Raise TicketError unless the activations of the ticket are modules of ``model``, and its ±1 are the ticket's."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in ticket.binary.activations:
        module = modules.get(name)
        if module is None:
            raise TicketError(f"this ticket is of another network: its activation {name} is no module of the model")
        if not can_be_activation(module):  # a layer would vanish with its name
            raise TicketError(
                f"this ticket is of another network: its activation {name} is a {type(module).__name__} in the model, "
                "expected a module without weights or parts of its own"
            )
    for name in binary_activations(model):
        if name not in ticket.binary.activations:
            raise TicketError(f"this ticket is of another network: {name} is a binary activation in the model only")


def store(model: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Write stored tensors (batch-norm statistics, trained parameters) back into an attached model."""
    state = _plain_tensors(model)
    with torch.no_grad():
        for name, value in stored.items():
            state[name].copy_(value)


def _stored(model: nn.Module, attachment: Attachment) -> dict[str, Tensor]:
    """Return copies of what inference needs and no seed gives back: buffers, bare and trained parameters."""
    regenerated = (set(attachment.reset) - set(attachment.trained)) | set(attachment.tensors)
    return {
        name: value.detach().to("cpu", copy=True).contiguous()
        for name, value in _plain_tensors(model).items()
        if name not in regenerated
    }


def _plain_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the live parameters and persistent buffers outside the masks, by name.

    The batch counters of normalisation layers are left out: inference does not read them.
    """
    persistent = model.state_dict(keep_vars=True)
    counters = {
        f"{prefix}.num_batches_tracked" if prefix else "num_batches_tracked"
        for prefix, module in model.named_modules()
        if isinstance(module, _NormBase)
    }
    return {
        name: value
        for name, value in persistent.items()
        if isinstance(value, Tensor) and name not in counters and "parametrizations" not in name.split(".")
    }
