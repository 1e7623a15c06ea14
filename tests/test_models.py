"""A network from its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from strongticket.errors import ConfigError, ModelError, StrongTicketError
from strongticket.models import available, build, check_fits

CIFAR = (3, 32, 32)


def message(error: type[StrongTicketError], name: str, shape: tuple[int, int, int] = CIFAR, **options: Any) -> str:
    with pytest.raises(error) as caught:
        build(name, input_shape=shape, classes=10, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_built_in_network_is_listed_and_can_be_built() -> None:
    names = [name for name in available() if ":" not in name]
    assert names == ["mlp", "conv2", "conv4", "conv6", "conv8"]
    for name in names:
        check_fits(build(name, input_shape=CIFAR, classes=4, width=0.05, norm="batch"), CIFAR, 4)
    assert all(description and "\n" not in description for description in available().values())


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


@pytest.mark.parametrize(("name", "hint"), [("conv5", "conv"), ("MLP", "mlp"), ("resnet18", "torchvision:resnet18")])
def test_an_unknown_name_lists_close_ones_and_all_there_are(name: str, hint: str) -> None:
    text = message(ModelError, name)
    assert f"unknown model {name!r}; did you mean" in text
    assert hint in text.partition("There are")[0]
    assert "mlp, conv2, conv4, conv6, conv8, torchvision:NAME, package.module:factory" in text


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


def test_a_network_too_large_for_any_machine_names_its_width() -> None:
    assert "mlp at width 1e+12 cannot be built" in message(ModelError, "mlp", width=1e12)


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
