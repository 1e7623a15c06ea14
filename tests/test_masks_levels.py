"""Masks with levels: coats, for each of which an edge carries its weight, and weights that were drawn anew."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from strongticket import SearchConfig, apply, attach, bake, extract, refresh, search
from strongticket.masks import (
    Rule,
    as_rule,
    attachment_of,
    concluded_masks,
    drawn_digest,
    draws_in,
    edges,
    fix,
    frozen_weights,
    redraw,
    weights_digest,
)
from strongticket.weights import LAWS, WeightLaw, draw, uniforms

COATED, DRAWN = as_rule("multicoated", coats=3), as_rule("iterand", redraw_every=2, redraw_share=0.5)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 4)).eval()


def attached(rule: Rule, **options) -> nn.Sequential:
    model = network()
    attach(model, **{"density": 0.4, "rule": rule, "weights": "kaiming-normal", **options})
    return model


@torch.no_grad()
def shuffle_scores(model: nn.Module, seed: int) -> None:
    for name, edge in edges(model).items():
        unit = torch.from_numpy(uniforms(seed, name, edge.scores.numel()))
        edge.scores.copy_(2 * unit.reshape(edge.scores.shape) - 1)


def searched(rule: Rule, steps: int = 7, **options) -> nn.Sequential:
    """A network whose scores were shuffled before each of some refreshes."""
    model = attached(rule, **options)
    for step in range(steps):
        shuffle_scores(model, step)
        refresh(model)
    return model


def inputs() -> torch.Tensor:
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


def draws_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: model[int(name[0])].parametrizations.weight[0].draws for name in edges(model)}


def test_the_draws_in_a_mask_are_one_below_its_levels_and_none_where_it_drops():
    mask = torch.tensor([[0, 1, 2], [255, 0, 1]], dtype=torch.uint8)
    assert draws_in(mask).tolist() == [[0, 0, 1], [254, 0, 0]]
    assert draws_in(mask).dtype is torch.uint8


# Coats.


@pytest.mark.parametrize("binary", ["none", "weights"])
def test_an_edge_carries_its_weight_once_for_each_coat(binary):
    model = searched(COATED, binary=binary)
    for name, mask in concluded_masks(model).items():
        weight = frozen_weights(model)[name].double()
        carried = weight
        if binary == "weights":
            gain = weight.abs()[mask > 0].mean()
            carried = torch.where(weight >= 0, gain, -gain)
        effective = model[int(name[0])].weight.double()
        assert mask.unique().tolist() == [0, 1, 2, 3]
        torch.testing.assert_close(effective, carried * mask, rtol=1e-6, atol=0)
        assert not torch.signbit(effective[mask == 0]).any()


@torch.no_grad()
@pytest.mark.parametrize("value", [1e6, -1e6, float("inf"), float("nan")])
def test_a_dropped_weight_changes_no_bit_and_a_kept_one_does(value):
    for rule in (COATED, DRAWN):
        model = searched(rule)
        before = model(inputs())
        for edge in edges(model).values():
            edge.weight[edge.mask == 0] = value
        assert torch.equal(model(inputs()), before)
        for edge in edges(model).values():
            edge.weight[edge.mask > 0] = value
        assert not torch.equal(model(inputs()), before)


# Draws.


def test_dropped_edges_are_drawn_anew_when_it_is_time_and_kept_ones_never():
    model = attached(DRAWN)
    before = {name: weight.clone() for name, weight in frozen_weights(model).items()}
    refresh(model)
    assert all(torch.equal(frozen_weights(model)[name], weight) for name, weight in before.items())
    refresh(model)  # the third: two have been before
    for name, edge in edges(model).items():
        drawn = draws_of(model)[name] > 0
        assert not drawn[edge.mask].any()
        assert 0.3 < drawn[~edge.mask].float().mean() < 0.7
        changed = frozen_weights(model)[name] != before[name]
        assert torch.equal(changed, drawn)


@pytest.mark.parametrize("law", sorted(LAWS))
def test_every_weight_is_the_draw_that_it_is_said_to_be(law):
    model = searched(DRAWN, 12, weights=law)
    fans = {"0.weight": 6, "3.weight": 20}
    for name, draws in draws_of(model).items():
        shape, tensor = tuple(draws.shape), attachment_of(model).tensors[name]
        streams = [draw(WeightLaw(law), 0, name, shape, scale=tensor.scale)]
        for number in range(1, int(draws.max()) + 1):
            streams.append(draw(WeightLaw(law), 0, f"{name}:draw:{number}", shape, scale=tensor.scale))
        assert len(streams) > 3
        expected = np.take_along_axis(np.stack(streams), draws.numpy()[None].astype(np.int64), 0)[0]
        assert torch.equal(frozen_weights(model)[name], torch.from_numpy(expected))
        if law == "signed-constant":
            assert tensor.scale == pytest.approx((2 / fans[name]) ** 0.5)


def test_the_weights_are_what_the_seed_gives_until_something_else_writes_to_them():
    model = searched(DRAWN)
    assert weights_digest(model) == drawn_digest(model)
    with torch.no_grad():
        edges(model)["0.weight"].weight[0, 0] += 1
    assert weights_digest(model) != drawn_digest(model)
    redraw(model)
    assert weights_digest(model) == drawn_digest(model)


def test_a_ticket_holds_the_draws_of_kept_edges_and_forgets_those_of_dropped_ones():
    model = searched(DRAWN)
    shuffle_scores(model, 99)  # so that edges are kept that were drawn anew
    live, draws = edges(model), {name: value.clone() for name, value in draws_of(model).items()}
    ticket = extract(model)
    assert ticket.levels == "draws"
    for name, mask in ticket.masks.items():
        assert mask.dtype is torch.uint8
        assert int((mask > 0).sum()) == round(0.4 * mask.numel())
        assert torch.equal(mask[mask > 0], draws[name][mask > 0] + 1)
        assert (mask > 1).any()
    effective = {name: torch.where(ticket.masks[name] > 0, edge.weight, 0) for name, edge in live.items()}
    again = apply(ticket, network())
    for name, weight in effective.items():
        assert torch.equal(again[int(name[0])].weight, weight)
    first = frozen_weights(attached(DRAWN))
    for name, weight in frozen_weights(again).items():
        dropped = ticket.masks[name] == 0
        assert torch.equal(weight[dropped], first[name][dropped])
    assert weights_digest(again) == ticket.weights_digest == drawn_digest(again)


def test_draws_end_with_the_last_level_there_is():
    model = attached(as_rule("iterand", redraw_every=1, redraw_share=1.0))
    for draws in draws_of(model).values():
        draws.fill_(253)
    for _ in range(3):
        refresh(model)
    for name, edge in edges(model).items():
        assert draws_of(model)[name][~edge.mask].unique().tolist() == [254]
    assert weights_digest(model) == drawn_digest(model)


def test_the_padding_row_of_an_embedding_stays_zero_however_often_it_is_drawn():
    model = nn.Sequential(nn.Embedding(8, 6, padding_idx=2))
    attach(model, rule=as_rule("iterand", redraw_every=1, redraw_share=1.0), weights="kaiming-normal")
    for step in range(4):
        shuffle_scores(model, step)
        refresh(model)
    assert edges(model)["0.weight"].weight[2].tolist() == [0.0] * 6


# Both.


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("binary", ["none", "weights"])
@pytest.mark.parametrize("rule", [COATED, DRAWN], ids=["coats", "draws"])
def test_what_is_searched_fixed_baked_copied_and_rebuilt_computes_alike(rule, binary, scope):
    model = searched(rule, binary=binary, scope=scope)
    ticket, plain, twin = extract(model), bake(model), copy.deepcopy(model)
    assert int(sum(mask.count_nonzero() for mask in ticket.masks.values())) == ticket.kept == round(0.4 * 200)
    fix(model)
    again = apply(ticket, network())
    expected = model(inputs())
    assert torch.equal(plain(inputs()), expected)
    assert torch.equal(again(inputs()), expected)
    assert torch.equal(bake(again)(inputs()), expected)
    assert set(plain.state_dict()) == set(network().state_dict())
    fix(twin)
    assert torch.equal(twin(inputs()), expected)
    found = extract(again)
    assert found.weights_digest == ticket.weights_digest
    assert found.levels == ticket.levels
    assert all(torch.equal(found.masks[name], mask) for name, mask in ticket.masks.items())


@pytest.mark.parametrize("rule", [COATED, DRAWN], ids=["coats", "draws"])
def test_a_network_with_levels_compiles_as_one_graph_before_and_after_the_search(rule):
    model = searched(rule)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    compiled.train()(inputs()).sum().backward()
    assert all(edge.scores.grad is not None for edge in edges(model).values())
    fix(model)
    torch._dynamo.reset()
    found = torch.compile(model.eval(), fullgraph=True, backend="aot_eager")(inputs())
    torch.testing.assert_close(found, model(inputs()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rule", [COATED, DRAWN], ids=["coats", "draws"])
def test_the_options_of_a_rule_are_in_its_ticket(rule):
    assert rule.options().items() <= extract(attached(rule)).search.items()


def test_a_search_with_levels_keeps_the_ticket_of_its_best_epoch():
    batches = [(torch.randn(16, 6, generator=torch.Generator().manual_seed(n)), torch.arange(16) % 4) for n in range(4)]
    config = SearchConfig(epochs=5, learning_rate=0.5, device="cpu", precision="fp32")
    for rule in (COATED, DRAWN):
        model = attached(rule)
        ticket = search(model, batches, config, validation=batches).ticket
        again = apply(ticket, network())
        assert torch.equal(again(inputs()), model(inputs()))
        assert weights_digest(model) == ticket.weights_digest
