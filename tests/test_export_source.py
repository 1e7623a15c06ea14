"""What a writer gets: the network, what is left of it, and a graph where there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import strongticket as st
from strongticket.errors import ExportError
from strongticket.export import source as module_under_test
from strongticket.export.graph import Convolution, Graph, Linear, Normalisation
from strongticket.export.sizes import Sizes, sizes_of
from strongticket.export.source import Source, source_of
from strongticket.models import build
from strongticket.ticket import Ticket


def network() -> nn.Module:
    return build("conv2", input_shape=(1, 8, 8), classes=3, width=0.25)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def found(
    make: Callable[[], nn.Module], *, density: float = 0.1, shape: tuple[int, ...] | None = None, **options: Any
) -> tuple[nn.Module, Ticket]:
    """Return a baked network and its ticket, of random scores and with statistics of one batch of ``shape``."""
    model = make()
    st.attach(model, density=density, seed=3, **options)
    if shape is not None:
        model.train()
        with torch.no_grad():
            model(normal(8, *shape))
    return st.bake(model).eval(), st.extract(model)


def test_edges_that_cannot_matter_are_gone_from_the_module_and_the_graph() -> None:
    reference, ticket = found(network)
    example = normal(5, 1, 8, 8)
    source = source_of(reference, ticket, example)
    assert source.reference is reference
    assert source.plain is not reference
    assert source.census is not None
    assert source.census.before.edges == ticket.kept
    assert source.census.before.weights == ticket.total
    assert source.census.after.edges < ticket.kept
    assert source.census.after.channels < source.census.before.channels
    left = sum(int(parameter.count_nonzero()) for parameter in source.plain.parameters())
    assert source.census.after.edges == left
    assert [tuple(node.shape) for node in source.require_graph().nodes][-1] == (3,)
    torch.testing.assert_close(source.plain(example), reference(example), rtol=1e-5, atol=1e-7)


def test_nothing_is_copied_where_everything_matters() -> None:
    reference, ticket = found(network, density=0.9)
    source = source_of(reference, ticket, normal(2, 1, 8, 8))
    assert source.plain is reference
    assert source.census is not None
    assert source.census.before == source.census.after
    assert source.require_graph().input_shape == (1, 8, 8)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_network_of_signs_keeps_its_decisions(norm: str) -> None:
    def signs() -> nn.Module:
        return build("mlp", input_shape=(1, 8, 8), classes=10, width=0.3, activation="binary", norm=norm)

    reference, ticket = found(signs, density=0.05, shape=(1, 8, 8), binary="weights+activations")
    source = source_of(reference, ticket, normal(5, 1, 8, 8))
    assert source.census is not None
    assert source.census.after.channels < source.census.before.channels
    # In float64, where sums of ± one gain are exact: in float32 rounding decides between classes that are level.
    inputs = normal(50, 1, 8, 8).double()
    found_here, expected = source.plain.double()(inputs), reference.double()(inputs)
    assert torch.equal(found_here.argmax(1), expected.argmax(1))
    torch.testing.assert_close(found_here, expected, rtol=1e-9, atol=1e-9)


def test_the_shape_of_an_input_may_come_from_the_ticket() -> None:
    model = network()
    st.attach(model, density=0.1, seed=3)
    ticket = st.extract(model, model_spec={"input_shape": [1, 8, 8]})
    source = source_of(st.bake(model).eval(), ticket, None)
    assert source.require_graph().input_shape == (1, 8, 8)
    nameless = source_of(st.bake(model).eval(), st.extract(model), None)
    with pytest.raises(ExportError, match="the shape of an input is not known; pass example=batch"):
        nameless.require_graph()


def test_half_precision_is_read_in_single_and_the_module_left_as_it_is() -> None:
    reference, ticket = found(lambda: network().bfloat16())
    source = source_of(reference, ticket, normal(2, 1, 8, 8).bfloat16())
    assert source.plain is reference
    assert next(reference.parameters()).dtype == torch.bfloat16
    kinds = {
        node.operation.weight.dtype
        for node in source.require_graph().nodes
        if isinstance(node.operation, Convolution | Linear)
    }
    assert kinds == {torch.float32}
    assert source.census is not None
    assert source.census.after.edges < source.census.before.edges


def test_a_network_without_a_graph_says_why_when_one_is_required() -> None:
    reference, ticket = found(lambda: nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2)))
    source = source_of(reference, ticket, normal(2, 4))
    assert (source.graph, source.census, source.plain) == (None, None, reference)
    with pytest.raises(ExportError, match=r"^1 \(GELU\) has no form here; onnx"):
        source.require_graph()


class Accumulating(nn.Module):
    """Adds in place, which a traced forward pass does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        first = self.fc(inputs)
        total = first
        total += self.fc(first)
        output: Tensor = self.head(total + first)
        return output


def test_a_graph_that_computes_something_else_is_not_used() -> None:
    reference, ticket = found(Accumulating, density=0.9)
    source = source_of(reference, ticket, normal(2, 4))
    assert source.plain is reference
    with pytest.raises(ExportError, match="the forward pass of Accumulating does more than its layers do"):
        source.require_graph()


def test_a_removal_that_changed_an_output_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = module_under_test.compact

    def tampered(graph: Graph) -> Graph:
        smaller = honest(graph)
        last = smaller.nodes[-1].operation
        assert isinstance(last, Linear)
        last.weight[0] += 0.01
        return smaller

    reference, ticket = found(network)
    monkeypatch.setattr(module_under_test, "compact", tampered)
    source = source_of(reference, ticket, normal(2, 1, 8, 8))
    assert source.plain is reference
    assert source.census is not None
    assert source.census.after == source.census.before


def test_an_example_is_asked_for_by_the_target_that_needs_it() -> None:
    reference, ticket = found(network)
    source = Source(reference, reference, ticket)
    with pytest.raises(ExportError, match="the pt2 target needs an example batch of inputs; pass example=batch"):
        source.require_example("pt2")


def test_sizes_are_of_the_dense_network_and_of_the_masks() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(8)
            self.fc = nn.Linear(8, 4)
            self.scale = nn.Parameter(torch.ones(4))
            self.again = self.scale

        def forward(self, inputs: Tensor) -> Tensor:
            output: Tensor = self.fc(self.norm(inputs)) * self.scale
            return output

    reference, ticket = found(Tied, density=0.25)
    # 4 · 8 of batch norm, 36 of the linear layer, 4 of the scale; the counter of batches is none of them.
    # H(1/4) = 0.811278 bits for each of 32 weights are 25.96 bits, in 4 bytes.
    assert sizes_of(ticket, reference) == Sizes(4 * 72, 4, 4)
    assert isinstance(reference.norm, nn.BatchNorm1d)


def test_batch_norm_of_a_graph_is_that_of_the_network() -> None:
    reference, ticket = found(
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)), density=0.9, shape=(1, 5, 5)
    )
    node = source_of(reference, ticket, normal(2, 1, 5, 5)).require_graph().nodes[1]
    assert isinstance(node.operation, Normalisation)
    assert torch.equal(node.operation.mean, reference[1].running_mean)  # type: ignore[index,union-attr]
