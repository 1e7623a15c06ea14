"""The frozen random weights: from a seed and a tensor's name to its values, the same on every machine."""

from .digest import digest
from .distributions import LAWS, WeightLaw, as_law, draw, scale_of
from .drawn import DrawnTensor
from .fans import Fans, fans_of
from .source import normals, permutation, sample, signs, tensor_key, uniforms, words

__all__ = [
    "LAWS",
    "DrawnTensor",
    "Fans",
    "WeightLaw",
    "as_law",
    "digest",
    "draw",
    "fans_of",
    "normals",
    "permutation",
    "sample",
    "scale_of",
    "signs",
    "tensor_key",
    "uniforms",
    "words",
]
