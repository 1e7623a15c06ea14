"""The estimators against formulas written in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strongticket.masks import MagnitudeMask, ProbabilityMask


def run(estimator, seed: int):
    rng = np.random.default_rng(seed)
    weight, scores, upstream = (rng.standard_normal((5, 7)).astype(np.float32) for _ in range(3))
    mask = rng.random((5, 7)) < 0.5
    learned = torch.from_numpy(scores).requires_grad_()
    out = estimator.apply(torch.from_numpy(weight), learned, torch.from_numpy(mask))
    out.backward(torch.from_numpy(upstream))
    return weight, scores, mask, upstream, out.detach().numpy(), learned.grad.numpy()


@pytest.mark.parametrize("estimator", [MagnitudeMask, ProbabilityMask])
@given(seed=st.integers(0, 10_000))
def test_the_forward_pass_is_the_masked_weight_exactly(estimator, seed):
    weight, _, mask, _, out, _ = run(estimator, seed)
    assert np.array_equal(out, np.where(mask, weight, np.float32(0)))
    assert not np.signbit(out[~mask]).any()


@given(seed=st.integers(0, 10_000))
def test_the_gradient_of_a_magnitude_is_sign_times_weight_times_upstream_for_dropped_edges_too(seed):
    weight, scores, _, upstream, _, grad = run(MagnitudeMask, seed)
    assert np.array_equal(grad, np.sign(scores) * weight * upstream)


@given(seed=st.integers(0, 10_000))
def test_the_gradient_of_a_probability_carries_the_slope_of_the_logistic_function(seed):
    weight, scores, _, upstream, _, grad = run(ProbabilityMask, seed)
    p = 1 / (1 + np.exp(-scores.astype(np.float64)))
    np.testing.assert_allclose(grad, p * (1 - p) * weight * upstream, rtol=1e-4, atol=1e-6)


def test_a_score_of_zero_counts_as_positive_so_that_it_can_move():
    scores = torch.zeros(3, requires_grad=True)
    MagnitudeMask.apply(torch.tensor([2.0, -2.0, 1.0]), scores, torch.tensor([True, False, True])).sum().backward()
    assert scores.grad.tolist() == [2.0, -2.0, 1.0]


@pytest.mark.parametrize("estimator", [MagnitudeMask, ProbabilityMask])
def test_the_weight_gets_no_gradient(estimator):
    weight, scores = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    estimator.apply(weight, scores, torch.tensor([True, False, True])).sum().backward()
    assert weight.grad is None
    assert scores.grad is not None
