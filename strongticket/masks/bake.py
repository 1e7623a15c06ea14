"""Ordinary modules out of masked ones."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils import parametrize

from .attachment import _ATTRIBUTE, concluded_masks, fix
from .recurrent import restore_weight_list
from .slots import parametrizations_of


def bake(model: nn.Module) -> nn.Module:
    """Return a plain copy of ``model`` whose weights are the kept edges and +0, without a trace of this library.

    The copy computes what the masked model computes, bit for bit, in ordinary modules with the
    ordinary ``state_dict`` names. ``model`` itself stays as it is. Raises ModelError if it has no masks.
    """
    masks = concluded_masks(model)
    plain = copy.deepcopy(model)
    fix(plain, masks)
    for module in plain.modules():
        if parametrize.is_parametrized(module):
            _unparametrize(module)
    delattr(plain, _ATTRIBUTE)
    return plain


def _unparametrize(module: nn.Module) -> None:
    # torch's own removal edits the class, which a copy shares with its original; here the original must live on.
    with torch.no_grad():
        weights = {name: getattr(module, name).clone() for name in parametrizations_of(module)}
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    for name, weight in weights.items():
        module.register_parameter(name, nn.Parameter(weight, requires_grad=False))
    if isinstance(module, nn.RNNBase):
        restore_weight_list(module)
