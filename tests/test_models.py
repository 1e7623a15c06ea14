"""A network from its name."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from strongticket import attach, extract
from strongticket.errors import ConfigError, ModelError, StrongTicketError
from strongticket.models import available, build, check_fits
from strongticket.models.early import EARLY
from strongticket.weights import BinaryActivation

CIFAR = (3, 32, 32)
SMALL = ["mlp", "conv2", "conv4", "conv6", "conv8", "vgg-small"]
RESIDUAL = [
    *("cifar-resnet8", "cifar-resnet9", "cifar-resnet18", "cifar-resnet20", "cifar-resnet34", "cifar-resnet50"),
    *("wide-resnet16-8", "wide-resnet28-10"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "wide-resnet34", "wide-resnet50"),
]
ACTIVATIONS = ["relu", "silu", "binary"]


@pytest.fixture(params=[*SMALL, *RESIDUAL])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, *CIFAR, generator=torch.Generator().manual_seed(0))


def built(name: str, activation: str | None = None, *, norm: str | None = None, classes: int = 5) -> nn.Module:
    return build(name, input_shape=CIFAR, classes=classes, width=0.05, norm=norm, activation=activation)


def message(error: type[StrongTicketError], name: str, shape: tuple[int, int, int] = CIFAR, **options: Any) -> str:
    with pytest.raises(error) as caught:
        build(name, input_shape=shape, classes=10, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_built_in_network_is_listed_in_a_line() -> None:
    assert [name for name in available() if ":" not in name] == [*SMALL, *RESIDUAL]
    assert all(description and "\n" not in description for description in available().values())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_network_gives_a_row_of_classes_in_training_and_in_evaluation(name: str, activation: str) -> None:
    model = built(name, activation)
    assert model.train()(images()).shape == (4, 5)
    assert model.eval()(images()).shape == (4, 5)
    check_fits(model, CIFAR, 5)


def test_every_activation_of_a_binary_variant_is_plus_or_minus_one_and_none_is_relu(name: str) -> None:
    model, seen = built(name, "binary"), []
    for module in model.modules():
        assert not isinstance(module, nn.ReLU)
        if isinstance(module, BinaryActivation):
            module.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(images())
    activations = [module for module in model.modules() if isinstance(module, BinaryActivation)]
    assert len(seen) == len(activations) > 0
    assert all(bool((values.abs() == 1).all()) for values in seen)


def test_every_relu_is_a_module_of_its_own_and_its_place_is_that_of_every_other_activation(name: str) -> None:
    def places(activation: str, kind: type[nn.Module]) -> list[str]:
        model, used = built(name, activation), []
        for path, module in model.named_modules(remove_duplicate=False):
            if isinstance(module, kind):
                module.register_forward_hook(lambda module, inputs, output, path=path: used.append(path))
        model(images())
        assert len(used) == len(set(used))
        return used

    relus = places("relu", nn.ReLU)
    assert len(relus) > 1
    assert places("silu", nn.SiLU) == [path.replace("relu", "silu") for path in relus]
    assert places("binary", BinaryActivation) == [path.replace("relu", "sign") for path in relus]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_batch_norm_follows_every_convolution_and_only_an_early_pool_stands_between(name: str, activation: str) -> None:
    model = built(name, activation, norm="batch")
    found = 0
    for container in model.modules():
        layers = list(container.children())
        for layer, *rest in (layers[index:] for index in range(len(layers))):
            if isinstance(layer, nn.Conv2d):
                pools_early = activation == "binary" or name in EARLY
                if pools_early and isinstance(rest[0], nn.MaxPool2d):
                    rest.pop(0)
                assert isinstance(rest[0], nn.BatchNorm2d)
                assert rest[0].num_features == layer.out_channels
                assert layer.bias is None
                found += 1
    assert found == sum(isinstance(module, nn.Conv2d) for module in model.modules())


def test_all_variants_have_one_state_dict(name: str) -> None:
    relu, *others = (built(name, activation, norm="batch") for activation in ACTIVATIONS)
    for other in others:
        assert list(relu.state_dict()) == list(other.state_dict())
        other.load_state_dict(relu.state_dict())
        assert not torch.equal(relu.eval()(images()), other.eval()(images()))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_masks_go_over_every_weight_and_a_copy_and_a_ticket_compute_the_same(name: str, activation: str) -> None:
    model = built(name, activation)
    matrices = [key for key, tensor in model.named_parameters() if tensor.dim() > 1]
    assert attach(model, density=0.5) == matrices
    expected = model.eval()(images())
    assert torch.equal(copy.deepcopy(model)(images()), expected)
    assert list(extract(model).masks) == matrices
    other = built(name, activation)
    attach(other, density=0.5, seed=1)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(images()), expected)


def test_gradients_reach_the_first_layer_of_a_binary_variant(name: str) -> None:
    model = built(name, "binary")
    model(images()).square().sum().backward()
    assert next(model.parameters()).grad.abs().sum() > 0


@pytest.mark.parametrize("activation", ["tanh", "", "ReLU"])
def test_an_unknown_activation_is_refused_with_what_there_is(activation: str) -> None:
    for name in ("conv2", "resnet18"):
        text = message(ConfigError, name, activation=activation)
        assert text == f"activation is {activation!r}; it must be one of relu, silu, binary"


@pytest.mark.parametrize("name", ["torchvision:resnet18", "torch.nn:Identity"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_of_somebody_elses_network_is_refused_with_the_way_to_it(name: str, activation: str) -> None:
    text = message(ConfigError, name, activation=activation)
    assert f"{name} has no activation to choose, but activation {activation} was asked for" in text
    assert ("--activations PATTERN" if activation == "binary" else "or use one of mlp, conv2") in text


def test_width_and_norm_are_one_and_none_unless_asked_for() -> None:
    plain = build("conv2", input_shape=CIFAR, classes=10)
    assert [tuple(tensor.shape) for tensor in plain.parameters()] == [
        tuple(tensor.shape)
        for tensor in build("conv2", input_shape=CIFAR, classes=10, width=1.0, norm="none").parameters()
    ]
    assert sum(tensor.numel() for tensor in plain.parameters()) == 4_300_992


def test_a_network_of_torchvision_has_the_classes_of_the_data() -> None:
    check_fits(build("torchvision:squeezenet1_1", input_shape=CIFAR, classes=7), CIFAR, 7)


def test_a_vision_transformer_is_built_for_the_size_of_the_images() -> None:
    model = build("torchvision:vit_b_32", input_shape=(3, 64, 64), classes=5)
    assert model.image_size == 64
    with pytest.raises(ModelError, match=r"vit_b_32 cannot be built for images of 3x33x33: .*patch size"):
        build("torchvision:vit_b_32", input_shape=(3, 33, 33), classes=5)


def test_a_network_with_auxiliary_outputs_gives_one_tensor_in_training() -> None:
    model = build("torchvision:googlenet", input_shape=CIFAR, classes=5)
    assert model.training
    assert isinstance(model(torch.zeros(2, *CIFAR)), torch.Tensor)


def test_torchvision_needs_images_of_three_channels() -> None:
    text = message(ModelError, "torchvision:resnet18", (1, 28, 28))
    assert "3 channels, these have 1 (1x28x28)" in text


@pytest.mark.parametrize("option", [{"width": 2.0}, {"norm": "batch"}])
def test_an_option_that_torchvision_lacks_is_refused(option: dict[str, Any]) -> None:
    (name,) = option
    assert f"torchvision:resnet18 has no {name}" in message(ConfigError, "torchvision:resnet18", **option)


def test_an_unknown_name_of_torchvision_lists_close_ones() -> None:
    assert "resnet18" in message(ModelError, "torchvision:resnet81")
    assert "alexnet" in message(ModelError, "torchvision:")


def test_networks_for_other_tasks_are_not_offered() -> None:
    assert "no image classifier" in message(ModelError, "torchvision:fasterrcnn_resnet50_fpn")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("conv5", "conv"),
        ("MLP", "mlp"),
        ("resnet19", "mean resnet18 or "),
        ("resnet152", "torchvision:resnet152"),
        ("wide_resnet101_2", "torchvision:wide_resnet101_2"),
        ("vgg_small", "vgg-small"),
    ],
)
def test_an_unknown_name_lists_close_ones_and_all_there_are(name: str, hint: str) -> None:
    text = message(ModelError, name)
    assert f"unknown model {name!r}; did you mean" in text
    assert hint in text.partition("There are")[0]
    assert ", ".join([*SMALL, *RESIDUAL, "torchvision:NAME", "package.module:factory"]) in text


def test_a_name_like_nothing_lists_all_there_are() -> None:
    text = message(ModelError, "qqqqqq")
    assert "did you mean" not in text
    assert "conv8" in text


def test_a_factory_of_the_working_directory_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        "from torch import nn\ndef net(num_classes): return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))"
    )
    (tmp_path / "nets_of_test_models.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    check_fits(build("nets_of_test_models:net", input_shape=(1, 8, 8), classes=6), (1, 8, 8), 6)


@pytest.mark.parametrize("width", [0.0, -1.0, float("nan"), float("inf")])
def test_a_width_that_is_no_number_above_zero_is_refused(width: float) -> None:
    assert "width is" in message(ConfigError, "conv2", width=width)


@pytest.mark.parametrize("width", [1e12, 1e20, 1e300])
@pytest.mark.parametrize("name", ["mlp", "vgg-small", "resnet18"])
def test_a_network_too_large_for_any_machine_names_its_width(name: str, width: float) -> None:
    assert f"{name} at width {width:g} cannot be built" in message(ModelError, name, width=width)


@pytest.mark.parametrize("shape", [(3, 32), (0, 8, 8), (1, 8, 8, 8)])
def test_a_shape_that_is_no_image_is_refused(shape: Any) -> None:
    assert "must be (channels, height, width)" in message(ModelError, "mlp", shape)


def test_a_network_without_classes_is_refused() -> None:
    with pytest.raises(ModelError, match="asked for 0 classes"):
        build("mlp", input_shape=(1, 8, 8), classes=0)


def test_the_global_generator_is_not_seeded() -> None:
    torch.manual_seed(1)
    first, second = (next(build("mlp", input_shape=(1, 2, 2), classes=2).parameters()) for _ in range(2))
    assert not torch.equal(first, second)
