"""Edges that cannot matter go, and nothing else: outputs stay, shapes of input and output stay."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from strongticket.export.graph import (
    Add,
    AveragePool,
    Convolution,
    Flatten,
    Graph,
    Linear,
    MaxPool,
    Node,
    Normalisation,
    Operation,
    Relu,
    Sign,
    Silu,
)
from strongticket.export.graph import constants as constants_module
from strongticket.export.graph.census import Counts, count
from strongticket.export.graph.compact import compact
from strongticket.export.graph.constants import constants_of
from strongticket.export.graph.layers import output_shape
from strongticket.export.graph.network import as_module


class Builder:
    """Appends operations to a graph and works out their shapes."""

    def __init__(self, *input_shape: int) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {Graph.INPUT: input_shape}
        self.nodes: list[Node] = []

    def add(self, operation: Operation, *inputs: str, name: str | None = None) -> str:
        inputs = inputs or (self.nodes[-1].name if self.nodes else Graph.INPUT,)
        name = name or f"{type(operation).__name__.lower()}{len(self.nodes)}"
        self.shapes[name] = output_shape(operation, *(self.shapes[read] for read in inputs))
        self.nodes.append(Node(name, operation, inputs, self.shapes[name]))
        return name

    def graph(self) -> Graph:
        return Graph(self.shapes[Graph.INPUT], tuple(self.nodes), self.nodes[-1].name)


def chain(input_shape: tuple[int, ...], *operations: Operation) -> Graph:
    """Return a graph of operations in a row, called 0, 1, 2, …"""
    builder = Builder(*input_shape)
    for number, operation in enumerate(operations):
        builder.add(operation, name=str(number))
    return builder.graph()


def outputs(graph: Graph, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = as_module(graph)(inputs)
    return found


def whole_numbers(*shape: int, seed: int = 0) -> Tensor:
    """Whole numbers from −3 to 3 in float64: sums and products of a few are exact in any order."""
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).double()


def shapes_of(graph: Graph) -> list[tuple[int, ...]]:
    return [node.shape for node in graph.nodes]


def assert_same_function(graph: Graph, smaller: Graph) -> None:
    inputs = whole_numbers(3, *graph.input_shape, seed=7)
    assert torch.equal(outputs(graph, inputs), outputs(smaller, inputs))
    assert smaller.input_shape == graph.input_shape
    assert all(min(node.shape) > 0 for node in smaller.nodes)
    fresh = Builder(*smaller.input_shape)  # every shape that is said is the one that comes out
    for node in smaller.nodes:
        fresh.add(node.operation, *node.inputs, name=node.name)
    assert shapes_of(fresh.graph()) == shapes_of(smaller)


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def kernels(*values: list[float], size: int = 1) -> Tensor:
    """A weight (out, in, size, size) whose value is the same at all positions of a kernel."""
    return rows(*values)[:, :, None, None].expand(-1, -1, size, size).contiguous()


def standard(channels: int, **options: Tensor) -> Normalisation:
    """Batch norm of mean 0 and variance 1 without epsilon: it changes nothing but for ``options``."""
    given = {"mean": torch.zeros(channels).double(), "variance": torch.ones(channels).double(), **options}
    return Normalisation(epsilon=0.0, **given)  # type: ignore[arg-type]


# By hand


def test_a_unit_without_a_live_input_or_output_goes() -> None:
    graph = chain(
        (2,),
        Linear(rows([1, 2], [0, 0], [3, 0], [0, 4])),  # unit 1 reads nothing
        Relu(),
        Linear(rows([1, 5, 0, 2], [1, 5, 0, 0])),  # nothing reads unit 2
    )
    smaller = compact(graph)
    assert shapes_of(smaller) == [(2,), (2,), (2,)]
    first, _, last = (node.operation for node in smaller.nodes)
    assert isinstance(first, Linear)
    assert isinstance(last, Linear)
    assert first.weight.tolist() == [[1, 2], [0, 4]]
    assert last.weight.tolist() == [[1, 2], [1, 0]]
    assert first.bias is None
    assert last.bias is None
    assert [node.name for node in smaller.nodes] == ["0", "1", "2"]
    assert_same_function(graph, smaller)


def test_what_only_dead_units_read_goes_too() -> None:
    graph = chain(
        (1,), Linear(rows([1], [1])), Relu(), Linear(rows([1, 0], [0, 1])), Relu(), Linear(rows([1, 0], [2, 0]))
    )
    assert shapes_of(compact(graph)) == [(1,), (1,), (1,), (1,), (2,)]


def test_a_bias_alone_is_a_constant_that_moves_on() -> None:
    bias = torch.tensor([0.5, -2.0, 3.0]).double()
    graph = chain((1,), Linear(rows([1], [0], [0]), bias), Relu(), Linear(rows([1, 7, 2], [0, 7, -1])))
    smaller = compact(graph)
    last = smaller.nodes[-1].operation
    assert isinstance(last, Linear)
    assert last.weight.tolist() == [[1], [0]]
    assert last.bias is not None
    assert last.bias.tolist() == [6, -3]  # 2·relu(3) and −relu(3); relu(−2) is nothing
    assert_same_function(graph, smaller)


def test_a_constant_is_added_to_the_bias_that_is_there() -> None:
    builder = Builder(1)
    builder.add(Linear(rows([1], [0]), torch.tensor([0.0, 3.0]).double()))
    builder.add(Linear(rows([1, 2], [1, -1]), torch.tensor([10.0, 20.0]).double()))
    last = compact(builder.graph()).nodes[-1].operation
    assert isinstance(last, Linear)
    assert last.bias is not None
    assert last.bias.tolist() == [16, 17]


def test_a_unit_whose_weights_sum_to_zero_is_alive() -> None:
    graph = chain((2,), Linear(rows([1, -1])), Linear(rows([1], [-1])), Linear(rows([1, 1])))
    assert compact(graph) is graph
    edge = torch.tensor([[[[1.0, -1.0]]]]).double()
    graph = chain((1, 2, 3), Convolution(edge), Convolution(edge))
    assert compact(graph) is graph


def test_a_dead_channel_is_plus_one_behind_a_sign() -> None:
    weight = kernels([0, 0], [1, -1])
    graph = chain((2, 4, 4), Convolution(weight), standard(2), Sign(), Convolution(kernels([3, 1], [-1, 0])))
    smaller = compact(graph)
    last = smaller.nodes[-1].operation
    assert isinstance(last, Convolution)
    assert last.bias is not None
    assert last.bias.tolist() == [3, -1]
    assert shapes_of(smaller) == [(1, 4, 4), (1, 4, 4), (1, 4, 4), (2, 4, 4)]
    assert_same_function(graph, smaller)


def test_a_constant_takes_the_way_of_batch_norm_in_full() -> None:
    norm = standard(2, mean=torch.tensor([1.0, 0]), weight=torch.tensor([2.0, 1]), bias=torch.tensor([-3.0, 0]))
    norm = replace(norm, **{key: getattr(norm, key).double() for key in ("mean", "weight", "bias")})
    graph = chain((1, 2, 2), Convolution(kernels([0], [1])), norm, Convolution(kernels([1, 1])))
    last = compact(graph).nodes[-1].operation
    assert isinstance(last, Convolution)
    assert last.bias is not None
    assert last.bias.tolist() == [-5]  # (0 − 1)·2 − 3
    assert_same_function(graph, compact(graph))


@pytest.mark.parametrize("pool", [MaxPool((3, 3), (1, 1), (1, 1)), AveragePool((2, 2), (2, 2))])
def test_a_constant_passes_pools(pool: Operation) -> None:
    graph = chain((1, 4, 4), Convolution(kernels([0], [1])), Sign(), pool, Convolution(kernels([2, 1])))
    smaller = compact(graph)
    assert shapes_of(smaller)[-2][0] == 1
    assert_same_function(graph, smaller)


# The border


def test_a_constant_other_than_zero_stays_before_a_padded_convolution() -> None:
    graph = chain(
        (1, 4, 4),
        Convolution(kernels([0], [1])),
        Sign(),  # channel 0 is +1 everywhere, and 0 in the border of the next layer
        Convolution(kernels([1, 1], size=3), padding=(1, 1)),
    )
    assert compact(graph) is graph
    unpadded = replace(graph, nodes=(*graph.nodes[:2], chain_node(graph, padding=(0, 0), shape=(1, 2, 2))))
    smaller = compact(unpadded)
    last = smaller.nodes[-1].operation
    assert isinstance(last, Convolution)
    assert last.bias is not None
    assert last.bias.tolist() == [9]
    assert_same_function(unpadded, smaller)


def chain_node(graph: Graph, *, padding: tuple[int, int], shape: tuple[int, ...]) -> Node:
    last = graph.nodes[-1]
    assert isinstance(last.operation, Convolution)
    return replace(last, operation=replace(last.operation, padding=padding), shape=shape)


def test_a_constant_that_stays_is_left_to_all_its_readers() -> None:
    builder = Builder(1, 4, 4)
    builder.add(Convolution(kernels([0], [1])))
    signs = builder.add(Sign())
    padded = builder.add(Convolution(kernels([1, 1], size=3), padding=(1, 1)), signs)
    plain = builder.add(Convolution(kernels([2, 1])), signs)
    builder.add(Add(), padded, plain)
    graph = builder.graph()
    assert compact(graph) is graph


@pytest.mark.parametrize("padding", [(1, 0), (0, 1)])
def test_padding_of_one_side_keeps_a_constant_too(padding: tuple[int, int]) -> None:
    graph = chain(
        (1, 4, 4), Convolution(kernels([0], [1])), Sign(), Convolution(kernels([1, 1], size=3), padding=padding)
    )
    assert compact(graph) is graph


def test_a_zero_goes_before_a_padded_convolution_too() -> None:
    graph = chain(
        (1, 4, 4), Convolution(kernels([0], [1])), Relu(), Convolution(kernels([1, 1], size=3), padding=(1, 1))
    )
    smaller = compact(graph)
    assert shapes_of(smaller) == [(1, 4, 4), (1, 4, 4), (1, 4, 4)]
    assert_same_function(graph, smaller)


def test_a_padded_average_of_a_constant_is_none() -> None:
    pool = AveragePool((2, 2), (2, 2), (1, 1))
    graph = chain((1, 4, 4), Convolution(kernels([0], [1])), Sign(), pool, Convolution(kernels([1, 1])))
    assert compact(graph) is graph


def test_what_differs_at_the_border_is_still_a_constant_for_a_linear_layer() -> None:
    # Channel 0 counts, at each pixel, the pixels around it: 4 in a corner, 6 at a side, 9 inside.
    around = kernels([1, 0], [0, 1], size=3)
    builder = Builder(1, 3, 3)
    for operation in (Convolution(kernels([0], [1])), Sign(), Convolution(around, padding=(1, 1)), Flatten()):
        builder.add(operation)
    builder.add(Linear(torch.cat([whole_numbers(2, 9), torch.ones(2, 9).double()], 1)))
    graph = builder.graph()
    smaller = compact(graph)
    assert shapes_of(smaller) == [(1, 3, 3), (1, 3, 3), (1, 3, 3), (9,), (2,)]
    last = smaller.nodes[-1].operation
    assert isinstance(last, Linear)
    assert last.bias is not None
    assert last.bias.tolist() == (whole_numbers(2, 9) @ torch.tensor([4.0, 6, 4, 6, 9, 6, 4, 6, 4]).double()).tolist()
    assert_same_function(graph, smaller)


def test_a_sign_makes_one_constant_of_what_differs_at_the_border() -> None:
    graph = chain(
        (1, 4, 4),
        Convolution(kernels([0], [1])),
        Sign(),
        Convolution(kernels([1, 0], [0, 1], size=3), padding=(1, 1)),  # 4, 6 or 9 in channel 0
        Sign(),
        Convolution(kernels([1, 1])),
    )
    smaller = compact(graph)
    assert [node.shape[0] for node in smaller.nodes] == [1, 1, 1, 1, 1]
    assert_same_function(graph, smaller)


def test_a_constant_is_one_number_though_kernels_round_by_position(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = constants_module.compute

    def rounding(operation: Operation, *values: Tensor) -> Tensor:
        output = honest(operation, *values)
        return output + 1e-12 * torch.arange(output[0, 0].numel()).reshape(output.shape[2:])

    ones = torch.ones(2).double()
    graph = chain(
        (1, 8, 8),
        Convolution(kernels([0], [1]), ones),
        standard(2, bias=ones),
        Convolution(kernels([1], [1], size=2), groups=2),
        MaxPool((2, 2), (1, 1), (1, 1)),
        AveragePool((2, 2), (1, 1)),
        Convolution(kernels([1, 1])),
    )
    monkeypatch.setattr(constants_module, "compute", rounding)
    smaller = compact(graph)
    assert [node.shape[0] for node in smaller.nodes] == [1] * 6
    last = smaller.nodes[-1].operation
    assert isinstance(last, Convolution)
    assert last.bias is not None
    assert last.bias.tolist() == [8]


def test_weights_that_meet_padding_alone_go() -> None:
    weight = whole_numbers(2, 1, 3, 3).abs() + 1
    smaller = compact(chain((1, 1, 1), Convolution(weight, padding=(1, 1))))
    last = smaller.nodes[-1].operation
    assert isinstance(last, Convolution)
    assert torch.equal(last.weight, weight[:, :, 1:2, 1:2])
    assert last.padding == (0, 0)
    # With a stride of 2 on two pixels the last row and column meet both, the first nothing: only one side goes.
    strided = chain((1, 2, 2), Convolution(weight, stride=(2, 2), padding=(1, 1)))
    last = compact(strided).nodes[-1].operation
    assert isinstance(last, Convolution)
    assert not last.weight[:, :, 0].any()
    assert not last.weight[:, :, :, 0].any()
    assert torch.equal(last.weight[:, :, 1:, 1:], weight[:, :, 1:, 1:])
    assert_same_function(strided, compact(strided))


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation"),
    [
        (size, kernel, *rest)
        for size in range(1, 7)
        for kernel in (2, 3, 5, 7)
        for rest in ((1, 3, 1), (2, 3, 1), (1, 3, 2), (3, 2, 1), (1, 6, 2))
        if size + 2 * rest[1] > rest[2] * (kernel - 1)
    ],
)
def test_cropped_kernels_compute_the_same(size: int, kernel: int, stride: int, padding: int, dilation: int) -> None:
    operation = Convolution(
        whole_numbers(2, 1, kernel, kernel).abs() + 1,
        stride=(stride, 1),
        padding=(padding, padding),
        dilation=(dilation, dilation),
    )
    graph = chain((1, size, size), operation)
    smaller = compact(graph)
    assert_same_function(graph, smaller)
    # Each weight that is left changes the output for some image; a weight of 1 more adds the pixel it meets.
    last = smaller.nodes[-1].operation
    assert isinstance(last, Convolution)
    image = torch.ones(1, 1, size, size).double()
    for row in range(last.weight.shape[2]):
        for column in range(last.weight.shape[3]):
            weight = last.weight.clone()
            weight[0, 0, row, column] += 1
            moved = replace(smaller, nodes=(replace(smaller.nodes[0], operation=replace(last, weight=weight)),))
            differs = not torch.equal(outputs(moved, image), outputs(smaller, image))
            assert differs == bool(last.weight[0, 0, row, column])


# What must go together


def residual(inside: Tensor, first: Tensor, head: Tensor) -> Graph:
    builder = Builder(2, 3, 3)
    stem = builder.add(Convolution(first))
    branch = builder.add(Convolution(inside, padding=(1, 1)), stem)
    builder.add(Add(), branch, stem)
    builder.add(Flatten(), builder.add(AveragePool((3, 3), (1, 1))))
    builder.add(Linear(head))
    return builder.graph()


def test_channels_of_an_addition_live_if_either_does() -> None:
    # Channel 0 lives on both sides, 1 in the branch alone, 2 in the stem alone, 3 on neither side.
    first = kernels([1, 0], [0, 0], [0, 1], [0, 0])
    inside = kernels([1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], size=3)
    graph = residual(inside, first, rows([1, 1, 1, 1]))
    smaller = compact(graph)
    assert shapes_of(smaller) == [(3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 1, 1), (3,), (1,)]
    assert_same_function(graph, smaller)


def test_a_branch_of_nothing_is_no_sum() -> None:
    graph = residual(kernels([0, 0], [0, 0], size=3), kernels([1, 0], [0, 1]), rows([1, 1]))
    smaller = compact(graph)
    assert [type(node.operation) for node in smaller.nodes] == [Convolution, AveragePool, Flatten, Linear]
    assert_same_function(graph, smaller)


def test_two_dead_channels_that_read_each_other_go() -> None:
    builder = Builder(1, 3, 3)
    value = builder.add(Convolution(kernels([1], [1], [1])))
    for _ in range(3):  # channel 1 reads channel 2 in one block and is read by it in the next; the head reads neither
        branch = builder.add(Convolution(kernels([1, 0, 0], [0, 0, 1], [0, 1, 0])), value)
        value = builder.add(Add(), branch, value)
    builder.add(Convolution(kernels([1, 0, 0])))
    graph = builder.graph()
    smaller = compact(graph)
    assert {node.shape[0] for node in smaller.nodes} == {1}
    assert_same_function(graph, smaller)


def test_a_value_added_to_itself_stays_whole() -> None:
    builder = Builder(1, 2, 2)
    value = builder.add(Convolution(kernels([1], [0], [1])))
    builder.add(Add(), value, value)
    builder.add(Convolution(kernels([1, 1, 1])))
    smaller = compact(builder.graph())
    assert shapes_of(smaller) == [(2, 2, 2), (2, 2, 2), (1, 2, 2)]
    assert_same_function(builder.graph(), smaller)


def test_a_channel_between_depthwise_convolutions_goes_with_its_filter() -> None:
    depthwise = Convolution(kernels([1], [1], [2], size=3), padding=(1, 1), groups=3)
    graph = chain(
        (1, 4, 4), Convolution(kernels([1], [0], [1])), Relu(), depthwise, Relu(), Convolution(kernels([1, 1, 0]))
    )
    smaller = compact(graph)
    assert shapes_of(smaller) == [(1, 4, 4)] * 5
    operation = smaller.nodes[2].operation
    assert isinstance(operation, Convolution)
    assert (operation.groups, operation.weight.shape) == (1, (1, 1, 3, 3))
    assert_same_function(graph, smaller)


def test_groups_go_whole_or_stay() -> None:
    first = Convolution(kernels([1], [1], [1], [1], [0], [0], [1], [0]))  # group 2 has no live input
    grouped = Convolution(torch.ones(8, 2, 1, 1).double(), groups=4)
    reads = kernels([1, 0, 0, 0, 1, 1, 1, 1])  # group 0 by its first output, group 1 not at all
    graph = chain((1, 2, 2), first, grouped, Convolution(reads))
    smaller = compact(graph)
    assert shapes_of(smaller) == [(4, 2, 2), (4, 2, 2), (1, 2, 2)]
    left = smaller.nodes[1].operation
    assert isinstance(left, Convolution)
    assert (left.groups, left.weight.flatten(1).tolist()) == (2, [[1, 1], [0, 0], [1, 1], [1, 1]])
    assert_same_function(graph, smaller)


def test_a_channel_before_flattening_goes_with_all_its_positions() -> None:
    reads = rows([0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1])
    graph = chain((1, 2, 2), Convolution(kernels([1], [1], [0])), Flatten(), Linear(reads))
    smaller = compact(graph)
    assert shapes_of(smaller) == [(1, 2, 2), (4,), (1,)]
    assert_same_function(graph, smaller)


def test_a_sum_of_the_input_and_nothing_is_still_a_layer() -> None:
    builder = Builder(2)
    builder.add(Add(), builder.add(Linear(torch.zeros(2, 2).double())), Graph.INPUT)
    smaller = compact(builder.graph())
    assert smaller.nodes
    assert_same_function(builder.graph(), smaller)


def test_statistics_go_with_their_channels() -> None:
    numbers = {name: torch.tensor([5.0, index, 6.0]).double() for index, name in enumerate(("mean", "weight", "bias"))}
    graph = chain(
        (1,),
        Linear(rows([1], [1], [1])),
        Normalisation(variance=torch.tensor([4.0, 16.0, 64.0]).double(), epsilon=0.0, **numbers),
        Linear(rows([0, 1, 0])),
    )
    norm = compact(graph).nodes[1].operation
    assert isinstance(norm, Normalisation)
    assert [float(x) for x in (norm.mean, norm.variance, norm.weight, norm.bias) if x is not None] == [0, 16, 1, 2]


def test_the_input_and_the_output_keep_their_channels() -> None:
    graph = chain((3,), Linear(rows([1, 0, 0], [0, 0, 0])), Relu())
    assert compact(graph) is graph


def test_where_nothing_lives_the_output_is_a_constant() -> None:
    bias = torch.tensor([1.0, -2.0]).double()
    graph = chain(
        (1, 3, 3),
        Convolution(kernels([0], [0])),
        standard(2),
        Sign(),
        Flatten(),
        Linear(torch.zeros(2, 18).double(), bias),
    )
    smaller = compact(graph)
    assert outputs(smaller, whole_numbers(2, 1, 3, 3)).tolist() == [[1, -2], [1, -2]]
    assert shapes_of(smaller) == [(1, 3, 3), (1, 3, 3), (1, 3, 3), (9,), (2,)]
    assert count(smaller).edges == 0


def test_a_gain_of_zero_makes_a_channel_constant() -> None:
    norm = standard(2, weight=torch.tensor([0.0, 1]).double(), bias=torch.tensor([5.0, 0]).double())
    graph = chain((1, 2, 2), Convolution(kernels([1], [1])), norm, Convolution(kernels([1, 1])))
    smaller = compact(graph)
    assert shapes_of(smaller) == [(1, 2, 2), (1, 2, 2), (1, 2, 2)]
    assert_same_function(graph, smaller)


def test_a_constant_that_is_no_number_is_left_alone() -> None:
    graph = chain((1,), Linear(rows([0], [1]), torch.tensor([math.inf, 0]).double()), Linear(rows([1, 1], [0, 1])))
    assert compact(graph) is graph


def test_nothing_of_the_graph_given_is_changed() -> None:
    weight = rows([1, 2], [0, 0])
    graph = chain((2,), Linear(weight, torch.tensor([0.0, 1]).double()), Linear(rows([1, 1], [2, 0])))
    compact(graph)
    assert weight.tolist() == [[1, 2], [0, 0]]
    assert shapes_of(graph) == [(2,), (2,)]


def test_constants_are_known_channel_by_channel() -> None:
    graph = chain(
        (1, 2, 2),
        Convolution(kernels([0], [0], [2]), torch.tensor([1.0, -1.0, 5.0]).double()),
        Relu(),
        Convolution(kernels([1, 0, 0], [0, 1, 0], [0, 0, 1], size=3), padding=(1, 1)),
    )
    known = constants_of(graph)
    assert known[Graph.INPUT].known.tolist() == [False]
    assert [known["1"].known.tolist(), known["1"].uniform.tolist()] == [[True, True, False]] * 2
    assert known["1"].rows.tolist() == [[1] * 4, [0] * 4, [0] * 4]
    assert known["1"].zero.tolist() == [False, True, False]
    assert known["2"].known.tolist() == [True, True, False]
    assert known["2"].rows[0].tolist() == [4] * 4  # each of the four pixels sees all four


# Counts


def test_counts_are_of_weights_edges_channels_and_multiply_adds() -> None:
    graph = chain(
        (2, 4, 4),
        Convolution(kernels([1, 0], [1, 1], [0, 0], size=3), padding=(1, 1), stride=(2, 2)),
        MaxPool((2, 2), (2, 2)),
        Flatten(),
        Linear(rows([1, 0, 1], [0, 0, 0])),
    )
    # 54 weights, 27 of them edges, at 4 positions; then 6 weights and 2 edges.
    assert count(graph) == Counts(60, 29, 5, 54 * 4 + 6, 27 * 4 + 2)
    # Channel 0 is left: 18 weights and 9 edges, 2 weights and 1 edge.
    assert count(compact(graph)) == Counts(20, 10, 3, 18 * 4 + 2, 9 * 4 + 1)


# Any graph


def sparse(shape: tuple[int, ...], density: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(shape, generator=generator) < density
    return torch.where(kept, torch.randint(-2, 3, shape, generator=generator), 0).double()


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Draw a graph of whole numbers, in which torch computes without rounding."""
    density = draw(st.sampled_from([0.0, 0.1, 0.3, 0.6]))
    builder = Builder(draw(st.integers(1, 3)), 4, 4)
    values = [Graph.INPUT]

    def number(low: int, high: int) -> int:
        return draw(st.integers(low, high))

    def convolution(shape: tuple[int, ...]) -> Operation:
        groups = draw(st.sampled_from([g for g in (1, 1, 2, 3, shape[0]) if shape[0] % g == 0]))
        outputs = groups * number(1, 3) if groups > 1 else number(1, 5)
        kernel = draw(st.sampled_from([1, 2, 3])) if min(shape[1:]) >= 3 else 1
        weight = sparse((outputs, shape[0] // groups, kernel, kernel), density, number(0, 999))
        bias = sparse((outputs,), 0.5, number(0, 999)) if draw(st.booleans()) else None
        padding = (number(0, kernel // 2), number(0, kernel // 2))
        return Convolution(weight, bias, (number(1, 2), 1), padding, groups=groups)

    def linear(shape: tuple[int, ...]) -> Operation:
        outputs = number(1, 5)
        bias = sparse((outputs,), 0.5, number(0, 999)) if draw(st.booleans()) else None
        return Linear(sparse((outputs, shape[0]), density, number(0, 999)), bias)

    def norm(shape: tuple[int, ...]) -> Operation:
        affine = [sparse((shape[0],), 0.7, number(0, 999)) for _ in "wb"] if draw(st.booleans()) else [None, None]
        mean, exponents = (sparse((shape[0],), 0.4, number(0, 999)) for _ in "mv")
        return Normalisation(mean, 4.0**exponents, 0.0, *affine)  # a power of 4 has an exact root

    for _ in range(number(1, 9)):
        value = draw(st.sampled_from(values[-3:]))
        shape = builder.shapes[value]
        kinds = [linear, norm] if len(shape) == 1 else [convolution, convolution, norm]
        pools = [MaxPool((2, 2), (1, 2), (1, 1)), AveragePool((2, 2), (2, 1)), AveragePool((2, 2), (2, 2), (1, 1))]
        simple = [
            Relu(),
            Silu(),
            Sign(),
            *([Flatten(), *(pools if min(shape[1:]) > 1 else [])] if len(shape) > 1 else []),
        ]
        same = [other for other in values if builder.shapes[other] == shape and other != Graph.INPUT]
        kind = draw(st.sampled_from(["weighted", "simple", "sum"] if same else ["weighted", "simple"]))
        if kind == "sum":
            values.append(builder.add(Add(), value, draw(st.sampled_from(same))))
        elif kind == "simple":
            values.append(builder.add(draw(st.sampled_from(simple)), value))
        else:
            values.append(builder.add(draw(st.sampled_from(kinds))(shape), value))
    return builder.graph()


@given(graphs())
@settings(max_examples=200)
def test_no_output_of_any_graph_changes(graph: Graph) -> None:
    smaller = compact(graph)
    assert_same_function(graph, smaller)
    before, after = count(graph), count(smaller)
    assert after.edges <= before.edges
    assert after.channels <= before.channels
    assert compact(smaller) is smaller


def reachable(weights: list[Tensor]) -> list[list[bool]]:
    """Say which units of a plain stack of layers lie on a path of edges from an input to an output, without torch."""
    edges = [[[bool(w) for w in row] for row in weight.tolist()] for weight in weights]
    forward = [[True] * len(edges[0][0])]
    for layer in edges:
        forward.append([any(e and f for e, f in zip(row, forward[-1], strict=True)) for row in layer])
    backward = [[True] * len(edges[-1])]
    for layer in reversed(edges):
        backward.append(
            [any(row[i] and b for row, b in zip(layer, backward[-1], strict=True)) for i in range(len(layer[0]))]
        )
    return [
        [f and b for f, b in zip(one, other, strict=True)]
        for one, other in zip(forward, reversed(backward), strict=True)
    ]


@given(
    widths=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    density=st.sampled_from([0.2, 0.4, 0.7]),
    seed=st.integers(0, 999),
)
@settings(max_examples=80)
@pytest.mark.parametrize("between", [Relu(), MaxPool((3, 3), (1, 1), (1, 1))])
def test_what_is_left_of_a_stack_lies_on_paths_from_input_to_output(
    widths: list[int], density: float, seed: int, between: Operation
) -> None:
    weights = [
        sparse((outputs, inputs), density, seed + layer) for layer, (inputs, outputs) in enumerate(pairwise(widths))
    ]
    operations: list[Operation] = []
    for weight in weights:
        operations += [Convolution(weight[:, :, None, None]), between]
    graph = chain((widths[0], 2, 2), *operations[:-1])
    left = [node.shape[0] for node in compact(graph).nodes if isinstance(node.operation, Convolution)]
    on_paths = reachable(weights)
    assert left[:-1] == [max(1, sum(layer)) for layer in on_paths[1:-1]]
    assert left[-1] == widths[-1]
    # An edge is left if both its ends are on paths.
    ends = zip(weights, on_paths[:-1], on_paths[1:], strict=True)
    edges = sum(
        bool(weight[row][column]) and inside[column] and outside[row]
        for weight, inside, outside in ends
        for row in range(len(weight))
        for column in range(weight.shape[1])
    )
    assert count(compact(graph)).edges == edges
