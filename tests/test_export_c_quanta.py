"""Activations of 8 bits: their quanta, and which values are held so."""

from __future__ import annotations

import pytest
import torch
from c_export import GraphBuilder
from torch import Tensor

from strongticket.errors import ExportError
from strongticket.export.c.quanta import calibrated, held_as_int8, rounded, run, sign_values
from strongticket.export.graph import Add, Convolution, Flatten, Graph, Linear, MaxPool, Relu, Sign


def ternary(*shape: int) -> Tensor:
    signs = torch.randint(-1, 2, shape, generator=torch.Generator().manual_seed(0)).float()
    signs.flatten(1)[:, 0] = 1
    return signs / 2


def residual() -> Graph:
    """Input, a convolution; a second one with pool behind it beside a shortcut; a linear layer."""
    builder = GraphBuilder((2, 4, 4))
    first = builder.add(Relu(), builder.add(Convolution(ternary(3, 2, 3, 3), padding=(1, 1)), Graph.INPUT))
    second = builder.add(Convolution(ternary(3, 3, 3, 3), padding=(1, 1)), first)
    added = builder.add(Add(), second, first)
    third = builder.add(Relu(), builder.add(Convolution(ternary(4, 3, 1, 1)), added))
    flat = builder.add(Flatten(), builder.add(MaxPool((2, 2), (2, 2)), third))
    return builder.graph(builder.add(Linear(ternary(5, 16)), flat))


def example(graph: Graph) -> Tensor:
    return torch.randn(6, *graph.input_shape, generator=torch.Generator().manual_seed(1))


def test_a_quantum_is_the_largest_input_over_127() -> None:
    graph = residual()
    batch = example(graph)
    quanta = calibrated(graph, batch)
    assert list(quanta) == ["convolution0", "convolution2", "convolution4", "linear8"]
    assert quanta["convolution0"] == pytest.approx(float(batch.abs().max()) / 127)
    assert quanta["linear8"] == pytest.approx(float(run(graph, batch)["flatten7"].abs().max()) / 127)


def test_inputs_are_rounded_to_the_nearest_and_no_further_than_127() -> None:
    values = torch.tensor([0.0, 0.49, 0.5, 1.26, -0.5, -0.49, 1000.0, -1000.0])
    assert rounded(values, 1.0).tolist() == [0, 0, 1, 1, -1, 0, 127, -127]
    assert rounded(torch.tensor([0.13, 0.38]), 0.25).tolist() == [0.25, 0.5]


def test_the_network_with_8_bits_differs_by_rounding_alone() -> None:
    graph = residual()
    batch = example(graph)
    real, eight = (run(graph, batch, quanta)["linear8"] for quanta in (None, calibrated(graph, batch)))
    assert 0 < float((real - eight).abs().max()) < 0.05 * float(real.abs().max())


def test_a_value_is_held_in_8_bits_if_such_layers_alone_read_it() -> None:
    graph = residual()
    quanta = calibrated(graph, example(graph))
    # The first activation is read by a sum too, and stays real; the sum has one reader of 8 bits.
    last = quanta["linear8"]
    assert held_as_int8(graph, quanta) == {
        "add3": quanta["convolution4"],
        "relu5": last,
        "maxpool6": last,
        "flatten7": last,
    }


def test_the_output_of_a_network_is_real_whoever_else_reads_it() -> None:
    builder = GraphBuilder((3,))
    first = builder.add(Linear(ternary(2, 3)), Graph.INPUT)
    builder.add(Linear(ternary(2, 2)), first)
    assert held_as_int8(builder.graph(first), {"linear0": 0.1, "linear1": 0.1}) == {}


def test_signs_are_known_through_pools_and_flattening() -> None:
    builder = GraphBuilder((2, 4, 4))
    sign = builder.add(Sign(), Graph.INPUT)
    pooled = builder.add(MaxPool((2, 2), (2, 2)), sign)
    flat = builder.add(Flatten(), pooled)
    added = builder.add(Add(), sign, sign)
    assert sign_values(builder.graph(added)) == {sign, pooled, flat}


def test_a_layer_over_signs_needs_no_quantum() -> None:
    builder = GraphBuilder((2, 4, 4))
    first = builder.add(Convolution(ternary(3, 2, 3, 3)), Graph.INPUT)
    last = builder.add(Convolution(ternary(3, 3, 1, 1)), builder.add(Sign(), first))
    graph = builder.graph(last)
    assert list(calibrated(graph, example(graph))) == [first]


def test_a_network_of_signs_alone_has_nothing_to_calibrate() -> None:
    builder = GraphBuilder((3,))
    graph = builder.graph(builder.add(Linear(ternary(2, 3)), builder.add(Sign(), Graph.INPUT)))
    with pytest.raises(ExportError, match="every layer of this network reads ±1"):
        calibrated(graph, example(graph))


def test_weights_of_several_magnitudes_are_refused_by_the_name_of_their_layer() -> None:
    builder = GraphBuilder((3,))
    builder.add(Linear(torch.randn(4, 3, generator=torch.Generator().manual_seed(0))), Graph.INPUT)
    graph = builder.graph("linear0")
    with pytest.raises(ExportError, match=r"those of linear0 have more than one magnitude.* onnx .*pt2"):
        calibrated(graph, example(graph))


def test_real_inputs_are_needed() -> None:
    with pytest.raises(ExportError, match="calibrated on real inputs; pass example=batch"):
        calibrated(residual(), None)
    with pytest.raises(ExportError, match="the input of convolution0 is not finite"):
        calibrated(residual(), example(residual()) / 0)


def test_an_input_that_is_0_has_some_quantum() -> None:
    assert set(calibrated(residual(), torch.zeros(1, 2, 4, 4)).values()) == {1.0}
