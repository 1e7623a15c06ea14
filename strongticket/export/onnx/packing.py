"""Ternary weights in an ONNX graph: small integers and a scale a channel, put together by DequantizeLinear."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ConfigError, ExportError
from ..graph.ternary import Ternary, as_ternary
from ..text import core_reason

WEIGHTS = {"float": 32, "int8": 8, "int2": 2}
"""How a weight can be stored: the bits of one of its values."""

_OPSETS = {"int8": 18, "int2": 25}
_INT2_IR = 13
"""The version of the container that introduced INT2; onnxruntime 1.31 reads none that is newer."""


def check_weights(weights: object) -> None:
    """Raise ConfigError unless ``weights`` is a key of ``WEIGHTS``."""
    if weights not in WEIGHTS:
        raise ConfigError(f"weights {weights!r} are not known; choose one of {', '.join(WEIGHTS)}")


def require_ternary(tensors: Iterable[tuple[str, Tensor]], weights: str) -> None:
    """Raise ExportError with the name of the first tensor that small integers with a scale a channel do not hold."""
    for name, weight in tensors:
        if _channelwise(weight) is None:
            raise ExportError(
                f"{name} has kept weights of different magnitude within one channel, and {weights} holds -1, 0 and +1 "
                f"times one scale a channel; export with weights 'float', or search with binary weights or with the "
                f"law signed-constant, and without coats"
            )


def pack(model: Any, weights: str) -> Any:
    """Return an ONNX model whose ternary weights are stored as ``weights`` (``int8`` or ``int2``).

    A weight w of the graph with w = q · scale, q in {−1, 0, +1} and a scale for each index of its first
    or second dimension, becomes an initialiser q, another of scales and a DequantizeLinear with the name of
    w: the same values, bit for bit. Weights that are not ternary stay as they are, and so do those of which
    signs and scales take no less room. Raises ExportError if there is none to pack, or for a graph that the operator
    set of ``weights`` does not have.
    """
    import onnx

    if model.opset_import[0].version < _OPSETS[weights]:
        try:
            model = onnx.version_converter.convert_version(model, _OPSETS[weights])
        except Exception as error:  # its errors have no common class
            raise ExportError(
                f"{weights} needs ONNX operator set {_OPSETS[weights]}, which onnx cannot convert this graph to "
                f"({core_reason(error)}); use weights 'int8' or 'float'"
            ) from error
    if weights == "int2":
        model.ir_version = max(model.ir_version, _INT2_IR)
    graph = model.graph
    kept, nodes = [], []
    for tensor in graph.initializer:
        found = _smaller(tensor, WEIGHTS[weights])
        if found is None:
            kept.append(tensor)
            continue
        signs, scales = f"{tensor.name}.signs", f"{tensor.name}.scale"
        kept.append(_integers(found.ternary.signs, signs, weights))
        kept.append(onnx.numpy_helper.from_array(found.ternary.gain.numpy(), scales))
        nodes.append(
            onnx.helper.make_node(
                "DequantizeLinear", [signs, scales], [tensor.name], name=f"{tensor.name}.unpack", axis=found.axis
            )
        )
    if not nodes:
        raise ExportError(
            f"no weight of this graph is ternary, so none can be stored as {weights}; use weights 'float'"
        )
    nodes += graph.node
    for field, content in ((graph.initializer, kept), (graph.node, nodes)):
        del field[:]
        field.extend(content)
    return model


@dataclass(frozen=True)
class _Channelwise:
    """A ternary weight with its signs in their own shape and one gain for each index of dimension ``axis``."""

    ternary: Ternary
    axis: int


def _channelwise(weight: Tensor) -> _Channelwise | None:
    """Return a weight (at least two dimensions) as signs and gains along its first or its second dimension."""
    for axis in (0, 1):  # graphs hold matrices either way round, and so do transposed convolutions
        found = as_ternary(weight.transpose(0, axis)) if weight.dim() > axis else None
        if found is not None:
            return _Channelwise(Ternary(found.signs.transpose(0, axis).contiguous(), found.gain), axis)
    return None


def _smaller(tensor: Any, bits: int) -> _Channelwise | None:
    """Return an initialiser as signs and gains if it is ternary and takes less room so."""
    import onnx

    if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2 or 0 in tensor.dims:
        return None
    values = torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
    found = _channelwise(values) if values.any() else None
    if found is None or math.ceil(values.numel() * bits / 8) + 4 * len(found.ternary.gain) >= 4 * values.numel():
        return None
    return found


def _integers(signs: Tensor, name: str, weights: str) -> Any:
    """Return signs as an initialiser of 8 or 2 bits a value."""
    import ml_dtypes
    import onnx

    array: np.ndarray[Any, Any] = signs.numpy()
    return onnx.numpy_helper.from_array(array.astype(ml_dtypes.int2) if weights == "int2" else array, name)
