"""The networks a ticket is compared with: each differs from it in one thing.

A control is a ticket like any other, or a dense network. Every random choice comes from the control's
own seed, the control's name and the tensor's name, so that no two layers share a mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import ConfigError
from ..masks import RULE_OPTIONS, Selection, as_rule, find_slots, mask_dtype
from ..ticket import Ticket, drawn_weights
from ..weights import digest, permutation, sample, words

CONTROLS: dict[str, str] = {
    "random": "a random mask with the same number of edges in every layer, on the ticket's weights",
    "shuffled": "the ticket's mask, permuted within every layer, on the ticket's weights",
    "redrawn": "the ticket's mask on newly drawn random weights",
    "inverted": "the edges that the ticket drops, on the ticket's weights",
    "initial": "the mask of scores before any search, on the ticket's weights",
    "untrained": "the dense network with newly drawn random weights",
    "trained": "the dense network with trained weights, on the budget of the search",
}

# Controls in which nothing is random: one run says it all.
DETERMINISTIC = frozenset({"inverted"})


def check_controls(names: tuple[str, ...]) -> None:
    """Raise ConfigError for a control that is not known."""
    for name in names:
        if name not in CONTROLS:
            close = get_close_matches(name, CONTROLS, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ConfigError(f"control {name!r} is not known{hint}; the controls are {', '.join(CONTROLS)}")


def random_masks(ticket: Ticket, seed: int) -> dict[str, Tensor]:
    """Return uniformly random masks with each layer's own number of kept edges."""

    def random(name: str, mask: Tensor) -> NDArray[Any]:
        if ticket.levels is None:
            return sample(seed, f"{name}:control:random", mask.numel(), int(mask.sum()))
        # As many edges of every level, wherever they are.
        return mask.flatten().numpy()[permutation(seed, f"{name}:control:random", mask.numel())]

    return _each(ticket, random)


def shuffled_masks(ticket: Ticket, seed: int) -> dict[str, Tensor]:
    """Return the ticket's masks with the positions of every layer permuted."""
    return _each(ticket, lambda name, m: m.flatten().numpy()[permutation(seed, f"{name}:control:shuffled", m.numel())])


def inverted_masks(ticket: Ticket) -> dict[str, Tensor]:
    """Return the complements of the ticket's masks; ConfigError if a layer keeps everything."""
    for name, mask in ticket.masks.items():
        if bool((mask > 0).all()):
            raise ConfigError(f"control 'inverted' cannot be had: the ticket keeps every edge of {name}")
    return {name: (mask == 0).to(mask.dtype) for name, mask in ticket.masks.items()}


def initial_masks(ticket: Ticket, model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Return the masks that a search with ``seed`` would begin with, at the ticket's density and scope.

    With the seed of the ticket these are the very masks its search began with.
    """
    asked = ticket.search
    rule = as_rule(asked["rule"], **{option: asked[option] for option in RULE_OPTIONS if option in asked})
    selection = Selection(asked["density"], asked["scope"], asked["floor"])
    slots = find_slots(model)
    scores = {
        name: rule.initial_scores(seed, name, mask.shape, fans=slots[name].fans, density=selection.density_of(name))
        for name, mask in ticket.masks.items()
    }
    masks = rule.conclude(scores, selection)
    return {name: mask.to(mask_dtype(ticket.levels)) for name, mask in masks.items()}


def control_ticket(name: str, ticket: Ticket, model: nn.Module, seed: int) -> Ticket:
    """Return the ticket of the control ``name``; every control but "trained" has one.

    ``model`` is a plain instance of the network, read for its shapes only. New weights come from a seed
    derived from ``seed``, so that they are never the ticket's own.
    """
    if name == "random":
        control = replace(ticket, masks=random_masks(ticket, seed))
    elif name == "shuffled":
        control = replace(ticket, masks=shuffled_masks(ticket, seed))
    elif name == "inverted":
        control = replace(ticket, masks=inverted_masks(ticket))
    elif name == "initial":
        control = replace(ticket, masks=initial_masks(ticket, model, seed))
    else:
        control = replace(ticket, seed=int(words(seed, f"control:{name}", 1)[0]))
        if name == "untrained":
            control = replace(control, masks={n: torch.ones_like(mask) for n, mask in ticket.masks.items()})
    if control.seed == ticket.seed and ticket.levels != "draws":  # then the weights are the ticket's
        return control
    return replace(control, weights_digest=digest(drawn_weights(control, find_slots(model))))


def _each(ticket: Ticket, choose: Callable[[str, Tensor], object]) -> dict[str, Tensor]:
    return {name: torch.as_tensor(choose(name, mask)).reshape(mask.shape) for name, mask in ticket.masks.items()}
