"""The frozen random weights: from a seed and a tensor's name to its values, the same on every machine."""

from .binary import (
    GRADIENTS,
    Binary,
    BinaryActivation,
    Gain,
    GainGroups,
    binary_sign,
    check_gain,
    check_gradient,
    gain_groups,
    gains,
)
from .digest import digest
from .distributions import LAWS, WeightLaw, as_law, draw, scale_of
from .drawn import DrawnTensor
from .fans import Fans, fans_of
from .source import normals, permutation, sample, signs, tensor_key, uniforms, words

__all__ = [
    "GRADIENTS",
    "LAWS",
    "Binary",
    "BinaryActivation",
    "DrawnTensor",
    "Fans",
    "Gain",
    "GainGroups",
    "WeightLaw",
    "as_law",
    "binary_sign",
    "check_gain",
    "check_gradient",
    "digest",
    "draw",
    "fans_of",
    "gain_groups",
    "gains",
    "normals",
    "permutation",
    "sample",
    "scale_of",
    "signs",
    "tensor_key",
    "uniforms",
    "words",
]
