"""Signs, gains and activations of ±1: against numpy, and against fractions where exactness is the promise."""

from __future__ import annotations

import copy
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from strongticket.errors import ConfigError
from strongticket.weights import (
    GRADIENTS,
    Binary,
    BinaryActivation,
    binary_sign,
    check_gain,
    gain_groups,
    gains,
)

FLOATS = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
ABOVE_ONE, BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(2))), float(np.nextafter(np.float32(1), 0))
EDGES_OF_THE_FORMULAS = [
    sign * value for value in (0.0, BELOW_ONE, 1.0, ABOVE_ONE, 1e-30, 0.5, 7.0) for sign in (1, -1)
]
INPUTS = st.lists(st.sampled_from(EDGES_OF_THE_FORMULAS) | st.floats(-2, 2, width=32), min_size=1, max_size=20)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_sign_is_plus_one_from_zero_on_in_the_dtype_and_shape_of_the_values(dtype):
    tiny = torch.finfo(dtype).tiny
    signs = binary_sign(torch.tensor([[0.0, -0.0, tiny], [-tiny, 3.0, -math.inf]], dtype=dtype))
    assert signs.dtype == dtype
    assert signs.tolist() == [[1.0, 1.0, 1.0], [-1.0, 1.0, -1.0]]


def bi_real(x: np.ndarray) -> np.ndarray:
    return np.where((x >= -1) & (x < 0), 2 + 2 * x, np.where((x >= 0) & (x < 1), 2 - 2 * x, 0))


def clipped_identity(x: np.ndarray) -> np.ndarray:
    return np.where((x >= -1) & (x <= 1), 1.0, 0.0)


ORACLES = {"bi-real": bi_real, "clipped-identity": clipped_identity}


def test_every_gradient_has_an_oracle_here():
    assert GRADIENTS.keys() == ORACLES.keys()


@pytest.mark.parametrize("gradient", ORACLES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(values=INPUTS, upstream=st.floats(-4, 4, width=16))
def test_an_activation_is_the_sign_forward_and_its_own_polynomial_backward(gradient, dtype, values, upstream):
    inputs = torch.tensor(values).to(dtype).requires_grad_()
    outputs = BinaryActivation(gradient)(inputs)
    assert outputs.dtype == dtype
    exact = inputs.detach().double().numpy()
    assert outputs.tolist() == [1.0 if x >= 0 else -1.0 for x in exact]
    grad = torch.full_like(outputs, upstream)
    outputs.backward(grad)
    expected = grad.double().numpy() * ORACLES[gradient](exact)
    # Two roundings: of the polynomial, and of its product with the gradient that comes in.
    np.testing.assert_allclose(inputs.grad.double().numpy(), expected, rtol=1.1 * torch.finfo(dtype).eps, atol=1e-38)


@pytest.mark.parametrize(
    ("gradient", "expected"),
    [("bi-real", [0, 0, 1, 2, 2, 1, 0, 0]), ("clipped-identity", [0, 1, 1, 1, 1, 1, 1, 0])],
)
def test_the_gradient_at_the_places_where_its_formula_changes(gradient, expected):
    inputs = torch.tensor([-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, ABOVE_ONE], requires_grad=True)
    BinaryActivation(gradient)(inputs).sum().backward()
    assert inputs.grad.tolist() == expected


def test_bi_real_is_the_gradient_if_none_is_named():
    assert BinaryActivation().gradient == "bi-real"
    assert repr(BinaryActivation()) == "BinaryActivation(gradient='bi-real')"
    assert repr(BinaryActivation("clipped-identity")) == "BinaryActivation(gradient='clipped-identity')"


def test_nothing_is_binary_unless_it_is_said():
    assert Binary() == Binary(gain=None, activations={})


# The compiler of torch 2.8 instantiates an autograd function, against which torch itself warns.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("gradient", ORACLES)
def test_activations_compile_in_one_graph_with_the_same_gradient(gradient):
    torch._dynamo.reset()
    plain = nn.Sequential(nn.Linear(5, 7), BinaryActivation(gradient), nn.Linear(7, 2))
    twin = copy.deepcopy(plain)
    compiled = torch.compile(twin, fullgraph=True, backend="eager")
    inputs = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(compiled(inputs), plain(inputs))
    compiled(inputs).square().sum().backward()
    plain(inputs).square().sum().backward()
    assert plain[0].weight.grad.abs().sum() > 0
    torch.testing.assert_close(twin[0].weight.grad, plain[0].weight.grad)


def test_activations_export():
    model = nn.Sequential(nn.Linear(5, 7), BinaryActivation(), nn.Linear(7, 2)).eval()
    inputs = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.export.export(model, (inputs,)).module()(inputs), model(inputs))


def test_an_unknown_gradient_is_refused_with_the_nearest_name():
    with pytest.raises(
        ConfigError, match=r"'bireal' is not known \(did you mean 'bi-real'\?\); the gradients are"
    ) as e:
        BinaryActivation("bireal")
    assert "\n" not in str(e.value)


def test_an_unknown_gain_is_refused():
    assert check_gain("layer") is None
    with pytest.raises(ConfigError, match="gain 'row' is not known; choose one of layer, channel"):
        check_gain("row")


def exact_mean(weight: torch.Tensor, mask: torch.Tensor) -> tuple[Fraction, Fraction]:
    """Return the mean and the largest of the kept magnitudes, exactly; zeros where none is kept."""
    pairs = zip(weight.double().flatten().tolist(), mask.flatten().tolist(), strict=True)
    kept = [abs(Fraction(value)) for value, is_kept in pairs if is_kept]
    return (sum(kept, Fraction(0)) / len(kept), max(kept)) if kept else (Fraction(0), Fraction(0))


def assert_is_exact(gain: torch.Tensor, weight: torch.Tensor, mask: torch.Tensor) -> None:
    mean, largest = exact_mean(weight, mask)
    info = torch.finfo(gain.dtype)
    last_rounding = mean * Fraction(info.eps) * Fraction(101, 200) + Fraction(info.smallest_normal * info.eps)
    assert abs(Fraction(float(gain)) - mean) <= largest * Fraction(1, 2**34) * Fraction(1001, 1000) + last_rounding


def test_exactness_tells_a_gain_that_is_wrong_by_little():
    weight, mask = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64), torch.tensor([True, True, False])
    assert_is_exact(torch.tensor(1.5, dtype=torch.float64), weight, mask)
    with pytest.raises(AssertionError):
        assert_is_exact(torch.tensor(1.5 + 2**-32, dtype=torch.float64), weight, mask)
    with pytest.raises(AssertionError):
        assert_is_exact(torch.tensor(1.5).nextafter(torch.tensor(2.0)), weight.float(), mask)


MAGNITUDES = st.floats(2.0**-60, 2.0**60, width=32)
WEIGHTS = st.lists(st.tuples(MAGNITUDES, st.booleans(), st.booleans()), min_size=1, max_size=40)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@given(entries=WEIGHTS)
def test_a_gain_is_the_exact_mean_of_the_kept_magnitudes(dtype, entries):
    weight = torch.tensor([[size if positive else -size for size, positive, _ in entries]]).to(dtype)
    mask = torch.tensor([[kept for _, _, kept in entries]])
    gain = gains(weight, mask, gain_groups(nn.Module(), weight.shape, "layer"))
    assert gain.dtype == dtype
    assert_is_exact(gain, weight, mask)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("per", ["layer", "channel"])
@given(
    sigma=st.floats(0, 2.0**15, width=16, exclude_min=True),
    kept=st.lists(st.booleans(), min_size=6, max_size=6).filter(any),
    dropped=st.sampled_from([0.0, 1e-30, 1e6, -1e30, math.inf, math.nan]),
)
def test_a_gain_is_sigma_bit_for_bit_where_all_kept_magnitudes_are_sigma(dtype, per, sigma, kept, dropped):
    mask = torch.tensor(kept).reshape(1, 6)
    values = torch.tensor([sigma, -sigma] * 3).reshape(1, 6)
    weight = torch.where(mask, values, dropped).to(dtype)
    gain = gains(weight, mask, gain_groups(nn.Linear(6, 1), (1, 6), per))
    assert gain.item() == torch.tensor(sigma, dtype=dtype).item()


def test_a_channel_of_small_weights_is_as_exact_as_one_of_large_weights():
    third = float(np.float32(1) / np.float32(3))
    weight = torch.tensor([[2.0**100, -(2.0**101)], [third * 2.0**-40, -third * 2.0**-40]])
    gain = gains(weight, torch.ones(2, 2, dtype=torch.bool), gain_groups(nn.Linear(2, 2), (2, 2), "channel"))
    assert gain.tolist() == [[1.5 * 2.0**100], [third * 2.0**-40]]


@pytest.mark.parametrize("per", ["layer", "channel"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_gain_is_zero_where_nothing_is_kept(per, dtype):
    weight = torch.tensor([[1.0, -2.0], [3.0, 4.0]], dtype=dtype)
    groups = gain_groups(nn.Linear(2, 2), (2, 2), per)
    assert gains(weight, torch.zeros(2, 2, dtype=torch.bool), groups).unique().tolist() == [0.0]
    half = gains(weight, torch.tensor([[False, False], [True, True]]), groups)
    assert half.tolist() == ([[3.5]] if per == "layer" else [[0.0], [3.5]])


def test_a_gain_of_kept_zeros_is_zero():
    assert gains(torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool), gain_groups(nn.Module(), (1, 3), "layer")) == 0


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
@pytest.mark.parametrize("per", ["layer", "channel"])
def test_an_empty_tensor_has_gains_that_fit_it(shape, per):
    empty = torch.empty(shape)
    assert (gains(empty, empty.bool(), gain_groups(nn.Module(), shape, per)) * empty).shape == shape


@given(order=st.permutations(range(24)), seed=st.integers(0, 1000), per=st.sampled_from(["layer", "channel"]))
def test_a_gain_does_not_depend_on_the_order_of_the_weights(order, seed, per):
    # In float64 the last bits of a sum of floats would show the order.
    weight = torch.randn(2, 24, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mask = weight.abs() > 0.3
    groups = gain_groups(nn.Linear(24, 2), (2, 24), per)
    assert torch.equal(gains(weight[:, order], mask[:, order], groups), gains(weight, mask, groups))


MODULES = {
    "linear": nn.Linear(6, 4),
    "bilinear": nn.Bilinear(3, 2, 4),
    "conv1d": nn.Conv1d(3, 4, 3),
    "conv2d": nn.Conv2d(3, 4, (3, 2)),
    "conv3d": nn.Conv3d(2, 3, 2),
    "grouped conv2d": nn.Conv2d(4, 6, 3, groups=2),
    "transposed": nn.ConvTranspose2d(3, 4, (3, 2)),
    "transposed to one": nn.ConvTranspose2d(3, 1, 3),
    "transposed in 2 groups": nn.ConvTranspose2d(4, 6, 3, groups=2),
    "transposed in 2 groups of one output": nn.ConvTranspose2d(4, 2, 3, groups=2),
    "transposed depthwise": nn.ConvTranspose1d(3, 3, 3, groups=3),
    "transposed 3-d": nn.ConvTranspose3d(4, 4, 2, groups=2),
}


def members_of_outputs(module: nn.Module) -> list[torch.Tensor]:
    """Return for every output of a layer which weights it reads (bool), found by its gradient."""
    if isinstance(module, nn.Bilinear):
        outputs = module(torch.ones(1, module.in1_features), torch.ones(1, module.in2_features))
    elif isinstance(module, nn.Linear):
        outputs = module(torch.ones(1, module.in_features))
    else:
        outputs = module(torch.ones(1, module.in_channels, *(5 for _ in module.kernel_size)))
    return [
        torch.autograd.grad(outputs[:, number].sum(), module.weight, retain_graph=True)[0] != 0
        for number in range(outputs.shape[1])
    ]


@pytest.mark.parametrize("name", MODULES)
def test_weights_share_a_gain_by_the_output_that_reads_them(name):
    module = MODULES[name]
    weight = torch.randn(module.weight.shape, generator=torch.Generator().manual_seed(1))
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(2)) < 0.6
    gain = gains(weight, mask, gain_groups(module, weight.shape, "channel"))
    carried = gain * torch.ones_like(weight)
    assert carried.shape == weight.shape
    members = members_of_outputs(module)
    assert sum(m.int() for m in members).eq(1).all()
    for member in members:
        assert carried[member].unique().numel() == 1
        assert_is_exact(carried[member][0], weight[member], mask[member])
    assert carried.unique().numel() == len(members)
    whole = gains(weight, mask, gain_groups(module, weight.shape, "layer"))
    assert whole.numel() == 1
    assert (whole * weight).shape == weight.shape
    assert_is_exact(whole, weight, mask)


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
@pytest.mark.parametrize("padding", [None, 0, 2, -1])
def test_a_padding_row_is_zero_and_counts_for_nothing(kind, padding):
    module = kind(4, 3, padding_idx=padding)
    weight, mask = torch.randn(4, 3, generator=torch.Generator().manual_seed(3)), torch.ones(4, 3, dtype=torch.bool)
    mask[1, 2] = False
    rows = [row for row in range(4) if padding is None or row != padding % 4]
    if padding is not None:
        weight[padding] = 1e6
    before = mask.clone()
    per_row = gains(weight, mask, gain_groups(module, (4, 3), "channel"))
    assert torch.equal(mask, before)
    assert per_row.shape == (4, 1)
    for row in rows:
        assert_is_exact(per_row[row], weight[row], mask[row])
    whole = gains(weight, mask, gain_groups(module, (4, 3), "layer")) * torch.ones(4, 3)
    assert whole[rows].unique().numel() == 1
    assert_is_exact(whole[rows[0], 0], weight[rows], mask[rows])
    if padding is not None:
        assert per_row[padding] == 0
        assert whole[padding].tolist() == [0.0] * 3


def test_every_gate_row_of_a_recurrent_layer_is_a_channel():
    module = nn.LSTM(3, 2)
    weight = torch.randn(8, 3, generator=torch.Generator().manual_seed(4))
    gain = gains(weight, torch.ones(8, 3, dtype=torch.bool), gain_groups(module, (8, 3), "channel"))
    np.testing.assert_allclose(gain.numpy(), weight.numpy().__abs__().mean(1, keepdims=True), rtol=1e-6)


def test_in_a_vector_every_weight_is_a_channel_of_its_own():
    weight, mask = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([True, True, False])
    assert gains(weight, mask, gain_groups(nn.Module(), (3,), "channel")).tolist() == [1.0, 2.0, 0.0]
    assert gains(weight, mask, gain_groups(nn.Module(), (3,), "layer")).tolist() == [1.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("per", ["layer", "channel"])
@pytest.mark.parametrize("name", ["conv2d", "transposed in 2 groups"])
def test_gains_are_the_same_bits_in_any_memory_format_and_nothing_is_written(name, per, dtype):
    module = MODULES[name]
    weight = torch.randn(module.weight.shape, generator=torch.Generator().manual_seed(5), dtype=dtype)
    mask = weight > -0.5
    groups = gain_groups(module, weight.shape, per)
    before, expected = weight.clone(), gains(weight, mask, groups)
    assert torch.equal(weight, before)
    last = {"memory_format": torch.channels_last}
    assert torch.equal(gains(weight.to(**last), mask.to(**last), groups), expected)
    assert torch.equal(gains(weight.to(**last), mask, groups), expected)
    weight_view = weight.transpose(0, 1).contiguous().transpose(0, 1)
    assert not weight_view.is_contiguous()
    assert torch.equal(gains(weight_view, mask, groups), expected)
    assert torch.equal(weight_view, before)


def test_no_gradient_flows_through_a_gain():
    weight = torch.randn(2, 3, requires_grad=True)
    assert not gains(
        weight, torch.ones(2, 3, dtype=torch.bool), gain_groups(nn.Module(), (2, 3), "layer")
    ).requires_grad
