"""The networks of the papers: LeNet-300-100 and the VGG-like Conv2, Conv4, Conv6 and Conv8.

Sources: Ramanujan et al. 2020 (arXiv 1911.13299), section 4.1; Frankle & Carbin 2019 (arXiv 1803.03635), figure 2.
No layer has a bias. A width multiplies every hidden layer, the fully connected ones included.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn

from ..errors import ConfigError, ModelError
from .width import scaled

NORMS: Mapping[str, str] = MappingProxyType(
    {"none": "no normalisation", "batch": "batch norm after every hidden layer, before its ReLU"}
)
HIDDEN_LINEAR = (256, 256)


@dataclass(frozen=True)
class Network:
    """A definition: the channels of each convolution block, then the units of each hidden linear layer."""

    description: str
    blocks: tuple[tuple[int, ...], ...]
    linear: tuple[int, ...]


NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        "mlp": Network("fully connected, 300-100-classes", (), (300, 100)),
        "conv2": Network("2 convolutions (64), then 256-256-classes", ((64, 64),), HIDDEN_LINEAR),
        "conv4": Network(
            "4 convolutions (64, 128), then 256-256-classes",
            ((64, 64), (128, 128)),
            HIDDEN_LINEAR,
        ),
        "conv6": Network(
            "6 convolutions (64, 128, 256), then 256-256-classes",
            ((64, 64), (128, 128), (256, 256)),
            HIDDEN_LINEAR,
        ),
        "conv8": Network(
            "8 convolutions (64, 128, 256, 512), then 256-256-classes",
            ((64, 64), (128, 128), (256, 256), (512, 512)),
            HIDDEN_LINEAR,
        ),
    }
)


def build_network(
    name: str, input_shape: tuple[int, int, int], *, classes: int, width: float = 1.0, norm: str = "none"
) -> nn.Sequential:
    """Build one of `NETWORKS` as a flat sequence of named layers.

    A block is 3x3 convolutions (padding 1), each followed by the norm and a ReLU, and a 2x2 max-pool at its end.
    The layers are called ``conv1, conv2, ..., fc1, fc2, head``, whatever the norm.

    Parameters
    ----------
    name
        A key of `NETWORKS`.
    input_shape
        ``(channels, height, width)`` of one image.
    classes
        The number of outputs.
    width
        Multiplies every hidden layer: ``round(units * width)``, at least 1.
    norm
        ``"none"`` or ``"batch"``.

    Raises
    ------
    ConfigError
        If the norm is unknown.
    ModelError
        If pooling would leave no pixel.
    """
    if norm not in NORMS:
        raise ConfigError(f"norm is {norm!r}; it must be one of {', '.join(NORMS)}")
    network = NETWORKS[name]
    channels, height, across = input_shape
    shrink = 2 ** len(network.blocks)
    if min(height, across) < shrink:
        raise ModelError(
            f"{name} halves its input {len(network.blocks)} times, so images of {height}x{across} leave no pixel; "
            f"it needs at least {shrink}x{shrink}: use a shallower model or larger images"
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()

    def finish(layer: str, normalisation: nn.Module) -> None:
        if norm == "batch":
            layers[f"norm_{layer}"] = normalisation
        layers[f"relu_{layer}"] = nn.ReLU()

    convolutions = 0
    for number, block in enumerate(network.blocks, start=1):
        for units in block:
            convolutions += 1
            out = scaled(units, width)
            layers[f"conv{convolutions}"] = nn.Conv2d(channels, out, 3, padding=1, bias=False)
            finish(f"conv{convolutions}", nn.BatchNorm2d(out))
            channels = out
        layers[f"pool{number}"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    features = math.prod((channels, height // shrink, across // shrink))
    for number, units in enumerate(network.linear, start=1):
        out = scaled(units, width)
        layers[f"fc{number}"] = nn.Linear(features, out, bias=False)
        finish(f"fc{number}", nn.BatchNorm1d(out))
        features = out
    layers["head"] = nn.Linear(features, classes, bias=False)
    return nn.Sequential(layers)
