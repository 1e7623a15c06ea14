"""What a mask lets through when weights are binary: α · sign(w) on kept edges, and α follows the mask everywhere."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from strongticket import attach, bake, refresh
from strongticket.masks import FixedMask, Supermask, as_rule, concluded, concluded_masks, edges, fix, frozen_weights
from strongticket.weights import LAWS, GainGroups

ROWS = GainGroups((2, 1, 1, 3))
WEIGHT = [[1.0, -2.0, 0.5], [-0.25, 4.0, -0.0]]
KEPT = [[True, True, False], [False, True, True]]
CARRIED = [[1.5, -1.5, 0.0], [0.0, 2.0, 2.0]]  # by hand: (1 + 2) / 2 and (4 + 0) / 2; zero counts as positive


def masks(weight: torch.Tensor, groups: GainGroups | None) -> list[Supermask | FixedMask]:
    mask = torch.tensor(KEPT)
    learned = Supermask(torch.zeros_like(weight), as_rule("edge-popup"), weight, groups)
    learned.put(mask, weight)
    return [learned, FixedMask(mask, weight, groups)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("which", [0, 1])
def test_a_kept_edge_carries_its_sign_times_the_gain_and_a_dropped_one_plus_zero(which, dtype):
    weight = torch.tensor(WEIGHT, dtype=dtype)
    before = weight.clone()
    effective = masks(weight, ROWS)[which](weight)
    assert effective.dtype == dtype
    assert effective.tolist() == CARRIED
    assert not torch.signbit(effective[effective == 0]).any()
    assert torch.equal(weight, before)


@pytest.mark.parametrize("which", [0, 1])
def test_without_groups_a_kept_edge_carries_its_weight(which):
    weight = torch.tensor(WEIGHT)
    module = masks(weight, None)[which]
    assert module.gain is None
    assert module(weight).tolist() == [[1.0, -2.0, 0.0], [0.0, 4.0, 0.0]]


@pytest.mark.parametrize("which", [0, 1])
def test_a_signed_constant_is_binary_as_it_is_and_needs_no_gain(which):
    weight = 0.3 * torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, 1.0]])
    module = masks(weight, ROWS)[which]
    assert module.gain is None
    assert torch.equal(module(weight), torch.where(torch.tensor(KEPT), weight, 0))


@pytest.mark.parametrize("which", [0, 1])
def test_the_gain_changes_with_the_mask_and_only_then(which):
    weight = torch.tensor(WEIGHT)
    module = masks(weight, ROWS)[which]
    assert module.gain.tolist() == [[1.5], [2.0]]
    module.mask.fill_(True)
    assert module.gain.tolist() == [[1.5], [2.0]]
    module.put(torch.tensor([[False, True, False], [True, True, False]]), weight)
    assert module.gain.tolist() == [[2.0], [2.125]]
    assert module(weight).tolist() == [[0.0, -2.0, 0.0], [-2.125, 2.125, 0.0]]


@pytest.mark.parametrize("written", ["in place", "copied"])
def test_a_backward_pass_through_a_mask_that_has_changed_since_is_refused(written):
    weight, mask = torch.ones(4), torch.ones(4, dtype=torch.bool)
    module = FixedMask(mask, weight, None)
    learned = torch.ones(4, requires_grad=True)
    output = torch.where(module.mask, learned.exp(), 0).sum()
    if written == "in place":
        module.mask.numpy()[0] = False
        module.put(module.mask, weight)
    else:
        module.put(torch.tensor([False, True, True, True]), weight)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward()


def test_the_state_of_a_mask_is_its_buffers_and_the_scores_of_a_search():
    weight = torch.tensor(WEIGHT)
    learned, fixed = masks(weight, ROWS)
    assert set(learned.state_dict()) == {"scores", "mask", "gain"}
    assert set(fixed.state_dict()) == {"mask", "gain"}
    assert set(masks(weight, None)[1].state_dict()) == {"mask"}


@pytest.mark.parametrize("rule", ["edge-popup", "bernoulli"])
def test_the_scores_get_the_gradient_of_the_real_weight_and_nothing_else_gets_any(rule):
    rng = np.random.default_rng(0)
    weight, scores, upstream = (rng.standard_normal((2, 3)).astype(np.float32) for _ in range(3))
    frozen = torch.from_numpy(weight).requires_grad_()
    module = Supermask(torch.from_numpy(scores), as_rule(rule), frozen, ROWS)
    module.put(torch.tensor(KEPT), frozen)
    effective = module(frozen)
    assert not np.allclose(effective.detach().numpy(), np.where(KEPT, weight, 0))
    effective.backward(torch.from_numpy(upstream))
    p = 1 / (1 + np.exp(-scores.astype(np.float64)))
    slope = np.sign(scores) if rule == "edge-popup" else p * (1 - p)
    np.testing.assert_allclose(module.scores.grad.numpy(), slope * weight * upstream, rtol=1e-5)
    assert frozen.grad is None
    assert module.gain.grad is None
    assert not module.gain.requires_grad


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, groups=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 3, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, 3),
    ).eval()


def images() -> torch.Tensor:
    return torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(0))


def attached(**options) -> nn.Sequential:
    model = network()
    attach(model, **{"density": 0.4, "weights": "kaiming-normal", "binary": "weights", **options})
    return model


def expected(name: str, weight: np.ndarray, mask: np.ndarray, gain: str) -> np.ndarray:
    """Return {−α, +0, +α} by plain numpy means; the transposed layer 3 has its outputs in dimension 1 of 2 groups."""
    carried = np.zeros_like(weight)
    if gain == "layer":
        parts = [...]
    elif name == "3.weight":
        parts = [(slice(3 * group, 3 * group + 3), output) for group in range(2) for output in range(2)]
    else:
        parts = list(range(len(weight)))
    for part in parts:
        w, m = weight[part].astype(np.float64), mask[part]
        alpha = np.abs(w[m]).mean() if m.any() else 0.0
        carried[part] = np.where(m, np.where(w >= 0, alpha, -alpha), 0.0)
    return carried


def assert_binary(model: nn.Module, masks: dict[str, torch.Tensor], gain: str, plain: nn.Module | None = None) -> None:
    """Check every weight that ``plain`` computes with, ``model`` itself by default, against the numpy means."""
    for name, weight in frozen_weights(model).items():
        effective = (plain or model).get_submodule(name.removesuffix(".weight")).weight.detach()
        right = expected(name, weight.numpy(), masks[name].numpy(), gain)
        np.testing.assert_allclose(effective.numpy(), right, rtol=1e-6, atol=0)
        if gain == "layer":
            assert effective.abs().unique().numel() == 2
        assert not torch.signbit(effective[~masks[name]]).any()


def current(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: edge.mask.clone() for name, edge in edges(model).items()}


@torch.no_grad()
def shuffle_scores(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for edge in edges(model).values():
        edge.scores.copy_(torch.randn(edge.scores.shape, generator=generator))


def test_the_check_of_binary_weights_tells_a_gain_of_another_mask():
    model = attached()
    assert_binary(model, current(model), "layer")
    with pytest.raises(AssertionError):
        assert_binary(model, current(model), "channel")
    with pytest.raises(AssertionError):
        assert_binary(model, {name: torch.ones_like(mask) for name, mask in current(model).items()}, "layer")
    with pytest.raises(AssertionError):
        assert_binary(attached(binary="none"), current(model), "layer")


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("gain", ["layer", "channel"])
@pytest.mark.parametrize("law", sorted(LAWS))
def test_every_weight_is_its_sign_times_the_mean_of_the_kept_magnitudes(law, gain, last):
    model = network()
    if last:
        model.to(memory_format=torch.channels_last)
    attach(model, density=0.4, weights=law, binary="weights", gain=gain)
    assert_binary(model, current(model), gain)
    if last:
        twin = attached(weights=law, gain=gain)
        assert model[0].parametrizations.weight[0].mask.is_contiguous(memory_format=torch.channels_last)
        assert all(torch.equal(model[i].weight, twin[i].weight) for i in (0, 3, 6))


def test_the_gain_is_a_layers_unless_another_is_named():
    model, named = attached(), attached(gain="layer")
    assert model[6].parametrizations.weight[0].gain.numel() == 1
    assert torch.equal(model(images()), named(images()))
    assert attached(gain="channel")[6].parametrizations.weight[0].gain.shape == (3, 1)


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("rule", ["edge-popup", "bernoulli"])
@pytest.mark.parametrize("gain", ["layer", "channel"])
def test_the_gain_follows_every_refresh_at_any_density(gain, rule, scope):
    model = attached(gain=gain, rule=rule, scope=scope)
    seen = set()
    for step, density in enumerate([0.4, 0.9, 0.1]):
        shuffle_scores(model, step)
        refresh(model, density=density)
        assert_binary(model, current(model), gain)
        seen.add(model[6].parametrizations.weight[0].gain.sum().item())
    assert len(seen) == 3


@pytest.mark.parametrize("gain", ["layer", "channel"])
def test_the_gain_follows_concluded_masks_and_is_restored_after_them(gain):
    model = attached(gain=gain, rule="bernoulli")
    before, sampled = model(images()), current(model)
    final = concluded_masks(model)
    with concluded(model):
        assert_binary(model, final, gain)
        assert not torch.equal(model(images()), before)
    assert_binary(model, sampled, gain)
    assert torch.equal(model(images()), before)


def test_the_gain_is_restored_when_what_looks_at_the_ticket_fails():
    model = attached(rule="bernoulli")
    before = model(images())
    with pytest.raises(KeyboardInterrupt), concluded(model):
        raise KeyboardInterrupt
    assert torch.equal(model(images()), before)


@pytest.mark.parametrize("gain", ["layer", "channel"])
@pytest.mark.parametrize("rule", ["edge-popup", "bernoulli"])
def test_fixing_and_baking_compute_with_the_gain_of_the_final_masks(rule, gain):
    model = attached(gain=gain, rule=rule)
    final = concluded_masks(model)
    plain = bake(model)
    assert_binary(model, final, gain, plain)
    assert not any("gain" in name for name in plain.state_dict())
    fix(model)
    assert_binary(model, final, gain)
    assert torch.equal(plain(images()), model(images()))
    assert torch.equal(bake(model)(images()), model(images()))


def test_fixing_other_masks_takes_their_gain():
    model = attached()
    masks = {name: ~mask for name, mask in current(model).items()}
    fix(model, masks)
    assert_binary(model, masks, "layer")


@pytest.mark.parametrize("gain", ["layer", "channel"])
def test_a_state_dict_carries_gains_to_another_seed(gain):
    first, second = attached(gain=gain, seed=1), attached(gain=gain, seed=2)
    assert not torch.equal(first(images()), second(images()))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(images()), second(images()))
    assert_binary(second, current(first), gain)


def test_copies_have_gains_of_their_own():
    model = attached()
    before, twin = model(images()), copy.deepcopy(model)
    assert torch.equal(twin(images()), before)
    shuffle_scores(twin, 5)
    refresh(twin)
    assert_binary(twin, current(twin), "layer")
    assert torch.equal(model(images()), before)


@torch.no_grad()
@pytest.mark.parametrize("gain", ["layer", "channel"])
@pytest.mark.parametrize("value", [1e6, -1e6, float("inf"), float("nan")])
def test_a_dropped_weight_enters_neither_the_network_nor_the_gain(gain, value):
    model = attached(gain=gain)
    before = model(images())
    for edge in edges(model).values():
        edge.weight[~edge.mask] = value
    assert torch.equal(model(images()), before)
    refresh(model)
    assert torch.equal(model(images()), before)


@pytest.mark.parametrize("rule", ["edge-popup", "bernoulli"])
@pytest.mark.parametrize("gain", ["layer", "channel"])
def test_in_a_network_the_gradient_of_the_scores_reads_the_real_weight(rule, gain):
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2))
    attach(model, weights="kaiming-normal", binary="weights", gain=gain, rule=rule)
    generator = torch.Generator().manual_seed(0)
    inputs, upstream = torch.randn(3, 5, generator=generator), torch.randn(3, 2, generator=generator)
    model(inputs).backward(upstream)
    second = model[1].weight.detach().numpy()
    # Of a linear layer, ∂L/∂w̃ = upstreamᵀ · inputs; upstream of the first layer is that of the second times its w̃.
    for number, (received, given) in enumerate(
        [(upstream.numpy() @ second, inputs.numpy()), (upstream.numpy(), model[0](inputs).detach().numpy())]
    ):
        edge = edges(model)[f"{number}.weight"]
        scores, weight = edge.scores.detach().numpy(), edge.weight.detach().numpy()
        p = 1 / (1 + np.exp(-scores.astype(np.float64)))
        slope = np.sign(scores) if rule == "edge-popup" else p * (1 - p)
        right = slope * weight * (received.T @ given)
        np.testing.assert_allclose(edge.scores.grad.numpy(), right, rtol=1e-3, atol=1e-6)
    learned = [name for name, p in model.named_parameters() if p.grad is not None]
    assert learned == [f"{i}.parametrizations.weight.0.scores" for i in (0, 1)]


@pytest.mark.parametrize("law", ["signed-constant", "kaiming-normal"])
@pytest.mark.parametrize("gain", ["layer", "channel"])
def test_the_padding_row_of_an_embedding_stays_zero_under_binary_weights(law, gain):
    model = nn.Embedding(5, 4, padding_idx=2)
    attach(model, weights=law, binary="weights", gain=gain)
    assert model(torch.tensor([2])).abs().sum() == 0
    mask = edges(model)["weight"].mask
    others = [0, 1, 3, 4]
    weight, kept = frozen_weights(model)["weight"].numpy()[others], mask.numpy()[others]
    rows = [weight[i][kept[i]] for i in range(4)] if gain == "channel" else [weight[kept]] * 4
    alphas = np.array([[np.abs(row).mean() if row.size else 0.0] for row in rows])
    right = np.where(kept, np.sign(weight) * alphas, 0)
    np.testing.assert_allclose(model.weight.detach().numpy()[others], right, rtol=1e-6)


def test_an_ordinary_and_a_binary_signed_constant_are_the_same_bits_behind_a_padding_row():
    ordinary, binary = nn.Embedding(5, 4, padding_idx=2), nn.Embedding(5, 4, padding_idx=2)
    attach(ordinary)
    attach(binary, binary="weights")
    assert torch.equal(ordinary.weight, binary.weight)


def test_a_network_in_float64_keeps_its_weights_and_their_signs():
    model = nn.Linear(5, 4).double()
    attach(model, weights="kaiming-normal", binary="weights")
    weight = frozen_weights(model)["weight"]
    assert (weight < 0).any()
    mask = edges(model)["weight"].mask
    assert torch.equal(model.weight.sign(), torch.where(mask, weight.sign(), 0))
