"""Selection keeps exactly as many edges as were asked for, whatever the scores look like."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strongticket.errors import ConfigError
from strongticket.masks import Selection, edge_count, select
from strongticket.masks.threshold import Thresholds

densities = st.floats(0.0, 1.0, exclude_min=True)
score_lists = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60)
tied_lists = st.lists(st.sampled_from([-1.0, 0.0, -0.0, 0.5, 2.0]), min_size=1, max_size=60)


def best_positions(values: list[float], kept: int) -> set[int]:
    """The independent formula: sort by score, then by position."""
    return set(sorted(range(len(values)), key=lambda i: (-values[i], i))[:kept])


@given(st.one_of(score_lists, tied_lists), densities)
def test_exactly_k_edges_are_kept_and_they_are_the_best_with_ties_by_position(values, density):
    mask = select({"w": torch.tensor(values)}, density)["w"]
    kept = min(len(values), max(1, round(density * len(values))))
    assert set(torch.nonzero(mask).flatten().tolist()) == best_positions(values, kept)


@given(st.lists(tied_lists, min_size=1, max_size=4), densities)
def test_global_scope_without_a_floor_is_one_selection_over_everything_but_no_layer_dies(layers, density):
    scores = {f"layer{i}": torch.tensor(values) for i, values in enumerate(layers)}
    everything = [value for values in layers for value in values]
    kept = min(len(everything), max(1, round(density * len(everything))))
    masks = select(scores, density, scope="global")
    assert sum(int(m.sum()) for m in masks.values()) == max(kept, len(layers))
    assert all(m.any() for m in masks.values())
    wanted, chosen, start = best_positions(everything, kept), [], 0
    for values in layers:
        chosen.append(len([i for i in wanted if start <= i < start + len(values)]))
        start += len(values)
    if all(chosen):
        flat = torch.cat([masks[name] for name in scores])
        assert set(torch.nonzero(flat).flatten().tolist()) == wanted


def test_the_floor_of_global_scope_holds_in_every_layer_and_the_total_is_exact():
    scores = {"strong": torch.arange(100.0) + 1000, "weak": torch.arange(100.0)}
    masks = select(scores, 0.3, scope="global", floor=0.1)
    assert int(masks["weak"].sum()) == 10
    assert int(masks["strong"].sum()) == 50
    assert masks["weak"][90:].all()
    assert masks["strong"][50:].all()


def test_density_one_keeps_everything_in_both_scopes():
    scores = {"a": torch.zeros(7), "b": torch.full((3,), -5.0)}
    for scope in ("layer", "global"):
        assert all(m.all() for m in select(scores, 1.0, scope=scope).values())


def test_nine_tenths_of_ten_are_nine():
    assert int(select({"w": torch.arange(10.0)}, 0.9)["w"].sum()) == 9


def test_a_count_is_at_least_one_and_at_most_all():
    assert edge_count(1e-9, 5) == 1
    assert edge_count(1.0, 5) == 5
    assert edge_count(0.3, 10) == 3


def test_all_scores_equal_keeps_the_first_positions():
    assert select({"w": torch.full((2, 3), 0.25)}, 0.5)["w"].tolist() == [[True, True, True], [False, False, False]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_dtype_of_the_scores_changes_nothing(dtype):
    values = torch.tensor([0.5, -2.0, 8.0, 0.25, 8.0, 1.0])
    assert select({"w": values.to(dtype)}, 0.5)["w"].tolist() == [False, False, True, False, True, True]


def test_half_precision_ties_are_broken_by_position():
    scores = torch.full((4096,), 0.1, dtype=torch.bfloat16)
    mask = select({"w": scores}, 0.25)["w"]
    assert mask[:1024].all()
    assert not mask[1024:].any()


@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (2, 3, 4, 2, 3)])
def test_the_memory_format_of_the_scores_changes_nothing_and_is_kept(shape):
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(1)).round(decimals=1)
    last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    plain, moved = select({"w": scores}, 0.3)["w"], select({"w": scores.to(memory_format=last)}, 0.3)["w"]
    assert torch.equal(plain, moved)
    assert moved.is_contiguous(memory_format=last)
    assert moved.dtype == torch.bool


def test_a_transposed_tensor_is_ranked_in_its_own_c_order():
    scores = torch.zeros(3, 2).t()
    assert select({"w": scores}, 0.5)["w"].tolist() == [[True, True, True], [False, False, False]]


def test_densities_go_by_the_first_matching_pattern():
    scores = {"conv1.weight": torch.arange(10.0), "conv2.weight": torch.arange(10.0), "fc.weight": torch.arange(10.0)}
    masks = select(scores, {"conv1*": 0.1, "conv*": 0.5, "*": 1.0})
    assert [int(m.sum()) for m in masks.values()] == [1, 5, 10]


def test_selection_leaves_its_input_alone_and_needs_no_gradient():
    scores = torch.arange(6.0, requires_grad=True)
    mask = select({"w": scores}, 0.5)["w"]
    assert not mask.requires_grad
    assert scores.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("position", [0, 50, 99])
def test_a_nan_score_is_refused_wherever_it_stands(scope, position):
    scores = torch.arange(100.0)
    scores[position] = math.nan
    with pytest.raises(ConfigError, match="NaN"):
        select({"w": scores}, 0.1, scope=scope)


def test_infinite_scores_are_ranked():
    scores = torch.tensor([math.inf, -math.inf, 0.0, math.inf])
    assert select({"w": scores}, 0.75)["w"].tolist() == [True, False, True, True]


@pytest.mark.parametrize("density", [0, -0.1, 1.5, math.nan, math.inf, True, "0.5", None])
def test_a_density_outside_its_range_is_refused_with_the_value(density):
    with pytest.raises(ConfigError, match=r"expected a number in \(0, 1\]"):
        select({"w": torch.ones(3)}, density)


def test_a_density_outside_its_range_is_refused_by_its_pattern():
    with pytest.raises(ConfigError, match=r"density of 'fc\*' 2"):
        select({"w": torch.ones(3)}, {"fc*": 2})


def test_a_tensor_without_a_density_is_named():
    with pytest.raises(ConfigError, match="no density is given for 'head'"):
        select({"head": torch.ones(3)}, {"conv*": 0.5})


def test_other_misuse_is_one_line():
    for arguments, words in [
        ({"scope": "row"}, "scope 'row' is not known"),
        ({"scope": "global", "floor": 1.5}, "floor 1.5"),
        ({"floor": 0.1}, "scope 'global' only"),
    ]:
        with pytest.raises(ConfigError, match=words):
            select({"w": torch.ones(3)}, 0.5, **arguments)
    with pytest.raises(ConfigError, match="belong to scope 'layer'"):
        select({"w": torch.ones(3)}, {"*": 0.5}, scope="global")
    with pytest.raises(ConfigError, match="cannot be ranked"):
        select({"w": torch.ones(3, dtype=torch.complex64)}, 0.5)


def test_a_density_that_rounds_to_no_edge_is_refused_by_the_check():
    with pytest.raises(ConfigError, match=r"leaves head \(10 weights\) no edge; .* 0\.05"):
        Selection(0.01).check({"body": 1000, "head": 10})
    Selection(0.05).check({"body": 1000, "head": 10})


def test_floors_beyond_the_global_count_are_refused_by_the_check():
    with pytest.raises(ConfigError, match="keeps 2 edges in all, fewer than"):
        Selection(0.02, "global").check({"a": 50, "b": 25, "c": 25})


def test_a_pattern_that_matches_nothing_is_refused_by_the_check():
    with pytest.raises(ConfigError, match="'cnv1' matches no tensor; there are conv1"):
        Selection({"cnv1": 0.5, "*": 0.1}).check({"conv1": 100})


@given(st.integers(2, 400), densities, st.integers(0, 2**31))
def test_the_path_of_a_gpu_and_that_of_a_cpu_agree(size, density, seed):
    from strongticket.masks import selection

    scores = torch.randint(0, 9, (size,), generator=torch.Generator().manual_seed(seed)).float()
    kept = edge_count(density, size)
    assert torch.equal(selection._top_on_device(scores, kept, "w"), selection.top(scores, kept))


def test_the_path_of_a_gpu_refuses_nan():
    from strongticket.masks import selection

    with pytest.raises(ConfigError, match="conv1: a score is NaN"):
        selection._top_on_device(torch.tensor([1.0, math.nan]), 1, "conv1")


@given(st.lists(tied_lists, min_size=1, max_size=4), densities, st.floats(0, 1), st.sampled_from(["layer", "global"]))
def test_magnitudes_are_selected_as_absolute_values_are(layers, density, floor, scope):
    scores = {f"layer{i}": torch.tensor(values) for i, values in enumerate(layers)}
    selection = Selection(density, scope, floor if scope == "global" else 0.0)
    ours = selection.masks(scores, magnitudes=True)
    absolute = selection.masks({name: s.abs() for name, s in scores.items()})
    assert all(torch.equal(ours[name], absolute[name]) for name in scores)


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("magnitudes", [False, True])
@pytest.mark.parametrize("is_live", [False, True])
def test_what_is_remembered_changes_no_mask_in_a_long_search(scope, magnitudes, is_live):
    generator = torch.Generator().manual_seed(0)
    shapes = {"conv": (64, 32, 6, 6), "fc": (40, 50), "head": (10, 30)}
    scores = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    scores["conv"] = scores["conv"].to(memory_format=torch.channels_last)
    thresholds = Thresholds()
    live = {name: torch.empty_like(s, dtype=torch.bool) for name, s in scores.items()} if is_live else None
    for step in range(30):
        selection = Selection(0.5 if step < 15 else 0.8 - step / 50, scope)  # the last half is a ramp
        remembered = selection.masks(scores, magnitudes=magnitudes, thresholds=thresholds, into=live)
        for name, mask in plainly_selected(scores, selection, magnitudes).items():
            assert torch.equal(remembered[name], mask)
        rate = 0.0 if step % 7 == 0 else 0.3 * 0.85**step
        for score in scores.values():
            score += rate * torch.randn(score.shape, generator=generator)


def plainly_selected(scores, selection, magnitudes):
    """The independent formula: a stable full sort, of each layer or of everything."""
    ranked = {name: (s.abs() if magnitudes else s).flatten().numpy() for name, s in scores.items()}

    def best(values):
        mask = np.zeros(values.size, dtype=bool)
        mask[np.argsort(-values, kind="stable")[: round(selection.density * values.size)]] = True
        return mask

    if selection.scope == "layer":
        masks = {name: best(values) for name, values in ranked.items()}
    else:
        ends = np.cumsum([values.size for values in ranked.values()])[:-1]
        masks = dict(zip(ranked, np.split(best(np.concatenate(list(ranked.values()))), ends), strict=True))
    return {name: torch.from_numpy(mask).view(scores[name].shape) for name, mask in masks.items()}


def live_scores(kind: str, seed: int) -> torch.Tensor:
    """Scores of several hundred edges, on few levels so that many are tied."""
    scores = torch.randint(-9, 10, (8, 6, 3, 3), generator=torch.Generator().manual_seed(seed)).float()
    return {
        "C order": scores,
        "channels last": scores.to(memory_format=torch.channels_last),
        "half": scores.bfloat16(),
        "double": scores.double(),
        "transposed": scores.transpose(0, 1),
        "with gaps": scores[:, ::2],
    }[kind]


LIVE = ["C order", "channels last", "half", "double", "transposed", "with gaps"]


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("kind", LIVE)
def test_masks_that_are_written_to_are_those_that_are_returned_anew(kind, scope):
    selection, thresholds = Selection(density=0.3, scope=scope), Thresholds()
    scores = {"one": live_scores(kind, 1), "other": live_scores("C order", 2)}
    live = {name: torch.ones_like(s, dtype=torch.bool) for name, s in scores.items()}
    for step in range(4):
        masks = selection.masks(scores, magnitudes=True, thresholds=thresholds, into=live)
        expected = selection.masks({name: s.clone() for name, s in scores.items()}, magnitudes=True)
        for name, mask in masks.items():
            assert torch.equal(mask, expected[name])
        assert masks["other"] is live["other"]
        for s in scores.values():
            s += step + 1
        if step == 1:  # a tensor moves to other memory, and its mask stays where it is
            scores["one"] = scores["one"].clone(memory_format=torch.contiguous_format)
        if step == 2:
            live["other"] = torch.ones_like(live["other"])


@pytest.mark.parametrize("kind", ["C order", "channels last", "double", "transposed"])
def test_a_mask_that_lies_in_memory_as_its_scores_do_is_written_to(kind):
    scores = live_scores(kind, 1)
    live = torch.ones_like(scores, dtype=torch.bool)
    assert Selection(density=0.3).masks({"w": scores}, into={"w": live})["w"] is live
    assert int(live.sum()) == round(0.3 * scores.numel())


@pytest.mark.parametrize("live", [torch.ones(6, 4, dtype=torch.bool).T, torch.ones(4, 6, dtype=torch.uint8)])
def test_a_mask_that_cannot_be_written_so_is_left_alone(live):
    scores = torch.randn(4, 6)
    mask = Selection(density=0.5).masks({"w": scores}, into={"w": live})["w"]
    assert torch.equal(mask, select({"w": scores}, 0.5)["w"])
    assert live.all()


def test_a_density_that_changes_is_kept_to_though_nothing_moved():
    scores, thresholds = {"w": torch.randn(40, 25)}, Thresholds()
    live = {"w": torch.ones(40, 25, dtype=torch.bool)}
    for density in (0.9, 0.5, 0.5, 0.1):
        Selection(density=density).masks(scores, thresholds=thresholds, into=live)
        assert torch.equal(live["w"], select(scores, density)["w"])


@pytest.mark.gpu
def test_a_gpu_selects_what_the_cpu_selects():
    scores = torch.randint(0, 1000, (1_000_003,), generator=torch.Generator().manual_seed(0)).float()
    for density in (0.01, 0.5, 0.99):
        here, there = select({"w": scores}, density)["w"], select({"w": scores.cuda()}, density)["w"]
        assert torch.equal(here, there.cpu())
