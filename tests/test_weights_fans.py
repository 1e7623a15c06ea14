"""The fans of every kind of tensor, counted by hand or by pushing ones through the module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from strongticket.weights import Fans, fans_of


def fans(module: nn.Module, tensor: str = "weight") -> Fans:
    return fans_of(module, tensor, tuple(module.get_parameter(tensor).shape))


def test_linear_layers_have_their_inputs_and_outputs() -> None:
    assert fans(nn.Linear(3, 5)) == Fans(3, 5)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Conv1d(3, 8, 5), Fans(15, 40)),
        (nn.Conv2d(3, 8, (5, 2)), Fans(30, 80)),
        (nn.Conv3d(2, 4, 3), Fans(54, 108)),
        (nn.Conv2d(6, 12, 3, groups=3), Fans(18, 36)),
        (nn.Conv2d(8, 8, 3, groups=8), Fans(9, 9)),
    ],
)
def test_convolutions_count_kernels_within_a_group(module: nn.Module, expected: Fans) -> None:
    assert fans(module) == expected


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.ConvTranspose2d(4, 6, 3), Fans(36, 54)),
        (nn.ConvTranspose2d(4, 6, 4, stride=2), Fans(16, 96)),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), Fans(4, 24)),
        (nn.ConvTranspose2d(4, 6, 4, stride=2, groups=2), Fans(8, 48)),
        (nn.ConvTranspose1d(5, 2, 3, stride=2), Fans(8, 6)),  # 7.5 on average
        (nn.ConvTranspose3d(2, 3, 2, stride=(1, 2, 2)), Fans(4, 24)),
        (nn.ConvTranspose2d(4, 6, 1, stride=3), Fans(4, 6)),  # outputs between the strides get no edge
        (nn.ConvTranspose1d(4, 6, 3, stride=2, dilation=2), Fans(12, 18)),  # every tap meets in one output
    ],
)
def test_transposed_convolutions_divide_by_the_outputs_a_stride_spreads_over(module: nn.Module, expected: Fans) -> None:
    assert fans(module) == expected


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"stride": 3}, {"stride": 2, "dilation": 2}, {"groups": 2}])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 6])
def test_transposed_fan_in_is_the_mean_number_of_edges_into_outputs_that_have_any(
    size: int, options: dict[str, Any]
) -> None:
    module = nn.ConvTranspose1d(4, 2, size, bias=False, **options)
    with torch.no_grad():
        module.weight.fill_(1)
        edges = module(torch.ones(1, 4, 60))[0, 0, 24:36]  # away from the borders: whole periods of 1, 2, 3
    assert fans(module).fan_in == round(edges[edges > 0].mean().item())


@pytest.mark.parametrize("module", [nn.Embedding(100, 16), nn.EmbeddingBag(100, 16)])
def test_an_embedding_reads_one_row(module: nn.Module) -> None:
    assert fans(module) == Fans(1, 16)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_recurrent_matrices_have_the_fans_of_one_gate(kind: Callable[..., nn.Module]) -> None:
    module = kind(5, 7, num_layers=2, bidirectional=True)
    assert fans(module, "weight_ih_l0") == Fans(5, 7)
    assert fans(module, "weight_hh_l0") == Fans(7, 7)
    assert fans(module, "weight_ih_l1_reverse") == Fans(14, 7)  # both directions of the layer below


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_recurrent_cells_have_the_fans_of_one_gate(kind: Callable[..., nn.Module]) -> None:
    module = kind(5, 7)
    assert fans(module, "weight_ih") == Fans(5, 7)
    assert fans(module, "weight_hh") == Fans(7, 7)


def test_a_projected_lstm_reads_its_projection() -> None:
    module = nn.LSTM(5, 7, proj_size=3)
    assert fans(module, "weight_hh_l0") == Fans(3, 7)
    assert fans(module, "weight_hr_l0") == Fans(7, 3)


def test_packed_attention_projections_count_apart() -> None:
    module = nn.MultiheadAttention(12, 3)
    assert fans(module, "in_proj_weight") == Fans(12, 12)
    assert fans(module.out_proj) == Fans(12, 12)


def test_separate_attention_projections_are_linear() -> None:
    module = nn.MultiheadAttention(12, 3, kdim=5, vdim=6)
    assert fans(module, "q_proj_weight") == Fans(12, 12)
    assert fans(module, "k_proj_weight") == Fans(5, 12)
    assert fans(module, "v_proj_weight") == Fans(6, 12)


def test_a_bilinear_layer_sums_all_pairs() -> None:
    assert fans(nn.Bilinear(3, 4, 5)) == Fans(12, 20)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((6, 4), Fans(4, 6)), ((6, 4, 3), Fans(12, 18)), ((7,), Fans(7, 7)), ((), Fans(1, 1)), ((0, 4), Fans(4, 1))],
)
def test_bare_parameters_read_as_matrices_or_kernels(shape: tuple[int, ...], expected: Fans) -> None:
    assert fans_of(nn.Module(), "anything", shape) == expected


@pytest.mark.parametrize("module", [nn.Linear(3, 5), nn.Conv2d(3, 5, 3), nn.ConvTranspose2d(3, 5, 3)])
def test_a_bias_has_its_length_for_both_fans(module: nn.Module) -> None:
    assert fans(module, "bias") == Fans(5, 5)


def test_another_parameter_of_a_known_layer_is_a_bare_one() -> None:
    assert fans_of(nn.Embedding(100, 16), "lookup_correction", (16, 4)) == Fans(4, 16)
