"""The networks of the papers without shortcuts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from strongticket.errors import ConfigError, ModelError
from strongticket.models.networks import NETWORKS, build_network

CIFAR = (3, 32, 32)


def weights(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "count"),
    [
        ("mlp", (1, 28, 28), 266_200),  # 784·300 + 300·100 + 100·10
        ("conv2", CIFAR, 4_300_992),
        ("conv4", CIFAR, 2_425_024),
        ("conv6", CIFAR, 2_261_184),
        ("conv8", CIFAR, 5_275_840),
    ],
)
def test_the_number_of_weights_is_that_of_the_papers(name: str, shape: tuple[int, int, int], count: int) -> None:
    assert weights(build_network(name, shape, classes=10)) == count


def test_the_number_of_weights_of_vgg_small_is_the_sum_over_its_seven_layers() -> None:
    convolutions = 9 * (3 * 128 + 128 * 128 + 128 * 256 + 256 * 256 + 256 * 512 + 512 * 512)
    assert convolutions + 8192 * 10 == 4_656_512
    model = build_network("vgg-small", CIFAR, classes=10)
    assert sum(tensor.numel() for tensor in model.parameters() if tensor.dim() > 1) == 4_656_512


def test_width_multiplies_every_hidden_layer_but_neither_input_nor_classes() -> None:
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in build_network("conv2", CIFAR, classes=7, width=0.5).named_parameters()
    }
    assert shapes == {
        "conv1.weight": (32, 3, 3, 3),
        "conv2.weight": (32, 32, 3, 3),
        "fc1.weight": (128, 32 * 16 * 16),
        "fc2.weight": (128, 128),
        "head.weight": (7, 128),
    }


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("activation", ["relu", "binary"])
def test_no_layer_has_a_bias_but_batch_norm(name: str, norm: str, activation: str) -> None:
    model = build_network(name, (1, 16, 16), classes=3, width=0.05, norm=norm, activation=activation)
    for module in model:
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert module.bias is None


def test_batch_norm_stands_between_every_hidden_layer_and_its_relu() -> None:
    layers = [type(layer).__name__ for layer in build_network("conv2", CIFAR, classes=2, width=0.05, norm="batch")]
    conv, linear = ["Conv2d", "BatchNorm2d", "ReLU"], ["Linear", "BatchNorm1d", "ReLU"]
    assert layers == [*conv, *conv, "MaxPool2d", "Flatten", *linear, *linear, "Linear"]


def test_a_binary_block_has_its_pool_before_norm_and_sign() -> None:
    layers = build_network("conv2", CIFAR, classes=2, width=0.05, activation="binary").named_children()
    assert [name for name, _ in layers] == [
        *("conv1", "norm_conv1", "sign_conv1"),
        *("conv2", "pool1", "norm_conv2", "sign_conv2"),
        "flatten",
        *("fc1", "norm_fc1", "sign_fc1"),
        *("fc2", "norm_fc2", "sign_fc2"),
        "head",
    ]


def test_vgg_small_has_its_only_linear_layer_at_the_end() -> None:
    layers = build_network("vgg-small", CIFAR, classes=2, width=0.05, activation="binary").named_children()
    assert [name for name, _ in layers if not name.startswith(("norm", "sign"))] == [
        *("conv1", "conv2", "pool1", "conv3", "conv4", "pool2", "conv5", "conv6", "pool3"),
        *("flatten", "head"),
    ]


@pytest.mark.parametrize(
    ("name", "activation", "norm", "normalised"),
    [
        ("conv2", "relu", None, False),
        ("conv2", "binary", None, True),
        ("vgg-small", "relu", None, True),
        ("vgg-small", "binary", None, True),
        ("vgg-small", "relu", "none", False),
        ("vgg-small", "binary", "none", False),
        ("conv2", "binary", "none", False),
        ("conv2", "relu", "batch", True),
    ],
)
def test_a_norm_that_is_asked_for_wins_over_the_networks_own(
    name: str, activation: str, norm: str | None, normalised: bool
) -> None:
    model = build_network(name, CIFAR, classes=2, width=0.05, norm=norm, activation=activation)
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in model) == normalised


def test_without_norm_the_layers_are_the_same_without_it_and_keep_their_names() -> None:
    with_norm = build_network("conv4", CIFAR, classes=2, width=0.05, norm="batch")
    without = build_network("conv4", CIFAR, classes=2, width=0.05, norm="none")
    names = [name for name, layer in with_norm.named_children() if "BatchNorm" not in type(layer).__name__]
    assert names == [name for name, _ in without.named_children()]
    assert not any("BatchNorm" in type(layer).__name__ for layer in without)


def test_the_dense_baseline_has_affine_batch_norm() -> None:
    model = build_network("mlp", (1, 4, 4), classes=2, norm="batch")
    assert all(layer.affine for layer in model if isinstance(layer, nn.BatchNorm1d))
    assert weights(model) == 16 * 300 + 300 * 100 + 100 * 2 + 2 * (300 + 100)


@settings(deadline=None, max_examples=25)
@given(
    name=st.sampled_from(sorted(NETWORKS)),
    channels=st.integers(1, 4),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    classes=st.integers(1, 5),
)
def test_every_shape_that_leaves_a_pixel_works_and_every_other_is_refused(
    name: str, channels: int, height: int, width: int, classes: int
) -> None:
    halvings = {"mlp": 0, "conv2": 1, "conv4": 2, "conv6": 3, "conv8": 4, "vgg-small": 3}[name]
    shape = (channels, height, width)
    if min(height, width) < 2**halvings:
        with pytest.raises(ModelError, match=rf"{name} halves its input {halvings} times.*{height}x{width}"):
            build_network(name, shape, classes=classes, width=0.05)
    else:
        model = build_network(name, shape, classes=classes, width=0.05).eval()
        assert model(torch.zeros(2, *shape)).shape == (2, classes)


def test_digits_fit_conv6_but_not_conv8() -> None:
    assert build_network("conv6", (1, 8, 8), classes=10, width=0.1)(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    with pytest.raises(ModelError, match="at least 16x16"):
        build_network("conv8", (1, 8, 8), classes=10)


def test_an_unknown_norm_is_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"norm is 'layer'; it must be one of none, batch"):
        build_network("mlp", (1, 8, 8), classes=10, norm="layer")
