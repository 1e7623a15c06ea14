"""attach, refresh and fix: what is frozen, what learns, what is refused."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from strongticket import attach, bake, refresh
from strongticket.errors import ConfigError, ModelError
from strongticket.masks import (
    FixedMask,
    Supermask,
    attachment_of,
    concluded,
    concluded_masks,
    edges,
    fix,
    frozen_weights,
    weights_digest,
)
from strongticket.weights import Binary


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 8), nn.ReLU(), nn.Linear(8, 3)
    )


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 2, 6, 6, generator=torch.Generator().manual_seed(0))


def test_attach_returns_the_plain_names_of_the_masked_tensors():
    assert attach(network()) == ["0.weight", "4.weight", "6.weight"]


@pytest.mark.parametrize("binary", ["none", "weights", "weights+activations"])
def test_only_scores_learn(binary):
    model = network()
    attach(model, weights="kaiming-normal", binary=binary)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {f"{i}.parametrizations.weight.0.scores" for i in (0, 4, 6)}


def test_weights_are_drawn_from_seed_and_name_whatever_they_were_before():
    first, second, third = network(), network(), network()
    attach(first, seed=5)
    attach(second, seed=5)
    attach(third, seed=6)
    assert weights_digest(first) == weights_digest(second) != weights_digest(third)
    assert torch.equal(edges(first)["0.weight"].scores, edges(second)["0.weight"].scores)


def test_the_default_law_is_a_signed_constant_of_root_two_over_root_fan_in():
    model = network()
    attach(model)
    assert frozen_weights(model)["0.weight"].abs().unique().tolist() == pytest.approx([(2 / 18) ** 0.5])


def test_biases_are_zero_and_normalisation_has_no_effect_of_its_own():
    model = network()
    with torch.no_grad():
        model[1].weight.fill_(7)
        model[1].bias.fill_(7)
        model[1].running_mean.fill_(7)
    attach(model)
    assert model[0].bias.abs().sum() == 0
    assert model[1].weight.tolist() == [1.0] * 6
    assert model[1].bias.tolist() == [0.0] * 6
    assert model[1].running_mean.tolist() == [0.0] * 6


def test_learned_batch_norm_is_named_as_trained():
    model = network()
    attach(model, bn="learned")
    assert attachment_of(model).trained == ("1.weight", "1.bias")
    assert model[1].weight.requires_grad
    assert model[1].bias.requires_grad


@pytest.mark.parametrize(
    ("options", "noted"),
    [
        ({}, Binary()),
        ({"binary": "weights"}, Binary("layer")),
        ({"binary": "weights", "gain": "channel"}, Binary("channel")),
        ({"binary": "weights+activations"}, Binary("layer", {"2": "bi-real", "5": "bi-real"})),
        (
            {"binary": "weights+activations", "activations": "5", "activation_gradient": "clipped-identity"},
            Binary("layer", {"5": "clipped-identity"}),
        ),
    ],
)
def test_what_is_binary_is_noted_and_survives_the_end_of_the_search(options, noted):
    model = network()
    attach(model, **options)
    assert attachment_of(model).binary == noted
    fix(model)
    assert attachment_of(model).binary == attachment_of(copy.deepcopy(model)).binary == noted


def test_masks_scores_and_weights_are_those_of_the_seed_whether_weights_are_binary_or_not():
    plain, binary = network(), network()
    attach(plain, weights="kaiming-normal")
    attach(binary, weights="kaiming-normal", binary="weights", gain="channel")
    assert weights_digest(plain) == weights_digest(binary)
    for name, edge in edges(plain).items():
        assert torch.equal(edge.scores, edges(binary)[name].scores)
        assert torch.equal(edge.mask, edges(binary)[name].mask)


@pytest.mark.parametrize("last", [False, True])
def test_every_layer_keeps_its_exact_count_in_any_memory_format(last):
    model = network()
    if last:
        model.to(memory_format=torch.channels_last)
    attach(model, density=0.3)
    counts = {name: int(edge.mask.sum()) for name, edge in edges(model).items()}
    assert counts == {"0.weight": round(0.3 * 108), "4.weight": round(0.3 * 768), "6.weight": round(0.3 * 24)}
    if last:
        assert edges(model)["0.weight"].mask.is_contiguous(memory_format=torch.channels_last)
    plain = network()
    attach(plain, density=0.3)
    assert all(torch.equal(edges(plain)[n].mask, e.mask) for n, e in edges(model).items())


def test_scores_change_the_mask_at_a_refresh_and_not_before():
    model = network()
    attach(model, density=0.5)
    before = edges(model)["6.weight"].mask.clone()
    with torch.no_grad():
        edges(model)["6.weight"].scores.copy_((~before).float())
    assert torch.equal(edges(model)["6.weight"].mask, before)
    refresh(model)
    assert torch.equal(edges(model)["6.weight"].mask, ~before)


def test_a_refresh_can_be_given_the_density_of_a_schedule():
    model = network()
    attach(model, density=0.5)
    refresh(model, density=0.25)
    assert int(edges(model)["6.weight"].mask.sum()) == 6
    assert int(concluded_masks(model)["6.weight"].sum()) == 12


def test_fixed_masks_are_those_of_the_scores_and_need_no_scores():
    model = network().eval()
    attach(model)
    before = model(images()).detach()
    fix(model)
    assert torch.equal(model(images()), before)
    assert not [name for name, _ in model.named_parameters() if "scores" in name]
    masks = [m for m in model.modules() if isinstance(m, FixedMask | Supermask)]
    assert all(isinstance(m, FixedMask) for m in masks)
    with pytest.raises(ModelError, match="masks of this model are fixed"):
        refresh(model)


def test_patterns_choose_tensors_and_the_rest_is_frozen_with_all_its_edges():
    model = network()
    assert attach(model, where=["0*", "6.weight"]) == ["0.weight", "6.weight"]
    assert not parametrize.is_parametrized(model[4])
    assert not model[4].weight.requires_grad
    assert "4.weight" in frozen_weights(model)


def test_a_function_chooses_tensors_by_name_and_module():
    model = network()
    assert attach(model, where=lambda name, module: isinstance(module, nn.Conv2d)) == ["0.weight"]


def test_density_by_name_pattern():
    model = network()
    attach(model, density={"6*": 1.0, "*": 0.5})
    assert edges(model)["6.weight"].mask.all()
    assert int(edges(model)["4.weight"].mask.sum()) == 384


def test_scaling_by_density_grows_the_weights_by_its_inverse_root():
    from strongticket import WeightLaw

    model = network()
    attach(model, density=0.25, weights=WeightLaw(scale_by_density=True))
    assert frozen_weights(model)["6.weight"].abs().max() == pytest.approx((2 / (0.25 * 8)) ** 0.5)


def test_the_padding_row_of_an_embedding_stays_zero():
    model = nn.Embedding(5, 4, padding_idx=2)
    attach(model)
    assert model(torch.tensor([2])).abs().sum() == 0


def test_copies_and_their_originals_live_apart():
    model = network().eval()
    attach(model)
    before = model(images())
    twin = copy.deepcopy(model)
    with torch.no_grad():
        edges(twin)["0.weight"].scores.neg_().add_(1)
    refresh(twin)
    baked = bake(twin)
    assert torch.equal(twin(images()), baked(images()))
    assert torch.equal(model(images()), before)
    assert not torch.equal(before, twin(images()))


def test_the_end_of_a_search_lets_go_of_the_scores():
    model = network()
    attach(model)
    held = weakref.ref(edges(model)["0.weight"].scores.untyped_storage())
    refresh(model)
    fix(model)
    gc.collect()
    assert held() is None


def test_a_state_dict_carries_scores_and_masks_to_another_seed():
    first, second = network().eval(), network().eval()
    attach(first, seed=1)
    attach(second, seed=2)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(images()), second(images()))


def assert_refused_unchanged(model: nn.Module, error, words: str, **arguments) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [p.requires_grad for p in model.parameters()]
    with pytest.raises(error, match=words) as caught:
        attach(model, **arguments)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert flags == [p.requires_grad for p in model.parameters()]
    assert not any(parametrize.is_parametrized(m) for m in model.modules())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"density": 0}, "expected a number in"),
        ({"density": float("nan")}, "expected a number in"),
        ({"density": 0.001}, "leaves 0.weight .108 weights. no edge"),
        ({"rule": "sgd"}, "rule 'sgd' is not known"),
        ({"weights": "gaussian"}, "gaussian"),
        ({"scope": "row"}, "scope 'row'"),
        ({"bn": "yes"}, "bn 'yes'"),
        ({"seed": -1}, "seed -1"),
        ({"where": "fc*"}, r"no tensor matched 'fc\*'; this model has 0.weight, 4.weight, 6.weight"),
    ],
)
def test_a_bad_option_is_one_line_and_leaves_the_model_alone(arguments, words):
    assert_refused_unchanged(network(), ConfigError, words, **arguments)


def test_nothing_chosen_is_refused():
    assert_refused_unchanged(
        network(), ModelError, "no tensor of this model was chosen", where=lambda name, module: False
    )


@pytest.mark.parametrize("model", [nn.ReLU(), nn.BatchNorm1d(3)])
def test_a_model_with_nothing_to_mask_is_refused(model):
    assert_refused_unchanged(model, ModelError, "no weight to mask")


def test_learned_batch_norm_without_a_batch_norm_is_refused():
    assert_refused_unchanged(nn.Linear(3, 4), ConfigError, "no batch norm with affine", bn="learned")


def test_tied_tensors_are_refused_by_both_names():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
            self.head.weight = self.embed.weight

    assert_refused_unchanged(Tied(), ModelError, "embed.weight and head.weight are one tied tensor")


def test_a_second_attach_is_refused():
    model = network()
    attach(model)
    with pytest.raises(ModelError, match="attached already"):
        attach(model)


def test_a_parametrized_model_is_refused():
    model = nn.Sequential(nn.Linear(4, 4))
    nn.utils.parametrizations.weight_norm(model[0])
    with pytest.raises(ModelError, match="parametrized already"):
        attach(model)


def test_a_pruned_model_is_refused():
    from torch.nn.utils import prune

    model = nn.Sequential(nn.Linear(4, 4))
    prune.random_unstructured(model[0], "weight", amount=0.5)
    with pytest.raises(ModelError, match="recomputed by a hook"):
        attach(model)


def test_a_lazy_model_is_refused():
    with pytest.raises(ModelError, match="has no shape yet"):
        attach(nn.Sequential(nn.LazyLinear(3)))


def test_a_model_on_the_meta_device_is_refused():
    with pytest.raises(ModelError, match="meta device"):
        attach(nn.Linear(3, 3, device="meta"))


def test_functions_that_need_masks_say_so():
    for function in (refresh, bake, fix, concluded_masks):
        with pytest.raises(ModelError, match="no masks"):
            function(nn.Linear(2, 2))


def test_a_search_can_look_at_its_ticket_without_disturbing_the_masks_of_the_step():
    model = network().eval()
    attach(model, density=0.5, rule="bernoulli")
    sampled = edges(model)["6.weight"].mask.clone()
    final = concluded_masks(model)["6.weight"]
    assert not torch.equal(sampled, final)
    with concluded(model):
        assert torch.equal(edges(model)["6.weight"].mask, final)
        assert torch.equal(model(images()), bake(model)(images()))
    assert torch.equal(edges(model)["6.weight"].mask, sampled)
