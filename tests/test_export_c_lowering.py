"""From a graph to the steps of a C program."""

from __future__ import annotations

import pytest
import torch
from c_export import GraphBuilder
from torch import Tensor

from strongticket.errors import ExportError
from strongticket.export.c.layers import Affine, BinaryLayer, RealLayer
from strongticket.export.c.lowering import lower
from strongticket.export.c.plan import Program
from strongticket.export.graph import Add, Convolution, Flatten, Graph, Linear, MaxPool, Normalisation, Relu, Sign


def ternary(*shape: int, density: float = 0.5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(shape, generator=generator) < density
    return torch.where(kept, torch.where(torch.rand(shape, generator=generator) < 0.5, -0.5, 0.5), 0)


def normalisation(channels: int) -> Normalisation:
    return Normalisation(torch.zeros(channels), torch.ones(channels), 1e-5)


def kinds(program: Program) -> list[str]:
    return [getattr(step, "function", type(step).__name__) for step in program.steps]


def binary_network(channels: int = 64, density: float = 0.5, last: float = 0.5) -> Graph:
    """A network in the order of VGG-small: convolution, pool, norm, sign; the last layer's outputs are real."""
    builder = GraphBuilder((3, 8, 8))
    value = builder.add(Convolution(ternary(channels, 3, 3, 3), padding=(1, 1)), Graph.INPUT)
    value = builder.add(Sign(), builder.add(normalisation(channels), value))
    value = builder.add(Convolution(ternary(channels, channels, 3, 3, density=density), padding=(1, 1)), value)
    value = builder.add(MaxPool((2, 2), (2, 2)), value)
    value = builder.add(Flatten(), builder.add(Sign(), builder.add(normalisation(channels), value)))
    return builder.graph(builder.add(Linear(ternary(10, 16 * channels, density=last)), value))


def test_norm_and_sign_go_into_the_layer_before_them() -> None:
    program = lower(binary_network())
    assert kinds(program) == ["RealLayer", "BinaryLayer", "Pool", "BinaryLayer", "store"]
    assert [step.output.kind for step in program.steps[:4]] == ["bits", "bits", "bits", "real"]


def test_a_linear_layer_reads_the_bits_of_an_image_where_they_lie() -> None:
    last = lower(binary_network()).steps[3]
    assert isinstance(last, BinaryLayer)
    assert last.window.kernel == (4, 4)
    assert last.window.image == (64, 4, 4)


def test_norm_and_relu_are_the_scale_and_shift_of_a_layer() -> None:
    builder = GraphBuilder((3, 8, 8))
    weight = ternary(4, 3, 3, 3)
    norm = Normalisation(torch.arange(4.0), torch.tensor([3.0] * 4), 1.0, torch.tensor([-2.0] * 4), torch.ones(4))
    value = builder.add(Convolution(weight, torch.tensor([5.0] * 4)), Graph.INPUT)
    program = lower(builder.graph(builder.add(Relu(), builder.add(norm, value))))
    layer = program.steps[0]
    assert kinds(program) == ["RealLayer", "store"]
    assert isinstance(layer, RealLayer)
    assert isinstance(layer.after, Affine)
    # (0.5 · sum + 5 − mean) / √4 · (−2) + 1
    assert layer.after.scale.tolist() == [-0.5] * 4
    assert layer.after.shift.tolist() == [-5.0 + 1 + mean for mean in range(4)]
    assert layer.after.relu


def test_what_two_steps_read_is_computed_by_itself() -> None:
    builder = GraphBuilder((4, 4, 4))
    first = builder.add(Convolution(ternary(4, 4, 1, 1)), Graph.INPUT)
    normed = builder.add(normalisation(4), first)
    program = lower(builder.graph(builder.add(Add(), first, normed)))
    assert kinds(program) == ["RealLayer", "Normalise", "add", "store"]


def test_the_output_of_the_network_is_not_merged_into_what_reads_it() -> None:
    builder = GraphBuilder((4, 4, 4))
    first = builder.add(Convolution(ternary(4, 4, 1, 1)), Graph.INPUT)
    builder.add(Relu(), first)
    assert kinds(lower(builder.graph(first))) == ["RealLayer", "relu", "store"]


def test_float_weights_over_signs_read_real_numbers() -> None:
    builder = GraphBuilder((4, 4, 4))
    weight = torch.arange(16.0).reshape(4, 4, 1, 1)
    value = builder.add(Convolution(weight), builder.add(Sign(), Graph.INPUT))
    assert kinds(lower(builder.graph(value))) == ["load", "signs", "unpack", "RealLayer", "store"]


@pytest.mark.parametrize(("density", "coded"), [(0.02, True), (0.1, True), (0.5, False), (1.0, False)])
def test_a_list_of_edges_is_taken_where_it_is_at_most_half_as_large(density: float, coded: bool) -> None:
    layer = lower(binary_network(density=density, last=0.05)).steps[1]  # far below a sixteenth in all
    assert isinstance(layer, BinaryLayer)
    assert layer.coded == coded
    # The masks are left out where every edge is kept: 1 bit instead of 2 for each of 64 · 64 · 9 weights.
    planes = 64 * 64 * 9 // (8 if density == 1 else 4)
    assert layer.plane_bytes == planes
    assert (2 * len(layer.code.bytes) <= planes) == coded
    assert layer.tables()[0].bytes == (len(layer.code.bytes) if coded else planes)


def test_tables_take_no_more_than_a_sixteenth_of_float_weights() -> None:
    """Planes take exactly that, and thresholds come on top: so some layer is stored as a list of edges."""
    program = lower(binary_network(channels=256, density=0.25))
    layers = [step for step in program.steps if isinstance(step, BinaryLayer)]
    assert program.table_bytes <= 4 * program.weights / 16
    assert [layer.coded for layer in layers] == [True, False]  # the one with more pixels is made into planes


def test_tables_are_counted() -> None:
    program = lower(binary_network())
    assert program.weights == 64 * 27 + 64 * 64 * 9 + 10 * 1024
    # Lists of edges, planes, one limit for each output of the first layer, 16-bit thresholds, a scale and a shift.
    first, second, _, last, _ = program.steps
    assert isinstance(first, RealLayer)
    assert isinstance(second, BinaryLayer)
    assert isinstance(last, BinaryLayer)
    assert program.table_bytes == (
        first.tables()[0].bytes + 4 * 64 + second.tables()[0].bytes + 2 * 64 + last.tables()[0].bytes + 4 + 4
    )


@pytest.mark.parametrize("quantum", [None, 0.5])
@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 1, 8), (2, 2, 9), (3, 2, 7), (1, 3, 10), (1, 1, 5)])
def test_a_frame_holds_all_that_tiles_of_64_sums_read(
    kernel: int, stride: int, size: int, quantum: float | None
) -> None:
    builder = GraphBuilder((3, size, size))
    weight = torch.ones(2, 3, kernel, kernel)
    builder.add(Convolution(weight, stride=(stride, stride), padding=(kernel // 2, kernel // 2)), Graph.INPUT)
    layer = lower(builder.graph("convolution0"), quanta={} if quantum is None else {"convolution0": quantum}).steps[0]
    assert isinstance(layer, RealLayer)
    members = layer.structs()[0].members
    rows, row, values = (int(members[name]) for name in ("rows", "row", "frame_values"))
    out = layer.output.image[1]
    sums = -(-((out - 1) * row + out) // 64) * 64
    last = kernel - 1  # of the taps, in the last channel
    images = (2 * stride + last % stride) * stride + last % stride
    assert (images * rows + last // stride) * row + last // stride + sums <= values
    call = layer.calls(lambda value: value.place, "scratch")[1]
    behind = int(call.removesuffix(");").rpartition("+ ")[2])  # in words, where other scratch begins
    assert behind * (1 if quantum is None else 4) >= values


def test_numbers_that_are_not_finite_are_refused_by_the_name_of_the_layer() -> None:
    builder = GraphBuilder((4, 4, 4))
    value = builder.add(Convolution(ternary(4, 4, 1, 1)), Graph.INPUT)
    norm = Normalisation(torch.zeros(4), torch.tensor([1.0, -2.0, 1.0, 1.0]), 1e-5)
    builder.add(norm, value)
    with pytest.raises(ExportError, match="normalisation1 has numbers that are not finite"):
        lower(builder.graph("normalisation1"))
    builder.add(Sign(), "normalisation1")
    with pytest.raises(ExportError, match="normalisation1 has numbers that are not finite"):
        lower(builder.graph("sign2"))
    broken = GraphBuilder((4,))
    broken.add(Linear(torch.tensor([[1.0, float("nan"), 0, 0]])), Graph.INPUT)
    with pytest.raises(ExportError, match="linear0 has numbers that are not finite"):
        lower(broken.graph("linear0"))
