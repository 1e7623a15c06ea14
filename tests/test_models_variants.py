"""What a network of this library is built with."""

from __future__ import annotations

import pytest
from torch import nn

from strongticket.errors import ConfigError
from strongticket.models.variants import ACTIVATIONS, check_norm, find_activation
from strongticket.weights import BinaryActivation


def test_none_is_relu() -> None:
    assert find_activation(None) is find_activation("relu") is ACTIVATIONS["relu"]


@pytest.mark.parametrize(
    ("name", "order", "kind"),
    [
        ("relu", ["norm", "relu_conv1", "pool"], nn.ReLU),
        ("silu", ["norm", "silu_conv1", "pool"], nn.SiLU),
        ("binary", ["pool", "norm", "sign_conv1"], BinaryActivation),
    ],
)
def test_an_activation_decides_where_the_pool_stands(name: str, order: list[str], kind: type[nn.Module]) -> None:
    norm, pool = nn.BatchNorm2d(2), nn.MaxPool2d(2)
    layers = find_activation(name).following("_conv1", norm={"norm": norm}, pool={"pool": pool})
    assert list(layers) == order
    assert layers["norm"] is norm
    assert layers["pool"] is pool
    (activation,) = (layer for key, layer in layers.items() if key.endswith("_conv1"))
    assert type(activation) is kind


def test_two_activations_are_two_modules() -> None:
    activation = find_activation("binary")
    assert activation.named("1")["sign1"] is not activation.named("1")["sign1"]


def test_unknown_names_are_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"activation is 'sign'; it must be one of relu, silu, binary"):
        find_activation("sign")
    with pytest.raises(ConfigError, match=r"norm is 'layer'; it must be one of none, batch"):
        check_norm("layer")
