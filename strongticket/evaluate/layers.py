"""What is binary in a network and what stays real, layer by layer, read off the network itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..masks import FixedMask, attachment_of
from ..masks.slots import parametrizations_of

Values = Literal["binary", "real", "not seen"]


@dataclass(frozen=True)
class Layer:
    """One tensor of weights, and the values it is multiplied with: ``inputs``, which are ±1 or real.

    They are "not seen" if nothing was run, or if they come about inside a module (attention's output projection,
    the state of a recurrent layer). ``gain`` is the magnitude of binary weights: one for the layer, or the least
    and the largest of its channels; empty for real weights, which those in several coats are as well.
    """

    name: str
    weights: Values
    inputs: Values
    gain: tuple[float, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the layer as JSON values."""
        return {"name": self.name, "weights": self.weights, "inputs": self.inputs, "gain": list(self.gain)}


@torch.no_grad()
def layers_of(model: nn.Module, inputs: Tensor | None) -> list[Layer]:
    """Return what is binary in each weight of a ``model`` that carries a ticket, in the order of its tensors.

    The model is run once on ``inputs`` (batch, …) and each layer watched: its inputs are binary if they
    are ±1 and nothing else. Without inputs nothing is seen. Pooling and adding happen between layers, so that
    a residual sum of ±1 counts as what it is, real.
    """
    attachment = attachment_of(model)
    owners = {name: model.get_submodule(name.rpartition(".")[0]) for name in attachment.tensors}
    seen: dict[nn.Module, bool] = {}

    def watch(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        tensors = [value for value in (*arguments, *keywords.values()) if isinstance(value, Tensor)]
        if read := tensors[: _number_of_inputs(module)]:
            signs = all(values.is_floating_point() and bool((values.abs() == 1).all()) for values in read)
            seen[module] = seen.get(module, True) and signs

    if inputs is not None:
        hooks = [owner.register_forward_pre_hook(watch, with_kwargs=True) for owner in set(owners.values())]
        try:
            model.eval()(inputs)
        finally:
            for hook in hooks:
                hook.remove()
    layers = []
    one_magnitude = attachment.binary.gain is not None and attachment.levels != "coats"
    for name, owner in owners.items():
        gain = _gain(owner, name) if one_magnitude else ()
        is_seen = owner in seen and not _reads_state(owner, name)
        read: Values = "not seen" if not is_seen else "binary" if seen[owner] else "real"
        layers.append(Layer(name, "binary" if gain else "real", read, gain))
    return layers


@torch.no_grad()
def outputs_of(model: nn.Module, inputs: Tensor) -> Values:
    """Say whether what ``model`` answers to ``inputs`` is real or ±1, as after a final activation that is a sign."""
    outputs = model.eval()(inputs)
    if not isinstance(outputs, Tensor):
        return "not seen"
    return "binary" if bool((outputs.abs() == 1).all()) else "real"


def _number_of_inputs(module: nn.Module) -> int:
    """Return how many of the first arguments are multiplied with weights; states and masks come after them."""
    if isinstance(module, nn.MultiheadAttention):
        return 3
    return 2 if isinstance(module, nn.Bilinear) else 1


def _reads_state(owner: nn.Module, name: str) -> bool:
    """Say whether this weight of a recurrent layer reads what the layer computed itself, a step or a layer before."""
    attribute = name.rpartition(".")[2]
    if isinstance(owner, nn.RNNCellBase):
        return attribute != "weight_ih"
    return isinstance(owner, nn.RNNBase) and not attribute.startswith("weight_ih_l0")


def _gain(owner: nn.Module, name: str) -> tuple[float, ...]:
    attribute = name.rpartition(".")[2]
    if not parametrize.is_parametrized(owner, attribute):
        return ()
    mask: FixedMask = parametrizations_of(owner)[attribute][0]
    if mask.gain is None:  # the weight is ±α as it is drawn
        weight: Tensor = parametrizations_of(owner)[attribute].original
        return (float(weight.abs().amax()),)
    gain = mask.gain
    if mask.groups is not None and mask.groups.padding is not None:  # that row of an embedding is zero for good
        gain = gain[torch.arange(len(gain), device=gain.device) != mask.groups.padding]
    least, largest = float(gain.amin()), float(gain.amax())
    return (least,) if least == largest else (least, largest)
