"""Each control differs from its ticket in one thing, and in that one it does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from strongticket import apply, attach, extract, refresh
from strongticket.errors import ConfigError
from strongticket.evaluate.controls import CONTROLS, check_controls, control_ticket
from strongticket.masks import as_rule, edges, frozen_weights
from strongticket.weights import BinaryActivation


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 40))


@pytest.fixture
def ticket():
    model = network()
    attach(model, density=0.3, seed=4)
    with torch.no_grad():  # as if a search had been there
        for edge in edges(model).values():
            edge.scores.copy_(torch.rand(edge.scores.shape, generator=torch.Generator().manual_seed(9)))
    return extract(model)


def counts(ticket) -> list[int]:
    return [int(mask.sum()) for mask in ticket.masks.values()]


@pytest.mark.parametrize("name", ["random", "shuffled", "redrawn", "initial"])
def test_the_counts_of_every_layer_are_the_tickets(ticket, name):
    assert counts(control_ticket(name, ticket, network(), 0)) == counts(ticket)


@pytest.mark.parametrize("name", ["random", "shuffled", "initial"])
def test_new_masks_are_on_the_tickets_weights_and_depend_on_the_seed(ticket, name):
    first, again, second = (control_ticket(name, ticket, network(), seed) for seed in (0, 0, 1))
    assert first.weights_digest == ticket.weights_digest
    for tensor, mask in ticket.masks.items():
        assert torch.equal(first.masks[tensor], again.masks[tensor])
        assert not torch.equal(first.masks[tensor], second.masks[tensor])
        assert not torch.equal(first.masks[tensor], mask)


@pytest.mark.parametrize("name", ["random", "shuffled"])
def test_two_layers_of_one_shape_get_different_masks(ticket, name):
    masks = control_ticket(name, ticket, network(), 0).masks
    assert not torch.equal(masks["0.weight"], masks["4.weight"])


def test_a_random_mask_is_independent_of_the_found_one(ticket):
    masks = control_ticket("random", ticket, network(), 0).masks
    both = sum(int((masks[name] & mask).sum()) for name, mask in ticket.masks.items())
    assert both / ticket.total == pytest.approx(0.09, abs=0.02)


@pytest.mark.parametrize("seed", [0, 4])
def test_redrawn_weights_are_new_whatever_the_seed_and_lie_under_the_same_mask(ticket, seed):
    redrawn = control_ticket("redrawn", ticket, network(), seed)
    assert all(torch.equal(redrawn.masks[n], m) for n, m in ticket.masks.items())
    ours, theirs = frozen_weights(apply(ticket, network())), frozen_weights(apply(redrawn, network()))
    assert all(0.4 < (ours[n] == theirs[n]).float().mean() < 0.6 for n in ours)


def test_inverted_masks_are_the_complement(ticket):
    inverted = control_ticket("inverted", ticket, network(), 0)
    assert all(torch.equal(inverted.masks[n], ~m) for n, m in ticket.masks.items())


def test_inverting_a_layer_that_keeps_everything_is_refused():
    model = network()
    attach(model, density={"0*": 1.0, "*": 0.5})
    with pytest.raises(ConfigError, match=r"keeps every edge of 0\.weight"):
        control_ticket("inverted", extract(model), network(), 0)


def test_the_initial_masks_of_the_tickets_seed_are_those_its_search_began_with(ticket):
    model = network()
    attach(model, density=0.3, seed=4)
    began = extract(model).masks
    initial = control_ticket("initial", ticket, network(), 4).masks
    assert all(torch.equal(initial[n], m) for n, m in began.items())


def test_the_initial_masks_follow_scope_and_densities_by_name():
    for options in ({"density": 0.2, "scope": "global", "floor": 0.05}, {"density": {"0*": 0.5, "*": 0.1}}):
        model = network()
        attach(model, seed=7, **options)
        found = extract(model)
        initial = control_ticket("initial", found, network(), 7).masks
        assert all(torch.equal(initial[n], m) for n, m in found.masks.items())


def test_an_untrained_control_is_dense_and_new(ticket):
    untrained = control_ticket("untrained", ticket, network(), 0)
    assert untrained.density == 1
    assert untrained.weights_digest != ticket.weights_digest


@pytest.mark.parametrize("name", [name for name in CONTROLS if name != "trained"])
def test_the_controls_of_a_binary_ticket_are_binary_with_gains_of_their_own(name):
    model = network()
    options = {"binary": "weights+activations", "activation_gradient": "clipped-identity"}
    attach(model, density=0.3, seed=4, weights="kaiming-normal", **options)
    found = extract(model)
    control = control_ticket(name, found, network(), 0)
    assert control.binary == found.binary
    applied = apply(control, network())
    assert [type(applied[n]) for n in (1, 3)] == [BinaryActivation] * 2
    assert [applied[n].gradient for n in (1, 3)] == ["clipped-identity"] * 2
    hidden = applied[1](applied[0](torch.randn(9, 20, generator=torch.Generator().manual_seed(0))))
    assert sorted(hidden.unique().tolist()) == [-1, 1]
    for n in (0, 2, 4):
        drawn, mask = frozen_weights(applied)[f"{n}.weight"].double().numpy(), control.masks[f"{n}.weight"].numpy()
        alpha = np.abs(drawn[mask]).mean()
        expected = np.where(mask, np.where(drawn < 0, -alpha, alpha), 0)
        np.testing.assert_allclose(applied[n].weight.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "rule", [as_rule("multicoated", coats=3), as_rule("iterand", redraw_every=1, redraw_share=0.5)]
)
@pytest.mark.parametrize("name", [name for name in CONTROLS if name != "trained"])
def test_the_controls_of_a_ticket_with_levels_have_levels_and_weights_that_can_be_drawn(name, rule):
    model = network()
    attach(model, density=0.3, seed=4, rule=rule, weights="kaiming-normal")
    for step in range(5):
        with torch.no_grad():
            for edge in edges(model).values():
                edge.scores.copy_(torch.rand(edge.scores.shape, generator=torch.Generator().manual_seed(step)))
        refresh(model)
    found = extract(model)
    control = control_ticket(name, found, network(), 0)
    assert control.levels == found.levels
    apply(control, network())  # draws its weights and compares their digest
    for tensor, mask in found.masks.items():
        levels, before = control.masks[tensor], torch.bincount(mask.flatten(), minlength=256).tolist()
        assert levels.dtype is torch.uint8
        after = torch.bincount(levels.flatten(), minlength=256).tolist()
        if name in ("random", "shuffled", "redrawn"):
            assert after == before
            assert torch.equal(levels, mask) == (name == "redrawn")
        elif name == "inverted":
            assert torch.equal(levels, (mask == 0).to(torch.uint8))
        elif name == "untrained":
            assert levels.unique().tolist() == [1]
        else:
            assert after == (before if found.levels == "coats" else [before[0], 800 - before[0]] + [0] * 254)


def test_an_unknown_control_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"'shufled' is not known \(did you mean 'shuffled'\?\)"):
        check_controls(("random", "shufled"))
    check_controls(tuple(CONTROLS))
