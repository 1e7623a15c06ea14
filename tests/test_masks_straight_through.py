"""The estimators against formulas written in numpy."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strongticket.masks import MagnitudeMask, ProbabilityMask
from strongticket.masks.straight_through import masked


class Run(NamedTuple):
    carried: np.ndarray
    weight: np.ndarray
    scores: np.ndarray
    mask: np.ndarray
    upstream: np.ndarray
    out: np.ndarray
    grad: np.ndarray


def run(estimator, seed: int) -> Run:
    rng = np.random.default_rng(seed)
    carried, weight, scores, upstream = (rng.standard_normal((5, 7)).astype(np.float32) for _ in range(4))
    mask = rng.random((5, 7)) < 0.5
    learned = torch.from_numpy(scores).requires_grad_()
    out = estimator.apply(torch.from_numpy(carried), torch.from_numpy(weight), learned, torch.from_numpy(mask))
    out.backward(torch.from_numpy(upstream))
    return Run(carried, weight, scores, mask, upstream, out.detach().numpy(), learned.grad.numpy())


@pytest.mark.parametrize("estimator", [MagnitudeMask, ProbabilityMask])
@given(seed=st.integers(0, 10_000))
def test_the_forward_pass_is_what_the_kept_edges_carry_exactly(estimator, seed):
    r = run(estimator, seed)
    assert np.array_equal(r.out, np.where(r.mask, r.carried, np.float32(0)))
    assert not np.signbit(r.out[~r.mask]).any()


@given(seed=st.integers(0, 10_000))
def test_the_gradient_of_a_magnitude_is_sign_times_real_weight_times_upstream_for_dropped_edges_too(seed):
    r = run(MagnitudeMask, seed)
    assert np.array_equal(r.grad, np.sign(r.scores) * r.weight * r.upstream)


@given(seed=st.integers(0, 10_000))
def test_the_gradient_of_a_probability_carries_the_slope_of_the_logistic_function(seed):
    r = run(ProbabilityMask, seed)
    p = 1 / (1 + np.exp(-r.scores.astype(np.float64)))
    np.testing.assert_allclose(r.grad, p * (1 - p) * r.weight * r.upstream, rtol=1e-4, atol=1e-6)


def test_a_score_of_zero_counts_as_positive_so_that_it_can_move():
    scores, weight = torch.zeros(3, requires_grad=True), torch.tensor([2.0, -2.0, 1.0])
    MagnitudeMask.apply(torch.ones(3), weight, scores, torch.tensor([True, False, True])).sum().backward()
    assert scores.grad.tolist() == [2.0, -2.0, 1.0]


@pytest.mark.parametrize("estimator", [MagnitudeMask, ProbabilityMask])
def test_neither_the_weight_nor_what_it_carries_gets_a_gradient(estimator):
    carried, weight, scores = (torch.ones(3, requires_grad=True) for _ in range(3))
    estimator.apply(carried, weight, scores, torch.tensor([True, False, True])).sum().backward()
    assert carried.grad is None
    assert weight.grad is None
    assert scores.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_what_is_masked_equals_the_choice_value_by_value(dtype, memory_format):
    generator = torch.Generator().manual_seed(0)
    carried = torch.randn(4, 3, 5, 2, generator=generator).to(dtype)
    carried.view(-1)[:6] = torch.tensor([math.inf, -math.inf, math.nan, 0.0, -0.0, 1e-7]).to(dtype)
    mask = torch.rand(carried.shape, generator=generator) < 0.5
    carried, mask = (t.contiguous(memory_format=memory_format) for t in (carried, mask))
    expected = np.where(mask.numpy(), carried.double().numpy(), 0.0)
    found = masked(carried, mask)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.double().numpy(), expected)
    np.testing.assert_array_equal(np.signbit(found.double().numpy()), np.signbit(expected))


def test_a_dropped_infinity_or_nan_is_plus_zero():
    found = masked(torch.tensor([math.inf, math.nan, -1.0]), torch.tensor([False, False, False]))
    assert found.tolist() == [0.0, 0.0, 0.0]
    assert not np.signbit(found.numpy()).any()
