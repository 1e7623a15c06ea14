"""Recurrent layers, which keep a list of their own weights beside the attributes.

``nn.LSTM`` and its kin compute with ``_flat_weights``, a list filled once. Behind a mask that list would
hold tensors of an earlier step, and graphs that cannot be copied. Here it becomes a view: whoever
reads the list reads the attributes, and so the masked weights.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def read_through_masks(module: nn.RNNBase) -> None:
    """Make the weight list of a parametrized recurrent layer a view of its attributes, in place."""
    cls: Any = type(module)  # the class that parametrize made for this module alone
    cls._flat_weights = property(_weights, _ignore)
    cls._weights_have_changed = _never  # a view is never out of date
    module.__dict__.pop("_flat_weights", None)


def restore_weight_list(module: nn.RNNBase) -> None:
    """Give a recurrent layer whose masks are gone its ordinary weight list again."""
    module._init_flat_weights()


def _weights(module: nn.RNNBase) -> list[Tensor | None]:
    return [getattr(module, name, None) for name in module._flat_weights_names]


def _ignore(module: nn.RNNBase, value: object) -> None:
    """Accept what torch would store; the attributes are what counts."""


def _never(module: nn.RNNBase) -> bool:
    return False
