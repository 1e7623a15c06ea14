"""The target ``onnx``: the network as an ONNX graph with a free batch dimension, checked in onnxruntime."""

from .writing import MODULES, write

__all__ = ["MODULES", "write"]
