"""Residual networks that pool early: what finds a ticket in minutes of a CPU.

Most multiply-adds of the networks of the papers are spent on large images with few channels, which a CPU is slow at.
Here the first convolution of a stage is pooled at once, and residual blocks of one convolution follow on the smaller
image, as in the networks of speed records: Page 2018 ("How to train your ResNet"), Jordan 2024 (arXiv 2404.00498).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import nn

from .resnets import Residual
from .variants import Activation, Layers, check_has_batch_norm, find_activation, halved
from .width import scaled


@dataclass(frozen=True)
class EarlyNetwork:
    """A definition: channels of the stem, and channels and residual blocks of each stage."""

    description: str
    stem: int
    channels: tuple[int, ...]
    blocks: tuple[int, ...]


EARLY: Mapping[str, EarlyNetwork] = MappingProxyType(
    {
        "cifar-resnet8": EarlyNetwork(
            "ResNet-8 for small images that pools early: 32 to 256 channels", 32, (64, 128, 256), (1, 1, 1)
        ),
        "cifar-resnet9": EarlyNetwork(
            "ResNet-9 for small images that pools early: one more block after the last pool",
            32,
            (64, 128, 256),
            (1, 1, 2),
        ),
    }
)


def build_early(
    name: str,
    input_shape: tuple[int, int, int],
    *,
    classes: int,
    width: float = 1.0,
    norm: str | None = None,
    activation: str | None = None,
) -> nn.Sequential:
    """Build one of `EARLY` as a sequence of named layers and stages.

    The stem is a 3x3 convolution with batch norm and activation. A stage is a 3x3 convolution, a 2x2 max-pool, batch
    norm, activation, and blocks y = activation(x + norm(convolution(x))). One linear layer reads all that is left. No
    layer has a bias. Every activation is a module of its own.

    Parameters
    ----------
    name
        A key of `EARLY`.
    input_shape
        ``(channels, height, width)`` of one image.
    classes
        The number of outputs.
    width
        Multiplies the channels of every hidden layer: ``round(channels * width)``, at least 1.
    norm
        ``"batch"``, or None, which is the same.
    activation
        A key of `ACTIVATIONS`; None is ``"relu"``.

    Raises
    ------
    ConfigError
        If the norm is not ``"batch"``, or the activation is unknown.
    ModelError
        If pooling would leave no pixel.
    """
    network, act = EARLY[name], find_activation(activation)
    check_has_batch_norm(name, norm)
    channels, height, across = input_shape
    pixels = math.prod(halved(name, len(network.channels), height, across))
    out = scaled(network.stem, width)
    layers: Layers = {"conv1": _convolution(channels, out), "bn1": nn.BatchNorm2d(out), **act.named("1")}
    channels = out
    for number, (units, blocks) in enumerate(zip(network.channels, network.blocks, strict=True), start=1):
        out = scaled(units, width)
        layers[f"layer{number}"] = _stage(channels, out, act, blocks)
        channels = out
    layers |= {"flatten": nn.Flatten(), "head": nn.Linear(channels * pixels, classes, bias=False)}
    return nn.Sequential(OrderedDict(layers))


def _stage(channels: int, out: int, act: Activation, blocks: int) -> nn.Sequential:
    widening: Layers = {"conv": _convolution(channels, out), "pool": nn.MaxPool2d(2), "bn": nn.BatchNorm2d(out)}
    rest: Layers = {f"block{number if number > 1 else ''}": _block(out, act) for number in range(1, blocks + 1)}
    return nn.Sequential(OrderedDict({**widening, **act.named(""), **rest}))


def _block(channels: int, act: Activation) -> Residual:
    inside: Layers = {"conv": _convolution(channels, channels), "bn": nn.BatchNorm2d(channels)}
    return Residual(OrderedDict({**inside, "identity": nn.Identity(), **act.named("")}))


def _convolution(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1, bias=False)
