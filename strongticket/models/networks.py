"""The networks of the papers without shortcuts: LeNet-300-100, Conv2 to Conv8, and VGG-small.

Sources: Ramanujan et al. 2020 (arXiv 1911.13299), section 4.1; Frankle & Carbin 2019 (arXiv 1803.03635), figure 2;
Diffenderfer & Kailkhura 2021 (arXiv 2103.09377) for VGG-small and the binary variants.
No layer has a bias. A width multiplies every hidden layer, the fully connected ones included.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn

from .variants import Layers, check_norm, find_activation, halved
from .width import scaled

HIDDEN_LINEAR = (256, 256)


@dataclass(frozen=True)
class Network:
    """A definition: channels of each convolution block, units of each hidden linear layer, and its own norm."""

    description: str
    blocks: tuple[tuple[int, ...], ...]
    linear: tuple[int, ...]
    norm: str = "none"


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
        "vgg-small": Network(
            "6 convolutions (128, 256, 512) with batch norm, then classes",
            ((128, 128), (256, 256), (512, 512)),
            (),
            norm="batch",
        ),
    }
)


def build_network(
    name: str,
    input_shape: tuple[int, int, int],
    *,
    classes: int,
    width: float = 1.0,
    norm: str | None = None,
    activation: str | None = None,
) -> nn.Sequential:
    """Build one of `NETWORKS` as a flat sequence of named layers.

    A block is 3x3 convolutions (padding 1), each followed by the norm and the activation, and a 2x2 max-pool at its
    end, which stands before the norm if the activation is binary. The image goes into the first layer as it is, and
    the last layer's outputs are real, whatever the activation. The layers with weights are called
    ``conv1, conv2, ..., fc1, fc2, head`` in every variant, and have the same state_dict.

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
        ``"none"`` or ``"batch"``; None is the network's own, which is ``"batch"`` for every binary variant.
    activation
        A key of `ACTIVATIONS`; None is ``"relu"``.

    Raises
    ------
    ConfigError
        If the norm or the activation is unknown.
    ModelError
        If pooling would leave no pixel.
    """
    network, act = NETWORKS[name], find_activation(activation)
    if norm is None:
        norm = "batch" if act.is_binary else network.norm
    check_norm(norm)
    channels, height, across = input_shape
    pixels = math.prod(halved(name, len(network.blocks), height, across))
    layers: Layers = {}

    def add(layer: str, weighted: nn.Module, normalisation: nn.Module, pool: Layers) -> None:
        layers[layer] = weighted
        normed = {f"norm_{layer}": normalisation} if norm == "batch" else {}
        layers.update(act.following(f"_{layer}", norm=normed, pool=pool))

    convolutions = 0
    for number, block in enumerate(network.blocks, start=1):
        for position, units in enumerate(block, start=1):
            convolutions += 1
            out = scaled(units, width)
            pool: Layers = {f"pool{number}": nn.MaxPool2d(2)} if position == len(block) else {}
            convolution = nn.Conv2d(channels, out, 3, padding=1, bias=False)
            add(f"conv{convolutions}", convolution, nn.BatchNorm2d(out), pool)
            channels = out
    layers["flatten"] = nn.Flatten()
    features = channels * pixels
    for number, units in enumerate(network.linear, start=1):
        out = scaled(units, width)
        add(f"fc{number}", nn.Linear(features, out, bias=False), nn.BatchNorm1d(out), {})
        features = out
    layers["head"] = nn.Linear(features, classes, bias=False)
    return nn.Sequential(OrderedDict(layers))
