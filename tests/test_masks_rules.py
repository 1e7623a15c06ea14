"""Every rule gives masks of the exact count; what each adds to that is its own."""

from __future__ import annotations

import math

import pytest
import torch

from strongticket.errors import ConfigError
from strongticket.masks import RULES, Edges, Moment, Selection, as_rule
from strongticket.weights import Fans

NAMES = sorted(RULES)


def edges_of(scores: torch.Tensor) -> dict[str, Edges]:
    return {"w": Edges(torch.ones_like(scores), scores, torch.ones_like(scores, dtype=torch.bool))}


def first_scores(name: str, shape=(64, 100), *, seed=0, tensor="w", density=0.5) -> torch.Tensor:
    return as_rule(name).initial_scores(seed, tensor, shape, fans=Fans(100, 64), density=density)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("density", [0.01, 0.37, 0.5, 1.0])
def test_every_decision_and_the_conclusion_keep_the_exact_count(name, density):
    rule, scores = as_rule(name), first_scores(name, density=density)
    for refreshes in range(3):
        mask = rule.decide(edges_of(scores), Selection(density), Moment(0, refreshes))["w"]
        assert int(mask.sum()) == round(density * scores.numel())
    assert int(rule.conclude({"w": scores}, Selection(density))["w"].sum()) == round(density * scores.numel())


@pytest.mark.parametrize("name", NAMES)
def test_initial_scores_are_a_function_of_seed_and_name(name):
    assert torch.equal(first_scores(name), first_scores(name))
    assert not torch.equal(first_scores(name), first_scores(name, seed=1))
    assert not torch.equal(first_scores(name), first_scores(name, tensor="v"))
    assert first_scores(name).shape == (64, 100)


@pytest.mark.parametrize("name", NAMES)
def test_the_effective_weight_is_what_kept_edges_carry_and_its_gradient_reaches_every_score(name):
    scores = torch.linspace(-1, 1, 10, requires_grad=True)
    weight, mask = torch.full((10,), -3.0), torch.arange(10) % 2 == 0
    effective = as_rule(name).effective_weight(torch.full((10,), -2.0), weight, scores, mask)
    assert effective.tolist() == [-2.0, 0.0] * 5
    effective.sum().backward()
    assert (scores.grad != 0).all()
    other = torch.linspace(-1, 1, 10, requires_grad=True)
    as_rule(name).effective_weight(torch.full((10,), -2.0), 2 * weight, other, mask).sum().backward()
    assert torch.equal(other.grad, 2 * scores.grad)


def test_edge_popup_begins_uniform_within_one_over_root_fan_in():
    scores = first_scores("edge-popup", (200, 100))
    assert scores.abs().max() <= 0.1
    assert scores.std() == pytest.approx(0.1 / math.sqrt(3), rel=0.02)


def test_edge_popup_keeps_the_largest_magnitudes_whatever_their_sign():
    scores = torch.tensor([-5.0, 1.0, 4.0, -2.0])
    assert as_rule("edge-popup").conclude({"w": scores}, Selection(0.5))["w"].tolist() == [True, False, True, False]


def test_edge_popup_decides_alike_at_every_moment():
    scores = first_scores("edge-popup")
    early, late = (as_rule("edge-popup").decide(edges_of(scores), Selection(0.3), Moment(0, r))["w"] for r in (0, 9))
    assert torch.equal(early, late)


def test_bernoulli_samples_anew_at_every_refresh_and_again_the_same_for_the_same_refresh():
    scores = first_scores("bernoulli")
    first, second, again = (
        as_rule("bernoulli").decide(edges_of(scores), Selection(0.5), Moment(0, r))["w"] for r in (0, 1, 0)
    )
    assert torch.equal(first, again)
    assert 0.4 < (first == second).float().mean() < 0.6


def test_bernoulli_keeps_an_edge_with_the_probability_of_its_logit():
    logits = torch.cat([torch.full((2000,), 2.0), torch.full((2000,), -2.0)])
    rule, counts = as_rule("bernoulli"), torch.zeros(4000)
    for refreshes in range(50):
        counts += rule.decide(edges_of(logits), Selection(0.5), Moment(3, refreshes))["w"]
    expected = 1 / (1 + math.exp(-2.0))
    assert (counts[:2000] / 50).mean() == pytest.approx(expected, abs=0.01)
    assert (counts[2000:] / 50).mean() == pytest.approx(1 - expected, abs=0.01)


def test_bernoulli_concludes_with_the_likeliest_edges():
    scores = torch.tensor([-5.0, 1.0, 4.0, -2.0])
    assert as_rule("bernoulli").conclude({"w": scores}, Selection(0.5))["w"].tolist() == [False, True, True, False]


def test_bernoulli_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    as_rule("bernoulli").decide(edges_of(first_scores("bernoulli")), Selection(0.5), Moment(0, 0))
    assert torch.equal(torch.get_rng_state(), state)


def test_an_unknown_rule_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"'edge-popop' is not known \(did you mean 'edge-popup'\?\)"):
        as_rule("edge-popop")
