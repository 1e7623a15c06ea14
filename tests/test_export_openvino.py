"""The target ``openvino``, and the traps of its binary kernels."""

from __future__ import annotations

import gc
import platform
import signal
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from exports import found, normal
from forks import forked
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor, nn

import strongticket as st
from strongticket.errors import ConfigError, ExportError, MissingExtraError
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
from strongticket.export.openvino import writing as target
from strongticket.export.openvino.model import build
from strongticket.models import build as build_network
from strongticket.weights import BinaryActivation

openvino = pytest.importorskip("openvino")

CONFIGURATION = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 0}
Steps = list[tuple[Operation, tuple[int, ...]]]


def ternary(*shape: int, density: float = 0.5, seed: int = 2) -> Tensor:
    """Return weights of 0 and of ± one power of two a channel, so that sums in float32 are exact."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(shape, generator=generator) < density
    signs = torch.where(torch.rand(shape, generator=generator) < 0.5, -1.0, 1.0)
    gain = 2.0 ** torch.randint(-3, 3, (shape[0],), generator=generator)
    return signs * kept * gain.reshape(-1, *(1,) * (len(shape) - 1))


def sign(values: Tensor) -> Tensor:
    return torch.where(values >= 0, 1.0, -1.0)


def chain(input_shape: tuple[int, ...], *steps: tuple[Operation, tuple[int, ...]]) -> Graph:
    """Return a graph of operations one after another, each with the shape of its output."""
    nodes, before = [], Graph.INPUT
    for number, (operation, shape) in enumerate(steps):
        nodes.append(Node(f"node{number}", operation, (before,), shape))
        before = nodes[-1].name
    return Graph(input_shape, tuple(nodes), before)


def kinds(model: Any) -> list[str]:
    return [operation.get_type_name() for operation in model.get_ordered_ops()]


def output_of(model: Any, batch: Tensor) -> np.ndarray:
    compiled = target.core().compile_model(model, "CPU", CONFIGURATION)
    output: np.ndarray = compiled(batch.numpy(), share_inputs=False)[0]
    return np.array(output)


def assert_computes(graph: Graph, batch: Tensor, expected: Tensor, *, binary: int) -> None:
    """Check one graph at one batch: the number of binary convolutions, and the outputs to the last bit."""
    model = build(graph, len(batch))
    assert kinds(model).count("BinaryConvolution") == binary
    np.testing.assert_array_equal(output_of(model, batch), expected.numpy())


# Binary layers.


@settings(max_examples=60)
@given(
    some.integers(1, 13),
    some.integers(1, 35),
    some.tuples(some.integers(1, 5), some.integers(1, 5)),
    # One stride for both directions: with two, an ordinary convolution of the runtime (2026.4) may be wrong.
    some.integers(1, 4).map(lambda stride: (stride, stride)),
    some.tuples(some.integers(0, 2), some.integers(0, 2)),
    some.tuples(some.integers(1, 2), some.integers(1, 2)),
    some.tuples(some.integers(1, 9), some.integers(1, 9)),
)
def test_a_zero_in_the_padding_is_neither_plus_nor_minus_one(
    channels: int,
    outputs: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    size: tuple[int, int],
) -> None:
    weight, batch = ternary(outputs, channels, *kernel), normal(2, channels, *size)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if any(n + 2 * p < r for n, p, r in zip(size, padding, reach, strict=True)):
        return
    expected = F.conv2d(sign(batch), weight, None, stride, padding, dilation)
    layer = Convolution(weight, None, stride, padding, dilation)
    graph = chain((channels, *size), (Sign(), (channels, *size)), (layer, tuple(expected.shape[1:])))
    model = build(graph, 2)
    np.testing.assert_array_equal(output_of(model, batch), expected.numpy())


@pytest.mark.parametrize("channels", [1, 3, 4, 8, 33])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_padded_convolution_of_signs_is_binary_and_exact(channels: int, batch: int) -> None:
    weight, inputs = ternary(19, channels, 3, 3), normal(batch, channels, 5, 6)
    graph = chain((channels, 5, 6), (Sign(), (channels, 5, 6)), (Convolution(weight, padding=(1, 1)), (19, 5, 6)))
    assert_computes(graph, inputs, F.conv2d(sign(inputs), weight, padding=1), binary=1)


@pytest.mark.parametrize("features", [1, 10, 64, 515])
def test_a_linear_layer_over_signs_is_a_binary_convolution(features: int) -> None:
    weight, bias, inputs = ternary(7, features), torch.arange(7.0), normal(3, features)
    graph = chain((features,), (Sign(), (features,)), (Linear(weight, bias), (7,)))
    assert_computes(graph, inputs, F.linear(sign(inputs), weight, bias), binary=1)


def test_a_linear_layer_reads_an_image_channel_by_channel() -> None:
    weight, inputs = ternary(5, 24), normal(2, 4, 2, 3)
    graph = chain((4, 2, 3), (Sign(), (4, 2, 3)), (Flatten(), (24,)), (Linear(weight), (5,)))
    assert_computes(graph, inputs, F.linear(sign(inputs).flatten(1), weight), binary=1)


def test_grouped_layers_and_real_weights_over_signs_are_ordinary_convolutions() -> None:
    inputs, grouped, real = normal(2, 4, 5, 5), ternary(8, 2, 3, 3), normal(3, 8, 1, 1).round(decimals=1)
    graph = chain(
        (4, 5, 5),
        (Sign(), (4, 5, 5)),
        (Convolution(grouped, groups=2), (8, 3, 3)),
        (Sign(), (8, 3, 3)),
        (Convolution((16 * real).round(), torch.arange(3.0)), (3, 3, 3)),
    )
    hidden = F.conv2d(sign(inputs), grouped, groups=2)
    expected = F.conv2d(sign(hidden), (16 * real).round(), torch.arange(3.0))
    assert_computes(graph, inputs, expected, binary=0)


def norm_of(channels: int, *, affine: bool = True) -> Normalisation:
    """Return a batch norm with scales of both signs and one of 0, and means at which whole numbers are zero."""
    weight = normal(channels, seed=3)
    weight[0] = 0
    mean = torch.arange(channels) % 3 - 1.0
    if not affine:
        return Normalisation(mean, torch.ones(channels), 0.0)
    return Normalisation(mean, torch.ones(channels), 0.0, weight, (torch.arange(channels) % 2) - 0.0)


def normalised(values: Tensor, norm: Normalisation) -> Tensor:
    """Return batch norm by its formula, in float64."""
    shape = (1, -1, *(1,) * (values.dim() - 2))
    deviation = (norm.variance.double() + norm.epsilon).sqrt().reshape(shape)
    values = (values.double() - norm.mean.double().reshape(shape)) / deviation
    return values if norm.weight is None else values * norm.weight.reshape(shape) + norm.bias.reshape(shape)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("pool", [False, True])
def test_batch_norm_and_sign_are_one_threshold_a_channel(affine: bool, pool: bool) -> None:
    first, second, inputs = ternary(12, 5, 3, 3).sign(), ternary(6, 12, 3, 3), normal(3, 5, 8, 8)
    norm, side = norm_of(12, affine=affine), 4 if pool else 8
    steps: Steps = [(Sign(), (5, 8, 8)), (Convolution(first, padding=(1, 1)), (12, 8, 8))]
    steps += [(MaxPool((2, 2), (2, 2)), (12, 4, 4))] if pool else []
    steps += [
        (norm, (12, side, side)),
        (Sign(), (12, side, side)),
        (Convolution(second, padding=(1, 1)), (6, side, side)),
    ]
    hidden = F.conv2d(sign(inputs), first, padding=1)
    hidden = normalised(F.max_pool2d(hidden, 2) if pool else hidden, norm)
    assert (hidden == 0).any()
    graph = chain((5, 8, 8), *steps)
    assert_computes(graph, inputs, F.conv2d(sign(hidden).float(), second, padding=1), binary=2)
    found = kinds(build(graph, 3))
    assert (found.count("Multiply"), found.count("Add")) == (1, 0)  # the gain of the output, and no norm


@pytest.mark.parametrize("weight", [1.0, -1.0])
def test_a_pool_after_a_falling_norm_takes_what_is_largest_after_it(weight: float) -> None:
    inputs, second = normal(2, 4, 6, 6), ternary(3, 4, 1, 1)
    norm = Normalisation(torch.zeros(4), torch.ones(4), 0.0, torch.tensor([weight] * 4), torch.full((4,), 0.25))
    pool = MaxPool((3, 3), (2, 2), (1, 1))
    steps: Steps = [(norm, (4, 6, 6)), (pool, (4, 3, 3)), (Sign(), (4, 3, 3)), (Convolution(second), (3, 3, 3))]
    pooled = F.max_pool2d(weight * inputs + 0.25, 3, 2, 1)
    assert_computes(chain((4, 6, 6), *steps), inputs, F.conv2d(sign(pooled), second), binary=1)
    # And the pool of a sign is the sign of the pool.
    steps = [steps[0], (Sign(), (4, 6, 6)), steps[1], steps[3]]
    assert_computes(chain((4, 6, 6), *steps), inputs, F.conv2d(sign(pooled), second), binary=1)


# The traps.


def test_two_binary_convolutions_may_be_added_before_a_sign() -> None:
    first, second, third = (ternary(16, 16, 3, 3, seed=seed).sign() for seed in (3, 4, 5))
    image, inputs = (16, 6, 6), normal(2, 16, 6, 6)
    nodes = (
        Node("sign", Sign(), ("input",), image),
        Node("a", Convolution(first, padding=(1, 1)), ("sign",), image),
        Node("b", Convolution(second, padding=(1, 1)), ("sign",), image),
        Node("sum", Add(), ("a", "b"), image),
        Node("sign2", Sign(), ("sum",), image),
        Node("c", Convolution(third, padding=(1, 1)), ("sign2",), image),
    )
    hidden = F.conv2d(sign(inputs), first, padding=1) + F.conv2d(sign(inputs), second, padding=1)
    expected = F.conv2d(sign(hidden), third, padding=1)
    assert_computes(Graph(image, nodes, "c"), inputs, expected, binary=3)


@pytest.mark.parametrize("after", ["nothing", "relu", "silu", "mean", "norm", "pool", "real layer"])
def test_a_sign_that_no_binary_layer_reads_is_computed_without_fake_quantize(after: str) -> None:
    image, inputs = (8, 4, 4), normal(2, 8, 4, 4)
    real = normal(3, 8, 1, 1).mul(16).round()
    norm = Normalisation(torch.ones(8), torch.ones(8), 0.0)
    steps, expected = {
        "nothing": ([], sign(inputs)),
        "relu": ([(Relu(), image)], sign(inputs).relu()),
        "silu": ([(Silu(), image)], sign(inputs) / (1 + torch.exp(-sign(inputs)))),
        "mean": ([(AveragePool((4, 4), (1, 1)), (8, 1, 1))], sign(inputs).mean((2, 3), keepdim=True)),
        "norm": ([(norm, image)], sign(inputs) - 1),
        "pool": ([(MaxPool((2, 2), (2, 2)), (8, 2, 2))], F.max_pool2d(sign(inputs), 2)),
        "real layer": ([(Convolution(real), (3, 4, 4))], F.conv2d(sign(inputs), real)),
    }[after]
    graph = chain(image, (Sign(), image), *steps)
    assert "FakeQuantize" not in kinds(build(graph, 2))
    assert_computes(graph, inputs, expected, binary=0)


@pytest.mark.parametrize("weight", [1.0, -1.0])
@pytest.mark.parametrize("rank", [1, 3])
def test_a_sign_is_plus_one_where_a_rising_or_falling_norm_gives_zero(weight: float, rank: int) -> None:
    shape = (4,) if rank == 1 else (4, 1, 1)
    inputs = (torch.arange(20.0) - 10).reshape(5, *shape)
    means = torch.tensor([-2.0, 1.0, 0.0, 9.0])
    norm = Normalisation(means, torch.ones(4), 0.0, torch.full((4,), weight), torch.zeros(4))
    expected = sign(normalised(inputs, norm)).float()
    assert (normalised(inputs, norm) == 0).any()
    assert_computes(chain(shape, (norm, shape), (Sign(), shape)), inputs, expected, binary=0)


def test_padding_counts_in_an_average() -> None:
    inputs = (torch.arange(32.0) + 1).reshape(1, 2, 4, 4)
    graph = chain((2, 4, 4), (AveragePool((2, 2), (2, 2), (1, 1)), (2, 3, 3)))
    output = output_of(build(graph, 1), inputs)
    assert output[0, 0].tolist() == [[0.25, 1.25, 1], [3.5, 8.5, 5], [3.25, 7.25, 4]]


def test_a_sign_may_be_read_by_binary_and_other_layers() -> None:
    weight, image, inputs = ternary(8, 8, 3, 3), (8, 5, 5), normal(2, 8, 5, 5)
    nodes = (
        Node("sign", Sign(), ("input",), image),
        Node("layer", Convolution(weight, padding=(1, 1)), ("sign",), image),
        Node("sum", Add(), ("layer", "sign"), image),
    )
    expected = F.conv2d(sign(inputs), weight, padding=1) + sign(inputs)
    assert_computes(Graph(image, nodes, "sum"), inputs, expected, binary=1)


def constants_read_by(operation: Any) -> list[np.ndarray]:
    return [value.get_node().data for value in operation.input_values()[1:]]


def test_activations_are_zero_or_one_at_two_equal_ends_and_read_by_binary_layers_only() -> None:
    weight, inputs_shape = ternary(6, 5, 3, 3).sign(), (5, 4, 4)
    steps: Steps = [
        (norm_of(5), inputs_shape),
        (Sign(), inputs_shape),
        (Convolution(weight, padding=(1, 1)), (6, 4, 4)),
    ]
    model = build(chain(inputs_shape, *steps), 1)
    (quantize,) = (operation for operation in model.get_ops() if operation.get_type_name() == "FakeQuantize")
    low, high, out_low, out_high = constants_read_by(quantize)
    assert quantize.get_attributes()["levels"] == 2
    assert low.tolist() == high.tolist()
    assert sorted(np.unique(np.concatenate([out_low, out_high]))) == [0, 1]
    assert (out_low + out_high == 1).all()
    (reader,) = quantize.output(0).get_target_inputs()
    assert reader.get_node().get_type_name() == "BinaryConvolution"


def test_weight_bits_are_little_endian_and_fill_whole_bytes() -> None:
    weight = torch.tensor([[1.0, -1.0, 0.0, 1.0], [-1.0, -1.0, 1.0, 0.0]])[:, :, None, None]
    model = build(chain((4, 1, 1), (Sign(), (4, 1, 1)), (Convolution(weight), (2, 1, 1))), 1)
    (layer,) = (operation for operation in model.get_ops() if operation.get_type_name() == "BinaryConvolution")
    (filters,) = (value.get_node() for value in layer.input_values()[1:])
    assert list(filters.output(0).shape) == [2, 8, 1, 1]
    # a = 1 for w ≥ 0, then b = 1 for w > 0: bits 1011 1001 and 0011 0010, the first of them the lowest.
    assert filters.data.reshape(-1).view(np.uint8).tolist() == [0b1001_1101, 0b0100_1100]


def test_a_model_does_not_share_memory_with_the_network() -> None:
    weights = {"ternary": ternary(8, 8, 3, 3), "real": normal(4, 8, 1, 1).mul(16).round()}
    norm = Normalisation(torch.ones(8), torch.ones(8), 0.0)
    image, inputs = (8, 4, 4), normal(1, 8, 4, 4)
    expected = F.conv2d(F.conv2d(sign(inputs), weights["ternary"], padding=1) - 1, weights["real"])
    layer, last = Convolution(weights["ternary"], padding=(1, 1)), Convolution(weights["real"])
    model = build(chain(image, (Sign(), image), (layer, image), (norm, image), (last, (4, 4, 4))), 1)
    for tensor in (*weights.values(), norm.mean, norm.variance):
        tensor.fill_(7)
    del weights, layer, last, norm
    gc.collect()
    clutter = [np.full(1000, 255, np.uint8) for _ in range(1000)]
    np.testing.assert_array_equal(output_of(model, inputs), expected.numpy())
    assert len(clutter) == 1000


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="compiled kernels are for x86 only")
def test_binary_layers_run_in_compiled_kernels() -> None:
    weight, image = ternary(32, 32, 3, 3), (32, 8, 8)
    steps: Steps = [(Sign(), image), (Convolution(weight, padding=(1, 1)), image)]
    compiled = target.core().compile_model(build(chain(image, *steps), 1), "CPU", CONFIGURATION)
    layers = [dict(operation.get_rt_info()) for operation in compiled.get_runtime_model().get_ops()]
    found = {str(info["layerType"].value): str(info["primitiveType"].value) for info in layers}
    assert found["BinaryConvolution"].startswith("jit_")


# Networks, through the public function.


def small(name: str, *, activation: str | None = "binary") -> Callable[[], nn.Module]:
    return lambda: build_network(name, input_shape=(3, 8, 8), classes=5, width=0.25, activation=activation)


def hand_made() -> nn.Module:
    """Order, odd channels and paddings that no built-in network has."""
    return nn.Sequential(
        nn.Conv2d(3, 7, 5, padding=2),
        nn.BatchNorm2d(7),
        BinaryActivation(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(7, 14, 3, stride=2, padding=1, groups=7),
        BinaryActivation(),
        nn.Conv2d(14, 9, 1),
        nn.BatchNorm2d(9),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(9, 6),
        BinaryActivation(),
        nn.Linear(6, 5),
    )


@pytest.mark.parametrize(
    ("build_it", "options"),
    [
        (small("conv2"), {}),
        (small("vgg-small"), {"density": 0.25}),
        (small("cifar-resnet20"), {}),
        (small("conv2", activation=None), {}),
        (small("conv2", activation=None), {"weights": "kaiming-normal"}),
        (small("cifar-resnet20", activation=None), {"density": 0.2}),
        (small("cifar-resnet9", activation="silu"), {"rule": "multicoated"}),
        (hand_made, {}),
        (lambda: hand_made().double(), {}),
        (lambda: small("conv2", activation=None)().bfloat16(), {}),
    ],
    ids=["conv2", "vgg", "resnet", "relu", "real", "real resnet", "silu", "hand made", "double", "half"],
)
def test_the_files_compute_what_torch_computes(
    build_it: Callable[[], nn.Module], options: dict[str, Any], tmp_path: Path
) -> None:
    dtype = next(build_it().parameters()).dtype
    example, path = normal(3, 3, 8, 8).to(dtype), tmp_path / "net.xml"
    ticket = found(build_it, example, **options)
    report = st.export(ticket, build_it(), path, to="openvino", example=example)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.bin", "net.xml"]
    assert report.bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert report.inputs == 16 + 1 + 3 + 1
    plain, inputs = st.bake(st.apply(ticket, build_it())).double(), normal(7, 3, 8, 8, seed=5)
    with torch.no_grad():
        expected = plain(inputs.double()).numpy()
    model = target.core().read_model(path)
    one = output_of(model, inputs[:1])
    model.reshape([7, 3, 8, 8])
    seven = output_of(model, inputs)
    for computed, wanted in ((one, expected[:1]), (seven, expected)):
        np.testing.assert_allclose(computed, wanted, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_the_batch_of_the_file_is_fixed_and_can_be_chosen(tmp_path: Path) -> None:
    example = normal(3, 3, 8, 8)
    ticket = found(small("conv2"), example)
    for batch, name in ((1, "one.xml"), (4, "four.xml")):
        options = {} if batch == 1 else {"batch": batch}
        st.export(ticket, small("conv2")(), tmp_path / name, to="openvino", example=example, **options)
        model = target.core().read_model(tmp_path / name)
        assert not model.is_dynamic()
        (entry,), (result,) = model.inputs, model.outputs
        assert (entry.any_name, list(entry.shape)) == ("input", [batch, 3, 8, 8])
        assert (result.any_name, list(result.shape)) == ("output", [batch, 5])


def test_a_signal_after_two_exports_finds_a_stack_for_its_handler(tmp_path: Path) -> None:
    example = normal(2, 3, 8, 8)
    ticket = found(small("conv2"), example)
    for name in ("one.xml", "two.xml"):
        st.export(ticket, small("conv2")(), tmp_path / name, to="openvino", example=example)
    gc.collect()

    def be_told() -> None:
        signal.signal(signal.SIGUSR1, lambda number, frame: None)
        signal.raise_signal(signal.SIGUSR1)

    assert forked(be_told) == 0


def test_two_runs_of_the_verification_do_not_share_their_outputs(tmp_path: Path) -> None:
    example = normal(2, 3, 8, 8)
    st.export(found(small("conv2"), example), small("conv2")(), tmp_path / "n.xml", to="openvino", example=example)
    run = target._runtime(tmp_path / "n.xml")
    (first,) = run(example)
    before = first.clone()
    (second,) = run(-example)
    assert torch.equal(first, before)
    assert not torch.equal(first, second)


def test_binary_weights_take_two_bits_and_ternary_ones_a_byte(tmp_path: Path) -> None:
    example = normal(2, 3, 8, 8)
    sizes = {}
    for activation in ("binary", None):
        build_it = small("conv4", activation=activation)
        st.export(
            found(build_it, example), build_it(), tmp_path / "n.xml", to="openvino", example=example, overwrite=True
        )
        sizes[activation] = (tmp_path / "n.bin").stat().st_size
    layers = [(16, 3, 9), (16, 16, 9), (32, 16, 9), (32, 32, 9), (64, 128, 1), (64, 64, 1), (5, 64, 1)]
    weights = [a * b * c for a, b, c in layers]
    channels = sum(outputs for outputs, *_ in layers)
    # The first layer reads real images. A channel has eight thresholds and ends of four bytes, twice over.
    assert sizes["binary"] <= weights[0] + sum(weights[1:]) / 4 + 2 * 4 * 4 * (channels + 128) + 1000
    assert sizes[None] <= sum(weights) + 2 * 4 * channels + 1000


def test_the_files_name_no_path_of_this_machine(tmp_path: Path) -> None:
    example = normal(2, 3, 8, 8)
    st.export(found(small("conv2"), example), small("conv2")(), tmp_path / "n.xml", to="openvino", example=example)
    assert str(tmp_path).encode() not in (tmp_path / "n.xml").read_bytes()
    assert str(Path(st.__file__).parent).encode() not in (tmp_path / "n.xml").read_bytes()


# What must get one clear line, and no file.


def assert_refused(match: str, error: type[Exception], folder: Path, *, name: str = "net.xml", **options: Any) -> None:
    build_it = options.pop("build_it", small("conv2"))
    example = options.pop("example", normal(2, 3, 8, 8))
    ticket = found(build_it, normal(2, 3, 8, 8))
    with pytest.raises(error, match=match) as caught:
        st.export(ticket, build_it(), folder / name, to="openvino", example=example, **options)
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == []


def test_a_path_without_xml_is_refused(tmp_path: Path) -> None:
    assert_refused(r"net does not end in .xml; OpenVINO writes NAME.xml", ExportError, tmp_path, name="net")


@pytest.mark.parametrize("batch", [0, -1, 2.5, True, "four"])
def test_a_batch_that_is_no_count_is_refused(tmp_path: Path, batch: Any) -> None:
    assert_refused(r"batch is .*; expected a whole number of at least 1", ConfigError, tmp_path, batch=batch)


def test_an_example_is_needed(tmp_path: Path) -> None:
    assert_refused("needs an example batch of inputs", ExportError, tmp_path, example=None)


def test_a_layer_that_no_graph_has_is_named(tmp_path: Path) -> None:
    def build_it() -> nn.Module:
        layers = {"conv": nn.Conv2d(3, 4, 3), "odd": nn.GELU(), "flat": nn.Flatten(), "fc": nn.Linear(144, 5)}
        return nn.Sequential(OrderedDict(layers))

    assert_refused("odd", ExportError, tmp_path, build_it=build_it)


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert_refused(r"needs openvino .*pip install 'strongticket\[openvino\]'", MissingExtraError, tmp_path)


def test_a_model_that_computes_something_else_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(graph: Graph, batch: int) -> Any:
        (*others, last) = graph.nodes
        broken = Node(last.name, Linear(-last.operation.weight), last.inputs, last.shape)  # type: ignore[union-attr]
        return build(Graph(graph.input_shape, (*others, broken), graph.output), batch)

    monkeypatch.setattr(target, "build", wrong)
    assert_refused("does not compute what the network computes", ExportError, tmp_path)


def test_an_export_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    example = normal(2, 3, 8, 8)
    st.export(found(small("conv2"), example), small("conv2")(), tmp_path / "n.xml", to="openvino", example=example)
    assert capfd.readouterr() == ("", "")
