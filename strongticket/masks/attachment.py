"""Masking a network: attach, refresh, fix.

``attach`` checks everything first and changes the model after. From then on the random weights never
move: the only parameters that learn are scores, and batch norm's affine parameters where the user
asked for that by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrize

from ..errors import ConfigError, ModelError
from ..weights import (
    Binary,
    DrawnTensor,
    Gain,
    GainGroups,
    WeightLaw,
    as_law,
    digest,
    gain_groups,
    scale_of,
    tensor_key,
)
from .activations import (
    BinaryParts,
    binary_activations,
    check_binary,
    choose_activations,
    put_binary_activations,
)
from .levels import MOST_LEVELS, Levels, computed_dtype, draws_in
from .recurrent import read_through_masks
from .rules import Edges, Moment, Rule, as_rule
from .selection import Density, Scope, Selection
from .slots import (
    NormPolicy,
    Slot,
    Where,
    choose_slots,
    find_slots,
    is_norm,
    parametrizations_of,
    refuse_parametrized,
    refuse_tied,
    resettable,
)
from .supermask import FixedMask, Masked, Supermask, masked_at
from .threshold import Thresholds

_ATTRIBUTE = "_strongticket_attachment"


@dataclass
class Attachment:
    """What was done to a model. It lies on the model itself and travels with its copies.

    ``tensors`` are the tensors drawn from the seed. ``reset`` names the parameters that were set to
    what every ticket begins with (biases zero, normalisation without effect); ``trained`` those of
    them that learn. ``binary`` says what is ±1, ``levels`` what masks tell of a kept edge. ``search``
    says in JSON values how the masks are decided. ``rule`` and ``selection`` are None once the masks
    are fixed; ``refreshes`` counts the decisions made so far, and ``thresholds`` remember where they
    found theirs.
    """

    seed: int
    law: WeightLaw
    tensors: dict[str, DrawnTensor]
    reset: tuple[str, ...]
    trained: tuple[str, ...]
    search: dict[str, Any]
    binary: Binary = field(default_factory=Binary)
    levels: Levels | None = None
    rule: Rule | None = None
    selection: Selection | None = None
    refreshes: int = 0
    thresholds: Thresholds = field(default_factory=Thresholds, repr=False, compare=False)

    @property
    def masked(self) -> list[str]:
        """Names of the tensors under a mask."""
        return [name for name, tensor in self.tensors.items() if tensor.masked]


def attach(
    model: nn.Module,
    *,
    density: Density = 0.5,
    seed: int = 0,
    rule: str | Rule = "edge-popup",
    scope: Scope = "layer",
    floor: float = 0.0,
    weights: str | WeightLaw = "signed-constant",
    bn: NormPolicy = "frozen",
    where: Where = None,
    binary: BinaryParts = "none",
    gain: Gain | None = None,
    activations: str | Sequence[str] | None = None,
    activation_gradient: str | None = None,
) -> list[str]:
    """Freeze random weights in ``model``, in place, and put every chosen tensor under a mask.

    Every maskable tensor is drawn anew from (``seed``, its name) under the law ``weights``; biases
    become zero and stay so; normalisation layers lose the effect of their affine parameters, unless
    ``bn="learned"`` lets batch norm's learn. All that is not a score is frozen.

    ``rule`` is a name, or what ``strongticket.masks.as_rule`` returns for a name and the options of that rule.
    ``density`` (kept ÷ total, in (0, 1], or {name pattern: density}), ``scope`` and ``floor`` are those of
    ``select``. ``where`` chooses the tensors: None the weights of known layers, a name pattern or
    several, or a function (tensor name, module) → bool; a maskable tensor left out is frozen at its
    random weights with all its edges.

    ``binary`` makes multi-prize tickets (Diffenderfer & Kailkhura 2021, arXiv 2103.09377). "weights": a
    kept edge carries α · sign(w) in place of w; the ``gain`` α is one number a "layer" (if not given) or a
    "channel", see ``gains``, and follows every decision about the mask. "weights+activations": activation
    modules are replaced by ``BinaryActivation`` as well, those that the pattern or patterns ``activations``
    match, all if not given, with the ``activation_gradient`` "bi-real" (if not given) or "clipped-identity".

    Returns the names of the masked tensors, as in the plain ``state_dict``. Raises ConfigError for a
    bad option and ModelError for a model that cannot be masked: nothing to mask, tied tensors, attached
    before. After an error the model is as it was.
    """
    rule, law, selection = as_rule(rule), as_law(weights), Selection(density, scope, floor)
    tensor_key(seed, "")  # refuses a bad seed
    shared = check_binary(binary, gain, activations, activation_gradient)
    if bn not in get_args(NormPolicy):
        raise ConfigError(f"bn {bn!r} is not known; choose one of {', '.join(get_args(NormPolicy))}")
    slots = open_slots(model)
    chosen = choose_slots(slots, where)
    refuse_tied(model, chosen)
    selection.check({name: slots[name].parameter.numel() for name in chosen})
    reset, trained = resettable(model, bn)
    if bn == "learned" and not trained:
        raise ConfigError("bn 'learned' was asked for, but this model has no batch norm with affine parameters")

    signs = {name: module.gradient for name, module in binary_activations(model).items()}
    if binary == "weights+activations":
        names = choose_activations(model, activations)
        signs |= {name: activation_gradient or signs.get(name, "bi-real") for name in names}

    tensors = {}
    for name, slot in slots.items():
        if name in chosen or slot.by_default:
            share = selection.density_of(name) if name in chosen else 1.0
            scale = scale_of(law, slot.fans, density=share)
            dtype = str(slot.parameter.dtype).removeprefix("torch.")
            tensors[name] = DrawnTensor(tuple(slot.parameter.shape), dtype, scale, masked=name in chosen)
    how = {
        "rule": rule.name,
        **rule.options(),
        "scope": scope,
        "density": dict(density) if isinstance(density, Mapping) else float(density),
        "floor": float(floor),
        "bn": bn,
    }
    attachment = Attachment(
        seed, law, tensors, reset, trained, how, Binary(shared, signs), rule.levels, rule, selection
    )
    freeze(model, attachment, {n: slots[n].drawn(law, seed, t.scale) for n, t in tensors.items()})
    for name in chosen:
        slot = slots[name]
        share = selection.density_of(name)
        first = rule.initial_scores(seed, name, tensors[name].shape, fans=slot.fans, density=share)
        scores = _like(first, slot.parameter)
        _put_under(slot, Supermask(scores, rule, slot.parameter, _gain_groups(slot, attachment)))
    refresh(model)
    return chosen


def refresh(model: nn.Module, *, density: Density | None = None) -> None:
    """Decide all masks anew from the scores; the only place where a mask changes during a search.

    Call it after every ``optimizer.step()``. ``density`` replaces the density of ``attach`` for this
    decision (a density schedule). Raises ModelError if the model has no scores.
    """
    attachment = attachment_of(model)
    if attachment.rule is None or attachment.selection is None:
        raise ModelError("the masks of this model are fixed; refresh belongs to a search, between attach and extract")
    selection = attachment.selection if density is None else replace(attachment.selection, density=density)
    live = _masked(model)
    moment = Moment(attachment.seed, attachment.refreshes, attachment.thresholds)
    with torch.no_grad():
        masks = attachment.rule.decide(_edges(live), selection, moment)
        _put_masks(live, masks)
        chosen = attachment.rule.redrawn(masks, moment)
        for name, again in chosen.items():
            draws = _draws(live[name].mask)
            draws += again & (draws < MOST_LEVELS - 1)
    redraw(model, chosen)
    attachment.refreshes += 1


@torch.no_grad()
def redraw(model: nn.Module, names: Iterable[str] | None = None) -> None:
    """Give masked tensors, all if none are named, the weights that their draws say they have."""
    attachment = attachment_of(model)
    if attachment.levels == "draws":
        for name in attachment.masked if names is None else names:
            slot = _slot(model, name)
            slot.parameter.copy_(_drawn(slot, attachment, _draws(masked_at(slot.module, slot.attribute).mask)))


def concluded_masks(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the masks a ticket of this model has now: {tensor name: tensor on the CPU, C order}.

    They are bool, or uint8 if the rule has levels. While scores are learned these are the rule's final decision at
    the density of ``attach``; after ``fix`` they are the masks themselves.
    """
    live = _masked(model)
    masks = {name: live[name].mask.with_levels(mask) for name, mask in _conclusion(model).items()}
    return {name: mask.detach().to("cpu", copy=True).contiguous() for name, mask in masks.items()}


def _conclusion(model: nn.Module) -> dict[str, Tensor]:
    """Return what ``concluded_masks`` does, as a mask module has it: bool, or uint8 if it counts coats."""
    attachment = attachment_of(model)
    if attachment.rule is None or attachment.selection is None:
        return {name: at.mask.mask for name, at in _masked(model).items()}
    return attachment.rule.conclude({n: e.scores for n, e in edges(model).items()}, attachment.selection)


@contextmanager
def concluded(model: nn.Module) -> Iterator[None]:
    """Let an attached ``model`` compute with the masks its ticket would have now, while the block runs.

    What a search validates is so the ticket, not the sample or the ramp that the last step worked with.
    """
    live = _masked(model)
    before = {name: edge.mask.clone() for name, edge in _edges(live).items()}
    _put_masks(live, _conclusion(model))
    try:
        yield
    finally:
        _put_masks(live, before)


def fix(model: nn.Module, masks: Mapping[str, Tensor] | None = None) -> None:
    """End the search: replace every ``Supermask`` by a ``FixedMask`` and drop the scores, in place.

    ``masks`` are as ``concluded_masks`` returns them, by default the rule's final decision. A weight of a dropped edge
    that was drawn anew becomes the first that was drawn again.
    """
    attachment = attachment_of(model)
    masks = concluded_masks(model) if masks is None else masks
    for name in attachment.masked:
        slot = _slot(model, name)
        if attachment.levels == "draws":
            with torch.no_grad():
                slot.parameter.copy_(_drawn(slot, attachment, draws_in(masks[name])))
        parametrizations_of(slot.module)[slot.attribute][0] = _fixed(slot, masks[name], attachment)
    attachment.rule = attachment.selection = None
    attachment.thresholds = Thresholds()  # which held on to the scores


def freeze(model: nn.Module, attachment: Attachment, drawn: Mapping[str, Tensor]) -> None:
    """Write random weights, resets and binary activations into ``model``; freeze all but what is to be trained."""
    slots = find_slots(model)
    put_binary_activations(model, attachment.binary.activations)
    with torch.no_grad():
        for name, weight in drawn.items():
            slots[name].parameter.copy_(weight)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in attachment.trained)
            if name in attachment.reset:
                owner = model.get_submodule(name.rpartition(".")[0])
                parameter.fill_(1.0 if is_norm(owner, "weight") and name.endswith("weight") else 0.0)
        for module in model.modules():
            if isinstance(module, _NormBase):
                module.reset_running_stats()
    setattr(model, _ATTRIBUTE, attachment)


def put_fixed(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Put the plain tensors of a frozen ``model`` under fixed masks, as ``concluded_masks`` returns them."""
    slots, attachment = find_slots(model), attachment_of(model)
    for name, mask in masks.items():
        _put_under(slots[name], _fixed(slots[name], mask, attachment))


def open_slots(model: nn.Module) -> dict[str, Slot]:
    """Return the slots of a model that nobody has touched; ModelError if somebody has."""
    if is_attached(model):
        names = ", ".join(attachment_of(model).masked[:4])
        raise ModelError(f"this model is attached already ({names}, …); build a fresh one")
    refuse_parametrized(model)
    return find_slots(model)


def is_attached(model: nn.Module) -> bool:
    """Say whether ``attach`` or ``apply`` was called on this model."""
    return hasattr(model, _ATTRIBUTE)


def attachment_of(model: nn.Module) -> Attachment:
    """Return what was attached to ``model``; ModelError if nothing was."""
    if not is_attached(model):
        raise ModelError("this model has no masks; call strongticket.attach(model, density=…) or apply a ticket first")
    attachment: Attachment = getattr(model, _ATTRIBUTE)
    return attachment


def edges(model: nn.Module) -> dict[str, Edges]:
    """Return the live weight, scores and mask of every tensor under a ``Supermask``, by name."""
    return _edges(_masked(model))


def _edges(live: Mapping[str, Masked]) -> dict[str, Edges]:
    return {
        name: Edges(weight, mask.scores, mask.mask)
        for name, (weight, mask) in live.items()
        if isinstance(mask, Supermask)
    }


def frozen_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the random weights behind the masks, and those left without a mask, by name."""
    names = attachment_of(model).tensors
    return {name: _slot(model, name).parameter.detach() for name in names}


def weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 of all frozen random weights as they are."""
    return digest(frozen_weights(model))


def drawn_digest(model: nn.Module, masks: Mapping[str, Tensor] | None = None) -> str:
    """Return the SHA-256 of all frozen random weights as the seed gives them, which no search changes.

    Where weights are drawn anew it is that of the draws so far, or of those in ``masks``, as ``concluded_masks``
    returns them.
    """
    attachment, drawn = attachment_of(model), {}
    for name, tensor in attachment.tensors.items():
        slot, draws = _slot(model, name), None
        if attachment.levels == "draws" and tensor.masked:
            draws = _draws(masked_at(slot.module, slot.attribute).mask) if masks is None else draws_in(masks[name])
        drawn[name] = _drawn(slot, attachment, draws)
    return digest(drawn)


def _slot(model: nn.Module, name: str) -> Slot:
    prefix, _, attribute = name.rpartition(".")
    return Slot(name, model.get_submodule(prefix), attribute)


def _masked(model: nn.Module) -> dict[str, Masked]:
    found = {}
    for name in attachment_of(model).masked:
        prefix, _, attribute = name.rpartition(".")
        found[name] = masked_at(model.get_submodule(prefix), attribute)
    return found


def _draws(mask: Supermask | FixedMask) -> Tensor:
    assert mask.draws is not None  # asked for only where levels are draws
    return mask.draws


def _drawn(slot: Slot, attachment: Attachment, draws: Tensor | None) -> Tensor:
    return slot.drawn(attachment.law, attachment.seed, attachment.tensors[slot.name].scale, draws)


def _put_masks(live: Mapping[str, Masked], masks: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        live[name].mask.put(mask, live[name].weight)


def _fixed(slot: Slot, mask: Tensor, attachment: Attachment) -> FixedMask:
    is_drawn = attachment.levels == "draws"
    draws = _like(draws_in(mask), slot.parameter, dtype=torch.uint8) if is_drawn else None
    kept = _like(mask, slot.parameter, dtype=computed_dtype(attachment.levels))
    return FixedMask(kept, slot.parameter, _gain_groups(slot, attachment), draws)


def _gain_groups(slot: Slot, attachment: Attachment) -> GainGroups | None:
    shared = attachment.binary.gain
    return None if shared is None else gain_groups(slot.module, slot.parameter.shape, shared)


def _put_under(slot: Slot, mask: Supermask | FixedMask) -> None:
    parametrize.register_parametrization(slot.module, slot.attribute, mask)
    if isinstance(slot.module, nn.RNNBase):
        read_through_masks(slot.module)


def _like(value: Tensor, parameter: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    # Same device and memory format as the weight, so that the masked weight is one pass over memory.
    tensor = torch.empty_like(parameter, dtype=dtype, requires_grad=False)
    return tensor.copy_(value)
