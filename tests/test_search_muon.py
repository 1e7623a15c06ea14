"""Muon against singular value decompositions, and its step against the formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import strongticket as st
from strongticket.masks import RULES, edges, refresh
from strongticket.search import SearchConfig
from strongticket.search.muon import Muon, directions_of, orthogonalised
from strongticket.search.optimizer import make_optimizer


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def spread(rows: int, columns: int, values: list[float]) -> torch.Tensor:
    """Return a matrix with these singular values."""
    u, _, v = torch.linalg.svd(drawn(rows, columns), full_matrices=False)
    return u @ torch.diag(torch.tensor(values)) @ v


@pytest.mark.parametrize(("rows", "columns"), [(5, 5), (5, 40), (40, 5), (1, 9), (9, 1)])
def test_singular_values_come_near_one_and_singular_vectors_stay(rows, columns):
    values = [1.0, 0.5, 0.3, 0.1, 0.05][: min(rows, columns)]
    matrix = spread(rows, columns, values)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    seen = u.mT @ orthogonalised(matrix) @ v.mT
    assert torch.allclose(seen, torch.diag(seen.diagonal()), atol=1e-4)
    assert 0.6 < seen.diagonal().min() <= seen.diagonal().max() < 1.3


def test_values_that_differ_a_little_are_told_from_those_of_the_printed_iteration():
    matrix = drawn(7, 20)
    x = (matrix / matrix.norm()).double()
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    assert torch.allclose(orthogonalised(matrix).double(), x, atol=1e-4)


def test_scale_does_not_matter_and_nothing_stays_nothing():
    matrix = drawn(6, 8)
    for scale in (1e-30, 1e-6, 1e30):
        assert torch.allclose(orthogonalised(scale * matrix), orthogonalised(matrix), atol=1e-4)
    assert not orthogonalised(torch.zeros(4, 3)).any()


def moved(
    parameter: nn.Parameter, gradients: list[torch.Tensor], *, decay: float = 0.0, directions=None, **options
) -> torch.Tensor:
    """Return by how much ``parameter`` moves."""
    before = parameter.detach().clone()
    group = {"params": [parameter], "weight_decay": decay}
    optimizer = Muon([group], **{"lr": 0.1, "momentum": 0.5, "nesterov": True, "directions": directions, **options})
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach() - before


def test_a_step_is_the_orthogonal_momentum():
    first, second = drawn(4, 6), drawn(4, 6, seed=1)
    nesterov = [1.5 * first, second + 0.5 * (second + 0.5 * first)]
    expected = -0.1 * sum(orthogonalised(u) for u in nesterov)
    assert torch.allclose(moved(nn.Parameter(torch.zeros(4, 6)), [first, second]), expected, atol=1e-6)
    plain = [first, second + 0.5 * first]
    expected = -0.1 * sum(orthogonalised(u) for u in plain)
    assert torch.allclose(moved(nn.Parameter(torch.zeros(4, 6)), [first, second], nesterov=False), expected, atol=1e-6)


def test_tall_matrices_move_further_and_vectors_are_columns():
    tall = drawn(8, 2)
    assert torch.allclose(moved(nn.Parameter(torch.zeros(8, 2)), [tall]), -0.1 * 2 * orthogonalised(tall), atol=1e-6)
    step = moved(nn.Parameter(torch.zeros(4)), [torch.tensor([3.0, 3.0, -3.0, 3.0])])
    assert torch.allclose(step / step[0], torch.tensor([1.0, 1.0, -1.0, 1.0]))
    assert 0.06 < -step[0] < 0.13  # 0.1 · √4 · 0.7 … 1.2 of a unit vector's half


def test_weight_decay_shrinks_by_rate_times_decay():
    step = moved(nn.Parameter(torch.full((2, 3), 2.0)), [torch.zeros(2, 3)], decay=0.3)
    assert torch.allclose(step, torch.full((2, 3), -2.0 * 0.1 * 0.3))


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (4, 6, 3, 1), (5, 7), (3, 2, 2, 2, 2)])
def test_memory_format_changes_nothing(shape):
    gradient = drawn(*shape)
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    plain = moved(nn.Parameter(torch.zeros(shape)), [gradient])
    other = gradient.contiguous(memory_format=formats.get(len(shape), torch.contiguous_format))
    parameter = nn.Parameter(torch.zeros_like(other))
    assert torch.allclose(moved(parameter, [other]), plain, atol=1e-6)
    flat = orthogonalised(gradient.reshape(shape[0], -1)).reshape(shape)
    assert torch.allclose(plain, -0.1 * flat * max(1.0, shape[0] / gradient[0].numel()) ** 0.5, atol=1e-6)


def test_a_direction_turns_the_gradient_before_and_the_step_after():
    gradient, parameter = drawn(4, 6), nn.Parameter(torch.zeros(4, 6))
    direction = torch.where(drawn(4, 6, seed=2) > 0, 1.0, -1.0)
    expected = -0.1 * direction * orthogonalised(direction * 1.5 * gradient)
    assert torch.allclose(moved(parameter, [gradient], directions={parameter: lambda: direction}), expected, atol=1e-6)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_the_directions_are_the_signs_of_the_straight_through_gradient(rule):
    model = nn.Linear(30, 20)
    st.attach(model, density=0.5, rule=rule, weights="kaiming-normal")
    refresh(model)
    edge = edges(model)["weight"]
    model.weight.sum().backward()  # so that ∂L/∂w̃ is 1 everywhere
    (parameter, direction), *others = directions_of(model).items()
    assert parameter is edge.scores
    assert not others
    assert torch.equal(direction(), edge.scores.grad.sign())


def test_models_without_scores_have_no_directions():
    model = nn.Linear(3, 2)
    assert directions_of(model) == {}
    st.attach(model, density=0.5)
    st.extract(model)
    assert len(directions_of(model)) == 1
    st.apply(st.extract(model), fresh := nn.Linear(3, 2))
    assert directions_of(fresh) == {}


def test_what_is_kept_moves_as_a_trained_weight_would():
    # Under a signed constant |s| · sign(w) is a latent weight; a step on scores that keep their sign is a step on it.
    model = nn.Linear(6, 4, bias=False)
    st.attach(model, density=0.5)
    edge = edges(model)["weight"]
    gradient = drawn(4, 6)
    latent = nn.Parameter((edge.scores.detach().abs() * edge.weight.sign()).clone())
    moved(latent, [gradient], lr=1e-4)
    config = SearchConfig(optimizer="muon", learning_rate=1e-4, momentum=0.5, weight_decay=0.0)
    optimizer = make_optimizer([edge.scores], config, directions=directions_of(model))
    (model.weight * gradient).sum().backward()
    edge.scores.grad /= edge.weight.detach().abs()
    optimizer.step()
    assert torch.allclose(edge.scores.detach().abs() * edge.weight.sign(), latent, atol=1e-7)


def test_a_parameter_without_a_gradient_rests():
    used, unused = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = make_optimizer([used, unused], SearchConfig(optimizer="muon"))
    used.sum().backward()
    optimizer.step()
    assert not torch.equal(used, torch.ones(2, 2))
    assert torch.equal(unused, torch.ones(2, 2))


def test_a_closure_is_called_with_gradients_on():
    parameter = nn.Parameter(torch.ones(2, 2))
    optimizer = make_optimizer([parameter], SearchConfig(optimizer="muon"))

    def closure() -> float:
        optimizer.zero_grad()
        loss = parameter.sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == 4.0
    assert (parameter < 1).all()
