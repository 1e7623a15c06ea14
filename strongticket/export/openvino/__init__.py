"""The target ``openvino``: the network as a model of OpenVINO, its binary layers as xnor and popcount."""

from .writing import MODULES, core, write

__all__ = ["MODULES", "core", "write"]
