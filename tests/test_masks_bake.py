"""Baked networks are ordinary networks that compute the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from strongticket import attach, bake
from strongticket.masks import FixedMask, Supermask, edges, fix


@pytest.mark.parametrize("binary", ["none", "weights"])
@pytest.mark.parametrize("fixed", [False, True])
def test_a_baked_network_has_no_trace_of_masks_and_the_same_outputs(fixed, binary):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3)).eval()
    names = set(model.state_dict())
    attach(model, density=0.4, weights="kaiming-normal", binary=binary)
    masks = {name: edge.mask.clone() for name, edge in edges(model).items()}
    if fixed:
        fix(model)
    plain = bake(model)
    inputs = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(plain(inputs), model(inputs))
    assert set(plain.state_dict()) == names
    assert [type(m) for m in plain] == [nn.Conv2d, nn.BatchNorm2d, nn.Flatten, nn.Linear]
    assert not any(isinstance(m, Supermask | FixedMask) for m in plain.modules())
    for name, mask in masks.items():
        weight = plain.state_dict()[name]
        assert ((weight != 0) == mask).all()
        assert not torch.signbit(weight[~mask]).any()
        assert (weight[mask].abs().unique().numel() == 1) == (binary == "weights")


def test_baking_leaves_the_masked_model_as_it_was():
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 2))
    attach(model)
    inputs = torch.ones(1, 5)
    before = model(inputs)
    bake(model)
    assert torch.equal(model(inputs), before)
    assert edges(model).keys() == {"0.weight", "1.weight"}


def test_a_baked_recurrent_layer_can_be_copied_and_converted():
    import copy

    model = nn.LSTM(4, 6, num_layers=2, batch_first=True)
    attach(model)
    inputs = torch.randn(2, 5, 4)
    model(inputs)[0].sum().backward()
    plain = copy.deepcopy(bake(model))
    assert type(plain) is nn.LSTM
    assert torch.equal(plain(inputs)[0], model(inputs)[0])
    assert plain.double()(inputs.double())[0].dtype == torch.float64
