"""What is binary is read off a running network, and the network is as it was afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from strongticket import apply, attach, extract
from strongticket.errors import ModelError
from strongticket.evaluate import Layer, layers_of, outputs_of
from strongticket.masks import frozen_weights
from strongticket.weights import BinaryActivation


def of(build: Callable[[], nn.Module], **options: Any) -> nn.Module:
    """A network that carries a ticket."""
    model = build()
    attach(model, **options)
    return apply(extract(model), build())


def inputs_read(model: nn.Module, values: Tensor) -> dict[str, str]:
    return {layer.name: layer.inputs for layer in layers_of(model, values)}


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def signs(*shape: int) -> Tensor:
    return torch.where(noise(*shape) < 0, -1.0, 1.0)


def chain() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),  # 0
        *(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),  # 3
        *(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten()),  # 6
        *(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)),  # 10, 12
    )


def test_an_ordinary_network_is_real_throughout() -> None:
    layers = layers_of(of(chain), noise(2, 1, 8, 8))
    assert layers == [Layer(f"{n}.weight", "real", "real") for n in (0, 3, 6, 10, 12)]


def test_weights_alone_may_be_binary() -> None:
    layers = layers_of(of(chain, binary="weights"), noise(2, 1, 8, 8))
    assert [(layer.weights, layer.inputs) for layer in layers] == [("binary", "real")] * 5


@pytest.mark.parametrize("weights", ["kaiming-normal", "signed-constant"])
def test_the_gain_of_a_layer_is_the_mean_magnitude_of_its_kept_weights(weights: str) -> None:
    model = chain()
    attach(model, binary="weights", density=0.3, weights=weights)
    ticket = extract(model)
    for layer in layers_of(apply(ticket, chain()), None):
        kept = frozen_weights(model)[layer.name].numpy().astype(np.float64)[ticket.masks[layer.name].numpy()]
        assert layer.gain == (pytest.approx(np.abs(kept).mean(), rel=1e-6),)


def test_gains_by_channel_are_told_as_the_least_and_the_largest() -> None:
    model = chain()
    attach(model, binary="weights", gain="channel", density=0.5, weights="kaiming-normal")
    ticket = extract(model)
    for layer in layers_of(apply(ticket, chain()), None):
        weight, mask = frozen_weights(model)[layer.name].double().numpy(), ticket.masks[layer.name].numpy()
        means = [np.abs(w[m]).mean() for w, m in zip(weight, mask, strict=True)]
        assert layer.gain == pytest.approx((min(means), max(means)), rel=1e-6)
        assert layer.gain[0] < layer.gain[1]


def test_a_channel_without_an_edge_has_no_gain() -> None:
    model = nn.Linear(3, 2, bias=False)
    attach(model, binary="weights", gain="channel", weights="kaiming-normal")
    ticket = extract(model)
    ticket.masks["weight"].copy_(torch.tensor([[True, True, True], [False, False, False]]))
    (layer,) = layers_of(apply(ticket, nn.Linear(3, 2, bias=False)), None)
    expected = frozen_weights(model)["weight"][0].abs().double().mean()
    assert layer.gain == pytest.approx((0, float(expected)), rel=1e-6)


@pytest.mark.parametrize("gain", ["layer", "channel"])
def test_the_zero_row_of_an_embedding_is_no_channel(gain: str) -> None:
    model = of(lambda: nn.Embedding(5, 4, padding_idx=1), binary="weights", gain=gain)
    (layer,), (drawn,) = layers_of(model, None), frozen_weights(model).values()
    assert drawn[1].count_nonzero() == 0
    assert layer.gain == (float(drawn[0, 0].abs()),)  # a signed constant: all other rows have one magnitude


def test_a_layer_left_without_a_mask_is_real() -> None:
    model = of(chain, binary="weights", where=["3.weight", "6.weight"])
    layers = {layer.name: layer for layer in layers_of(model, None)}
    assert [name for name, layer in layers.items() if layer.weights == "binary"] == ["3.weight", "6.weight"]
    assert (layers["0.weight"].weights, layers["0.weight"].gain) == ("real", ())


# What a layer reads


def test_signs_are_read_after_an_activation_and_not_after_an_average() -> None:
    read = inputs_read(of(chain, binary="weights+activations"), noise(2, 1, 8, 8))
    assert read == {
        "0.weight": "real",  # the image
        "3.weight": "binary",
        "6.weight": "binary",  # the largest of four signs is a sign
        "10.weight": "real",
        "12.weight": "binary",
    }


def test_activations_chosen_by_name_are_the_binary_ones() -> None:
    read = inputs_read(of(chain, binary="weights+activations", activations="11"), noise(2, 1, 8, 8))
    assert [name for name, values in read.items() if values == "binary"] == ["12.weight"]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(6, 6) for _ in range(3))
        self.act1, self.act2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        once = self.act1(self.first(x))
        twice = self.act2(self.second(once))
        outputs: Tensor = self.third(once + twice)
        return outputs


def test_a_residual_sum_of_signs_is_real() -> None:
    read = inputs_read(of(Residual, binary="weights+activations"), noise(5, 6))
    assert read == {"first.weight": "real", "second.weight": "binary", "third.weight": "real"}


@pytest.mark.parametrize("odd", [0.0, -0.5, 1.0000001, 2.0, float("nan"), float("-inf")])
def test_one_value_besides_one_and_minus_one_makes_an_input_real(odd: float) -> None:
    model, values = of(lambda: nn.Linear(6, 2)), signs(7, 6)
    assert inputs_read(model, values) == {"weight": "binary"}
    values[4, 2] = odd
    assert inputs_read(model, values) == {"weight": "real"}


class Thrice(nn.Module):
    """One layer that reads signs, then something else, then signs again."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.layer, self.factor = nn.Linear(6, 6), factor

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.layer(x) + self.layer(x * self.factor) + self.layer(x)
        return outputs


@pytest.mark.parametrize(("factor", "expected"), [(-1.0, "binary"), (0.5, "real")])
def test_a_layer_that_runs_often_has_to_read_signs_each_time(factor: float, expected: str) -> None:
    assert inputs_read(of(lambda: Thrice(factor)), signs(5, 6)) == {"layer.weight": expected}


class ByName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.layer(input=x)
        return outputs


def test_an_input_given_by_name_is_seen() -> None:
    assert inputs_read(of(ByName), signs(5, 6)) == {"layer.weight": "binary"}
    assert inputs_read(of(ByName), noise(5, 6)) == {"layer.weight": "real"}


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Bilinear(3, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.layer(x[:, :3], x[:, 3:])
        return outputs


def test_both_inputs_of_a_bilinear_layer_count() -> None:
    values = signs(5, 6)
    assert inputs_read(of(Pair), values) == {"layer.weight": "binary"}
    values[:, 3:] *= 0.5
    assert inputs_read(of(Pair), values) == {"layer.weight": "real"}


def test_indices_are_no_signs() -> None:
    assert inputs_read(of(lambda: nn.Embedding(5, 4)), torch.ones(3, 2, dtype=torch.int64)) == {"weight": "real"}


class Attention(nn.Module):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 2)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.zeros(x.shape[1], x.shape[1])
        mixed, _ = self.attention(x, x, x * self.factor, need_weights=False, attn_mask=mask)
        outputs: Tensor = self.head(mixed.mean(1))
        return outputs


def test_what_attention_reads_inside_is_not_seen() -> None:
    expected = {"attention.in_proj_weight": "binary", "attention.out_proj.weight": "not seen", "head.weight": "real"}
    assert inputs_read(of(Attention), signs(2, 4, 6)) == expected
    assert inputs_read(of(Attention), noise(2, 4, 6))["attention.in_proj_weight"] == "real"
    assert inputs_read(of(lambda: Attention(0.5)), signs(2, 4, 6))["attention.in_proj_weight"] == "real"  # the value


class Bypass(nn.Module):
    """Reads the weight of a layer without running the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.layer.weight)


def test_a_layer_whose_own_forward_does_not_run_is_not_seen() -> None:
    (layer,) = layers_of(of(Bypass, binary="weights"), signs(3, 6))
    assert (layer.weights, layer.inputs) == ("binary", "not seen")


def test_the_state_of_a_recurrent_layer_is_not_seen() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.layers = nn.GRUCell(6, 6), nn.LSTM(6, 6, num_layers=2, bidirectional=True)

        def forward(self, x: Tensor) -> Tensor:
            self.cell(x[:, 0])
            outputs: Tensor = self.layers(x)[0]
            return outputs

    read = inputs_read(of(Recurrent), signs(2, 3, 6))
    assert {name for name, values in read.items() if values == "binary"} == {
        "cell.weight_ih",
        "layers.weight_ih_l0",
        "layers.weight_ih_l0_reverse",
    }
    assert {read[name] for name in read.keys() - {"cell.weight_ih"} if "ih_l0" not in name} == {"not seen"}
    assert len(read) == 2 + 2 * 2 * 2


# That nothing remains


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


def test_no_hook_remains_even_if_the_network_fails() -> None:
    model = of(chain)
    layers_of(model, noise(2, 1, 8, 8))
    assert hooks_of(model) == 0
    with pytest.raises(RuntimeError):
        layers_of(model, noise(2, 3, 8, 8))
    assert hooks_of(model) == 0


def test_to_look_changes_no_tensor() -> None:
    model = of(chain, binary="weights+activations").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layers_of(model, noise(2, 1, 8, 8))
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_without_inputs_nothing_is_run_and_nothing_seen() -> None:
    class Never(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError

    assert layers_of(of(Never), None) == [Layer("layer.weight", "real", "not seen")]


def test_a_binary_activation_of_the_network_itself_is_seen_too() -> None:
    model = of(lambda: nn.Sequential(nn.Linear(4, 8), BinaryActivation(), nn.Linear(8, 2)))
    assert inputs_read(model, noise(3, 4)) == {"0.weight": "real", "2.weight": "binary"}


def test_a_layer_is_json() -> None:
    layer = Layer("conv1.weight", "binary", "real", (0.25, 0.5))
    assert json.loads(json.dumps(layer.as_dict())) == {
        "name": "conv1.weight",
        "weights": "binary",
        "inputs": "real",
        "gain": [0.25, 0.5],
    }


def test_a_network_without_a_ticket_is_refused() -> None:
    with pytest.raises(ModelError, match="this model has no masks"):
        layers_of(chain(), None)


def test_outputs_are_binary_only_where_the_last_thing_is_a_sign():
    images = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    assert outputs_of(nn.Linear(6, 2), images) == "real"
    assert outputs_of(nn.Sequential(nn.Linear(6, 2), BinaryActivation()), images) == "binary"
    assert outputs_of(nn.LSTM(6, 2), images) == "not seen"
