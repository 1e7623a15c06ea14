"""The residual networks of the papers, for images as small as CIFAR's and as large as ImageNet's.

Sources: He et al. 2016 (arXiv 1512.03385), table 1 and section 4.2; Zagoruyko & Komodakis 2016 (arXiv 1605.07146),
table 1; Ramanujan et al. 2020 (arXiv 1911.13299) and Diffenderfer & Kailkhura 2021 (arXiv 2103.09377), experiments.
All have the block of He et al., in which the activation reads the residual sum; Zagoruyko & Komodakis put norm and
activation before each convolution instead. Where shapes change, the shortcut is a 1x1 convolution with batch norm.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor, nn

from .variants import Activation, Layers, check_has_batch_norm, find_activation
from .width import scaled


class Convolution(NamedTuple):
    """One convolution of a block: channels as a multiple of its stage's, and whether it takes the stage's stride."""

    factor: int
    kernel: int
    strided: bool = False


Block = tuple[Convolution, ...]
BASIC: Block = (Convolution(1, 3, strided=True), Convolution(1, 3))
# The stride stands on the 3x3 convolution, as in torchvision, and not on the first 1x1 as in the paper.
BOTTLENECK: Block = (Convolution(1, 1), Convolution(1, 3, strided=True), Convolution(4, 1))
WIDE_BOTTLENECK: Block = (Convolution(2, 1), Convolution(2, 3, strided=True), Convolution(4, 1))


@dataclass(frozen=True)
class ResidualNetwork:
    """A definition: channels of the stem, channels and number of blocks of each stage, and what a block is made of.

    The stem of ``large_images`` is a 7x7 convolution of stride 2 and a max-pool; otherwise it is a 3x3 convolution.
    """

    description: str
    stem: int
    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    block: Block = BASIC
    large_images: bool = False


_FOUR = (64, 128, 256, 512)

RESNETS: Mapping[str, ResidualNetwork] = MappingProxyType(
    {
        "cifar-resnet18": ResidualNetwork(
            "ResNet-18 for small images: 3x3 stem, 64 to 512 channels", 64, _FOUR, (2, 2, 2, 2)
        ),
        "cifar-resnet20": ResidualNetwork(
            "ResNet-20 for small images: 3x3 stem, 16 to 64 channels", 16, (16, 32, 64), (3, 3, 3)
        ),
        "cifar-resnet34": ResidualNetwork(
            "ResNet-34 for small images: 3x3 stem, 64 to 512 channels", 64, _FOUR, (3, 4, 6, 3)
        ),
        "cifar-resnet50": ResidualNetwork(
            "ResNet-50 for small images: 3x3 stem, bottlenecks", 64, _FOUR, (3, 4, 6, 3), BOTTLENECK
        ),
        "wide-resnet16-8": ResidualNetwork(
            "Wide ResNet-16-8 for small images: 128 to 512 channels", 16, (128, 256, 512), (2, 2, 2)
        ),
        "wide-resnet28-10": ResidualNetwork(
            "Wide ResNet-28-10 for small images: 160 to 640 channels", 16, (160, 320, 640), (4, 4, 4)
        ),
        "resnet18": ResidualNetwork(
            "ResNet-18 for large images: 7x7 stem, max-pool", 64, _FOUR, (2, 2, 2, 2), large_images=True
        ),
        "resnet34": ResidualNetwork(
            "ResNet-34 for large images: 7x7 stem, max-pool", 64, _FOUR, (3, 4, 6, 3), large_images=True
        ),
        "resnet50": ResidualNetwork(
            "ResNet-50 for large images: bottlenecks", 64, _FOUR, (3, 4, 6, 3), BOTTLENECK, large_images=True
        ),
        "resnet101": ResidualNetwork(
            "ResNet-101 for large images: bottlenecks", 64, _FOUR, (3, 4, 23, 3), BOTTLENECK, large_images=True
        ),
        # Of its 48.3 million weights 40 % are the 19.3 million of Diffenderfer & Kailkhura's Wide ResNet-34; ResNet-34
        # at width 2 has 86 million.
        "wide-resnet34": ResidualNetwork(
            "Wide ResNet-34 for large images: 64, then 192 to 768 channels",
            64,
            (64, 192, 384, 768),
            (3, 4, 6, 3),
            large_images=True,
        ),
        "wide-resnet50": ResidualNetwork(
            "Wide ResNet-50-2 for large images: bottlenecks of twice the width",
            64,
            _FOUR,
            (3, 4, 6, 3),
            WIDE_BOTTLENECK,
            large_images=True,
        ),
    }
)


class Residual(nn.Sequential):
    """A residual block: layers in a row, then the shortcut beside them, then an activation that reads their sum.

    With these children f₁, ..., fₙ, shortcut, activation: y = activation(fₙ(... f₁(x)) + shortcut(x)).

    He et al. 2016 (arXiv 1512.03385), section 3.2, equation 2.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Return the activations ``(batch, out, height / stride, width / stride)``."""
        *row, shortcut, activation = self
        values = images
        for layer in row:
            values = layer(values)
        outputs: Tensor = activation(values + shortcut(images))
        return outputs


def build_resnet(
    name: str,
    input_shape: tuple[int, int, int],
    *,
    classes: int,
    width: float = 1.0,
    norm: str | None = None,
    activation: str | None = None,
) -> nn.Sequential:
    """Build one of `RESNETS` as a sequence of named layers and stages.

    Names and shapes in the state_dict are those of torchvision where it has the network, and the same in every variant.
    Every activation is a module of its own: ``relu1`` of the stem, ``layer1.0.relu1`` and so on. Where activations are
    binary they are called ``sign1`` and so on, the sign reads the residual sum, the identity carries ±1, and the last
    layer reads signs averaged over the image.

    Parameters
    ----------
    name
        A key of `RESNETS`.
    input_shape
        ``(channels, height, width)`` of one image; any size leaves a pixel.
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
    """
    network, act = RESNETS[name], find_activation(activation)
    check_has_batch_norm(name, norm)
    channels = scaled(network.stem, width)
    layers = _stem(input_shape[0], channels, act, large_images=network.large_images)
    for number, (units, blocks) in enumerate(zip(network.channels, network.blocks, strict=True), start=1):
        stage = nn.Sequential()
        for position in range(blocks):
            stride = 2 if number > 1 and position == 0 else 1
            out = [scaled(units * convolution.factor, width) for convolution in network.block]
            stage.append(_block(network.block, channels, out, act, stride=stride))
            channels = out[-1]
        layers[f"layer{number}"] = stage
    layers |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(channels, classes)}
    return nn.Sequential(OrderedDict(layers))


def _stem(channels: int, out: int, act: Activation, *, large_images: bool) -> Layers:
    """Return the layers before the first stage, in order."""
    kernel, stride = (7, 2) if large_images else (3, 1)
    pool: Layers = {"maxpool": nn.MaxPool2d(3, stride=2, padding=1)} if large_images else {}
    norm: Layers = {"bn1": nn.BatchNorm2d(out)}
    return {"conv1": _convolution(channels, out, kernel, stride), **act.following("1", norm=norm, pool=pool)}


def _block(block: Block, channels: int, out: list[int], act: Activation, *, stride: int) -> Residual:
    """Return a block whose convolutions have ``out`` channels each."""
    layers: Layers = {}
    inside = channels
    for number, (convolution, units) in enumerate(zip(block, out, strict=True), start=1):
        step = stride if convolution.strided else 1
        layers[f"conv{number}"] = _convolution(inside, units, convolution.kernel, step)
        layers[f"bn{number}"] = nn.BatchNorm2d(units)
        if number < len(block):
            layers |= act.named(str(number))
        inside = units
    same = stride == 1 and inside == channels
    layers["downsample"] = (
        nn.Identity() if same else nn.Sequential(_convolution(channels, inside, 1, stride), nn.BatchNorm2d(inside))
    )
    return Residual(OrderedDict(layers | act.named(str(len(block)))))


def _convolution(channels: int, out: int, kernel: int, stride: int) -> nn.Conv2d:
    """Return a convolution that keeps the size of the image but for its stride."""
    return nn.Conv2d(channels, out, kernel, stride=stride, padding=kernel // 2, bias=False)
