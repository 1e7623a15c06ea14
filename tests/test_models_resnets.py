"""The residual networks of the papers."""

from __future__ import annotations

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from strongticket.errors import ConfigError
from strongticket.models.resnets import RESNETS, Residual, build_resnet
from strongticket.weights import BinaryActivation

CIFAR = (3, 32, 32)
OF_TORCHVISION = {
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50",
    "resnet101": "resnet101",
    "wide-resnet50": "wide_resnet50_2",
}


def weights(name: str, *, classes: int = 10) -> int:
    """Count the weights of convolutions and the linear layer, without making them."""
    with torch.device("meta"):
        model = build_resnet(name, CIFAR, classes=classes)
    return sum(tensor.numel() for tensor in model.parameters() if tensor.dim() > 1)


def basic(stem: int, channels: list[int], blocks: int) -> int:
    """Count those of a network of basic blocks for CIFAR-10 by hand.

    A stage of b blocks from i to o channels: 9io + 9o²(2b − 1), and io for the shortcut where shapes change.
    """
    total, before = 9 * 3 * stem + 10 * channels[-1], stem
    for number, out in enumerate(channels):
        changes = number > 0 or before != out
        total += 9 * before * out + 9 * out * out * (2 * blocks - 1) + changes * before * out
        before = out
    return total


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("cifar-resnet18", basic(64, [64, 128, 256, 512], 2)),
        ("cifar-resnet20", basic(16, [16, 32, 64], 3)),
        ("wide-resnet16-8", basic(16, [128, 256, 512], 2)),
        ("wide-resnet28-10", basic(16, [160, 320, 640], 4)),
    ],
)
def test_the_number_of_weights_is_the_sum_over_stages(name: str, count: int) -> None:
    assert weights(name) == count


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("cifar-resnet20", 0.27),  # He et al. 2016, table 6
        ("wide-resnet16-8", 11.0),  # Zagoruyko & Komodakis 2016, table 4
        ("wide-resnet28-10", 36.5),
    ],
)
def test_the_number_of_weights_is_that_of_the_papers(name: str, millions: float) -> None:
    assert weights(name) / 1e6 == pytest.approx(millions, rel=0.005)


def test_resnet18_for_small_images_has_as_many_weights_as_counted_by_hand() -> None:
    stem, first = 27 * 64, 4 * 9 * 64**2
    others = [9 * c * 2 * c + 3 * 9 * (2 * c) ** 2 + 2 * c * c for c in (64, 128, 256)]
    assert stem + first + sum(others) + 5120 == 11_164_352
    assert weights("cifar-resnet18") == 11_164_352


def test_two_fifths_of_wide_resnet34_are_the_weights_that_its_paper_keeps() -> None:
    assert round(0.4 * weights("wide-resnet34", classes=1000) / 1e6, 1) == 19.3


@pytest.mark.parametrize("name", OF_TORCHVISION)
@pytest.mark.parametrize("activation", ["relu", "binary"])
def test_names_and_shapes_are_those_of_torchvision(name: str, activation: str) -> None:
    with torch.device("meta"):
        ours = build_resnet(name, (3, 224, 224), classes=1000, activation=activation).state_dict()
        theirs = torchvision.models.get_model(OF_TORCHVISION[name]).state_dict()
    assert [(key, tensor.shape, tensor.dtype) for key, tensor in ours.items()] == [
        (key, tensor.shape, tensor.dtype) for key, tensor in theirs.items()
    ]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_outputs_are_those_of_torchvision_bit_for_bit(name: str) -> None:
    ours = build_resnet(name, (3, 40, 40), classes=7)
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, num_classes=7)
    theirs.load_state_dict({key: tensor.clone() for key, tensor in ours.state_dict().items()}, assign=True)
    images = torch.randn(2, 3, 40, 40)
    assert torch.equal(ours(images), theirs(images))
    assert torch.equal(ours.eval()(images), theirs.eval()(images))  # with the statistics of the images just seen


def test_width_multiplies_every_hidden_layer_but_neither_input_nor_classes() -> None:
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in build_resnet("wide-resnet50", CIFAR, classes=7, width=0.25).named_parameters()
    }
    assert shapes["conv1.weight"] == (16, 3, 7, 7)
    assert shapes["bn1.weight"] == (16,)
    assert shapes["layer1.0.conv1.weight"] == (32, 16, 1, 1)
    assert shapes["layer1.0.conv2.weight"] == (32, 32, 3, 3)
    assert shapes["layer1.0.conv3.weight"] == (64, 32, 1, 1)
    assert shapes["layer4.0.downsample.0.weight"] == (512, 256, 1, 1)
    assert shapes["fc.weight"] == (7, 512)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("cifar-resnet50", [32, 16, 8, 4]), ("wide-resnet16-8", [32, 16, 8]), ("resnet34", [8, 4, 2, 1])],
)
def test_every_stage_but_the_first_halves_the_image(name: str, sizes: list[int]) -> None:
    model, seen = build_resnet(name, CIFAR, classes=2, width=0.05), []
    for stage, layer in model.named_children():
        if stage.startswith("layer"):
            layer.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[-1]))
    model(torch.zeros(2, *CIFAR))
    assert seen == sizes


def test_the_stem_for_large_images_pools_before_the_norm_where_activations_are_binary() -> None:
    def stem(activation: str) -> list[str]:
        model = build_resnet("resnet18", CIFAR, classes=2, width=0.05, activation=activation)
        return [name for name, _ in model.named_children()][:4]

    assert stem("relu") == ["conv1", "bn1", "relu1", "maxpool"]
    assert stem("binary") == ["conv1", "maxpool", "bn1", "sign1"]


@pytest.mark.parametrize("activation", [nn.ReLU(), BinaryActivation()])
def test_the_activation_of_a_block_reads_the_residual_sum(activation: nn.Module) -> None:
    halve, shortcut = nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(halve.weight, 0.5)
    nn.init.constant_(shortcut.weight, -2.0)
    images = torch.tensor([[[[-4.0, 4.0]]]])  # 0.5 · 0.5 · x − 2x = −1.75x
    outputs = Residual(halve, halve, shortcut, activation)(images)
    assert outputs.flatten().tolist() == ([7.0, 0.0] if isinstance(activation, nn.ReLU) else [1.0, -1.0])


@pytest.mark.parametrize("activation", ["relu", "binary"])
def test_a_compiler_takes_a_block_whole(activation: str) -> None:
    block = build_resnet("cifar-resnet20", CIFAR, classes=2, width=0.1, activation=activation).layer2[0].eval()
    images = torch.randn(2, 2, 8, 8)
    assert torch.equal(torch.compile(block, fullgraph=True, backend="eager")(images), block(images))


def test_a_shortcut_is_the_identity_where_shapes_stay_and_a_convolution_where_they_change() -> None:
    model = build_resnet("cifar-resnet20", CIFAR, classes=2)
    shortcuts = [
        [type(block.downsample).__name__ for block in stage] for stage in (model.layer1, model.layer2, model.layer3)
    ]
    same, change = ["Identity"], ["Sequential"]
    assert shortcuts == [same * 3, change + same * 2, change + same * 2]
    assert type(build_resnet("wide-resnet16-8", CIFAR, classes=2, width=0.1).layer1[0].downsample) is nn.Sequential


def test_in_a_binary_network_the_identity_carries_signs_and_the_classifier_reads_their_mean() -> None:
    model, seen = build_resnet("cifar-resnet20", CIFAR, classes=3, activation="binary"), {}
    for path in ("conv1", "layer1.1.downsample", "fc"):
        model.get_submodule(path).register_forward_hook(
            lambda module, inputs, output, path=path: seen.update({path: (inputs[0], output)})
        )
    images = torch.randn(2, *CIFAR)
    model(images)
    assert torch.equal(seen["conv1"][0], images)
    assert bool((seen["layer1.1.downsample"][1].abs() == 1).all())
    means = seen["fc"][0] * 64  # of 8x8 signs
    assert torch.equal(means, means.round())
    assert bool((means.abs() < 64).any())


@settings(deadline=None, max_examples=15)
@given(
    name=st.sampled_from(["cifar-resnet20", "cifar-resnet50", "wide-resnet16-8", "resnet18", "resnet50"]),
    activation=st.sampled_from(["relu", "binary"]),
    channels=st.integers(1, 4),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    classes=st.integers(1, 5),
)
def test_every_size_of_image_and_number_of_classes_works(
    name: str, activation: str, channels: int, height: int, width: int, classes: int
) -> None:
    shape = (channels, height, width)
    model = build_resnet(name, shape, classes=classes, width=0.05, activation=activation).eval()
    assert model(torch.zeros(2, *shape)).shape == (2, classes)


@pytest.mark.parametrize("name", RESNETS)
def test_batch_norm_cannot_be_left_out(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} always has batch norm, but norm none was asked for; leave it out$"):
        build_resnet(name, CIFAR, classes=2, norm="none")


def test_an_unknown_norm_is_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"norm is 'layer'; it must be one of none, batch"):
        build_resnet("resnet18", CIFAR, classes=10, norm="layer")
