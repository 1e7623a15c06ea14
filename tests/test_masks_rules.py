"""Every rule gives masks of the exact count; what each adds to that is its own."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strongticket.errors import ConfigError
from strongticket.masks import RULES, Edges, Moment, Selection, as_rule
from strongticket.masks.threshold import Thresholds
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
        assert int(mask.count_nonzero()) == round(density * scores.numel())
    concluded = rule.conclude({"w": scores}, Selection(density))["w"]
    assert int(concluded.count_nonzero()) == round(density * scores.numel())
    assert concluded.dtype is (torch.uint8 if rule.levels == "coats" else torch.bool)


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


def test_iterand_begins_uniform_within_the_root_of_six_over_fan_in():
    scores = first_scores("iterand", (200, 100))
    assert scores.abs().max() <= math.sqrt(0.06)
    assert scores.std() == pytest.approx(math.sqrt(0.02), rel=0.02)


def test_iterand_keeps_the_largest_scores_signs_included():
    scores = torch.tensor([-5.0, 1.0, 4.0, -2.0])
    for found in (
        as_rule("iterand").conclude({"w": scores}, Selection(0.5)),
        as_rule("iterand").decide(edges_of(scores), Selection(0.5), Moment(0, 1)),
    ):
        assert found["w"].tolist() == [False, True, True, False]


def test_iterand_draws_the_share_of_dropped_edges_every_so_many_steps():
    rule, mask = as_rule("iterand", redraw_every=50, redraw_share=0.2), torch.arange(20_000).reshape(100, 200) % 4 == 0
    for refreshes in (0, 1, 49, 51, 99):
        assert rule.redrawn({"w": mask}, Moment(0, refreshes)) == {}
    first, second, again, other = (
        rule.redrawn({"w": mask}, Moment(seed, refreshes))["w"]
        for seed, refreshes in ((0, 50), (0, 100), (0, 50), (1, 50))
    )
    for chosen in (first, second, other):
        assert not chosen[mask].any()
        assert chosen[~mask].float().mean() == pytest.approx(0.2, abs=0.01)
    assert torch.equal(first, again)
    # Independent of one another: both in 0.04 of the dropped edges.
    assert (first & second)[~mask].float().mean() == pytest.approx(0.04, abs=0.005)
    assert (first & other)[~mask].float().mean() == pytest.approx(0.04, abs=0.005)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_iterand_draws_no_dropped_edge_or_all_at_the_ends_of_its_share(share):
    mask = torch.arange(64) % 2 == 0
    chosen = as_rule("iterand", redraw_every=1, redraw_share=share).redrawn({"w": mask}, Moment(0, 5))["w"]
    assert torch.equal(chosen, ~mask if share else torch.zeros_like(mask))


@pytest.mark.parametrize("coats", [2, 3, 7])
@pytest.mark.parametrize("density", [0.02, 0.3, 1.0])
def test_the_coats_are_the_largest_magnitudes_at_even_steps_of_the_density(coats, density):
    scores = torch.randn(60, 70, generator=torch.Generator().manual_seed(0))
    rule = as_rule("multicoated", coats=coats)
    levels = rule.conclude({"w": scores}, Selection(density))["w"]
    assert torch.equal(levels, rule.decide(edges_of(scores), Selection(density), Moment(0, 3))["w"])
    order = scores.abs().flatten().argsort(descending=True, stable=True)
    expected = torch.zeros(4200, dtype=torch.uint8)
    for coat in range(1, coats + 1):
        expected[order[: max(1, round(density * (coats + 1 - coat) / coats * 4200))]] += 1
    assert torch.equal(levels.flatten(), expected)


@given(
    seed=st.integers(0, 2**16),
    density=st.floats(0.02, 1),
    floor=st.just(0.0) | st.floats(0, 1),
    coats=st.integers(2, 9),
    scale=st.floats(0.01, 100),
)
@settings(max_examples=80, deadline=None)
def test_under_a_global_floor_coats_are_nested_and_the_first_is_the_mask_of_edge_popup(
    seed, density, floor, coats, scale
):
    generator = torch.Generator().manual_seed(seed)
    sizes = {"a": (5, 8), "b": (30,), "c": (2, 3, 40)}
    scores = {name: torch.randn(shape, generator=generator).mul(8).round() for name, shape in sizes.items()}
    scores["b"] *= scale
    selection = Selection(density, "global", floor)
    levels = as_rule("multicoated", coats=coats).conclude(scores, selection)
    mask = as_rule("edge-popup").conclude(scores, selection)
    for name in sizes:
        assert torch.equal(levels[name] > 0, mask[name])
        assert int(levels[name].max()) <= coats
        magnitudes = scores[name].abs()
        for level in range(1, coats):  # who has more coats has no smaller score
            more, fewer = magnitudes[levels[name] > level], magnitudes[levels[name] == level]
            assert not more.numel() or not fewer.numel() or more.min() >= fewer.max()


@pytest.mark.parametrize("selection", [Selection(0.4), Selection(0.4, "global"), Selection(0.4, "global", 0.3)])
def test_coats_that_are_written_to_again_are_those_of_a_plain_selection_in_every_step(selection):
    generator = torch.Generator().manual_seed(2)
    scores = {name: torch.randn(shape, generator=generator) for name, shape in (("a", (8, 6, 3, 3)), ("b", (40, 50)))}
    scores["a"] = scores["a"].mul_(0.2).contiguous(memory_format=torch.channels_last)
    rule, moment = as_rule("multicoated", coats=3), Moment(0, 1)
    edges = {name: edges_of(score)["w"] for name, score in scores.items()}
    decided = []
    for _ in range(40):
        for score in scores.values():
            score.add_(torch.randn(score.shape, generator=generator), alpha=0.02)
        decided.append((rule.decide(edges, selection, moment), rule.conclude(scores, selection)))
    assert all(torch.equal(live[name], plain[name]) for live, plain in decided for name in scores)


def test_coats_remember_their_own_thresholds():
    thresholds, rule = Thresholds(), as_rule("multicoated", coats=3)
    scores = torch.randn(300, 300, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        rule.decide(edges_of(scores), Selection(0.6), Moment(0, 1, thresholds))
    magnitudes = scores.abs().flatten().sort(descending=True).values
    for coat, share in enumerate((0.6, 0.4, 0.2)):
        low, high = thresholds.part(coat).near("w")
        assert low <= magnitudes[round(share * 90_000) - 1] <= high
        assert high - low < 0.01


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("multicoated", {"coats": 1}, r"coats 1 was given; expected a whole number from 2 to 31"),
        ("multicoated", {"coats": 32}, r"coats 32 was given"),
        ("multicoated", {"coats": 2.0}, r"coats 2\.0 was given"),
        ("multicoated", {"coats": True}, r"coats True was given"),
        ("iterand", {"redraw_every": 0}, r"redraw_every 0 was given; expected a number of steps, at least 1"),
        ("iterand", {"redraw_every": 1.5}, r"redraw_every 1\.5 was given"),
        ("iterand", {"redraw_share": -0.1}, r"redraw_share -0\.1 was given; expected a probability from 0 to 1"),
        ("iterand", {"redraw_share": 1.1}, r"redraw_share 1\.1 was given"),
        ("iterand", {"redraw_share": math.nan}, r"redraw_share nan was given"),
        ("iterand", {"redraw_share": "half"}, r"redraw_share 'half' was given"),
        ("edge-popup", {"coats": 3}, r"coats is an option of rule 'multicoated', the rule is 'edge-popup'"),
        ("multicoated", {"redraw_every": 3}, r"redraw_every is an option of rule 'iterand', the rule is 'multicoated'"),
        ("iterand", {"coat": 3}, r"coat is no option of a rule; the options are redraw_every, redraw_share, coats"),
    ],
)
def test_options_that_a_rule_cannot_use_are_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        as_rule(name, **options)


def test_an_option_that_is_none_is_not_given():
    assert as_rule("multicoated", coats=None, redraw_every=None) == as_rule("multicoated")
    assert as_rule("multicoated", coats=5).options() == {"coats": 5}
    assert as_rule("edge-popup").options() == {}


def test_an_unknown_rule_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"'edge-popop' is not known \(did you mean 'edge-popup'\?\)"):
        as_rule("edge-popop")
