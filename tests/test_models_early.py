"""Residual networks that pool early."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from strongticket.errors import ConfigError, ModelError
from strongticket.models.early import EARLY, build_early

NAME, NINE = "cifar-resnet8", "cifar-resnet9"
CIFAR = (3, 32, 32)


def test_the_number_of_weights_is_the_sum_over_its_eight_layers() -> None:
    convolutions = 27 * 32 + 9 * (32 * 64 + 64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 256 * 256)
    assert convolutions + 16 * 256 * 10 == 1_203_040
    model = build_early(NAME, CIFAR, classes=10)
    weights = [tensor for tensor in model.parameters() if tensor.dim() > 1]
    assert len(weights) == 8
    assert sum(tensor.numel() for tensor in weights) == 1_203_040


def test_the_ninth_layer_is_a_second_block_of_the_last_stage() -> None:
    eight, nine = (
        {name: tensor.shape for name, tensor in build_early(name, CIFAR, classes=10).state_dict().items()}
        for name in (NAME, NINE)
    )
    more = nine.keys() - eight.keys()
    assert nine["layer3.block2.conv.weight"] == (256, 256, 3, 3)
    assert {name.rpartition(".")[0] for name in more} == {"layer3.block2.conv", "layer3.block2.bn"}
    assert {name: shape for name, shape in nine.items() if name not in more} == eight


def test_width_multiplies_every_hidden_layer_but_neither_input_nor_classes() -> None:
    model = build_early(NAME, CIFAR, classes=7, width=0.5)
    shapes = [tuple(tensor.shape[:2]) for tensor in model.parameters() if tensor.dim() > 1]
    assert shapes == [(16, 3), (32, 16), (32, 32), (64, 32), (64, 64), (128, 64), (128, 128), (7, 128 * 16)]


@pytest.mark.parametrize(("name", "last"), [(NAME, ["block"]), (NINE, ["block", "block2"])])
@pytest.mark.parametrize(("activation", "function"), [("relu", F.relu), ("silu", lambda x: x / (1 + torch.exp(-x)))])
def test_the_outputs_are_those_of_the_formula(
    name: str, last: list[str], activation: str, function: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    model = build_early(name, (2, 16, 24), classes=3, width=0.1, activation=activation).eval()
    images = torch.randn(5, 2, 16, 24, generator=torch.Generator().manual_seed(0))
    weights = dict(model.named_parameters())

    def normed(values: torch.Tensor) -> torch.Tensor:
        return values / (1 + 1e-5) ** 0.5  # the statistics of an untouched batch norm: mean 0, variance 1

    values = function(normed(F.conv2d(images, weights["conv1.weight"], padding=1)))
    for stage, blocks in (("layer1", ["block"]), ("layer2", ["block"]), ("layer3", last)):
        values = F.max_pool2d(F.conv2d(values, weights[f"{stage}.conv.weight"], padding=1), 2)
        values = function(normed(values))
        for block in blocks:
            added = normed(F.conv2d(values, weights[f"{stage}.{block}.conv.weight"], padding=1))
            values = function(values + added)
    expected = values.flatten(1) @ weights["head.weight"].T
    assert expected.shape == (5, 3)
    assert torch.allclose(model(images), expected, atol=1e-5)


@pytest.mark.parametrize(("activation", "kind"), [(None, "ReLU"), ("silu", "SiLU"), ("binary", "BinaryActivation")])
def test_every_activation_is_a_module_of_its_own(activation: str | None, kind: str) -> None:
    model = build_early(NAME, CIFAR, classes=2, width=0.1, activation=activation)
    assert sum(type(module).__name__ == kind for module in model.modules()) == 7


@pytest.mark.parametrize("name", EARLY)
@pytest.mark.parametrize("activation", ["relu", "silu", "binary"])
def test_no_layer_has_a_bias_but_batch_norm(name: str, activation: str) -> None:
    for module in build_early(name, CIFAR, classes=2, width=0.1, norm="batch", activation=activation).modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert module.bias is None


def test_images_that_leave_no_pixel_are_refused() -> None:
    assert build_early(NAME, (1, 8, 8), classes=2, width=0.1).eval()(torch.zeros(1, 1, 8, 8)).shape == (1, 2)
    with pytest.raises(ModelError, match=r"cifar-resnet8 halves its input 3 times.*7x8 leave no pixel.*at least 8x8"):
        build_early(NAME, (1, 7, 8), classes=2)


def test_a_norm_that_it_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="cifar-resnet8 always has batch norm, but norm none was asked for"):
        build_early(NAME, CIFAR, classes=2, norm="none")
