"""A network of torch as a graph, and the graph as a module that computes the same, bit for bit."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strongticket.errors import ExportError
from strongticket.export.graph import (
    AveragePool,
    Convolution,
    Flatten,
    Graph,
    Linear,
    MaxPool,
    Normalisation,
    Relu,
    Sign,
)
from strongticket.export.graph.network import as_module
from strongticket.export.graph.reading import read_graph
from strongticket.models import build
from strongticket.models.registry import OWN
from strongticket.weights import BinaryActivation


def ready(network: nn.Module, *, seed: int = 1) -> nn.Module:
    """Return the network in evaluation mode with statistics that are not those of a fresh one."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)  # type: ignore[union-attr]
    return network.eval()


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def assert_computes_the_same(network: nn.Module, shape: tuple[int, ...]) -> Graph:
    """Check the graph's module against the network, bit for bit, and each node's shape."""
    graph = read_graph(ready(network), shape)
    module, inputs = as_module(graph), normal(3, *shape)
    with torch.no_grad():
        assert torch.equal(module(inputs.clone()), network(inputs.clone()))
    shapes = {}
    for node in graph.nodes:
        module.get_submodule(node.name).register_forward_hook(
            lambda *given, name=node.name: shapes.__setitem__(name, tuple(given[2].shape[1:]))
        )
    module(inputs)
    assert shapes == {node.name: node.shape for node in graph.nodes}
    return graph


@pytest.mark.parametrize("activation", ["relu", "silu", "binary"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if "101" in name else name for name in OWN]
)
def test_every_network_of_this_library_is_read(name: str, activation: str) -> None:
    network = build(name, input_shape=(3, 33, 31), classes=5, width=0.07, activation=activation)
    assert_computes_the_same(network, (3, 33, 31))
    names = {key for key in network.state_dict() if not key.endswith("num_batches_tracked")}
    module = as_module(read_graph(network, (3, 33, 31)))
    assert set(module.state_dict()) == names
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in module.state_dict().items())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert not any(part.training for part in module.modules())


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("name", ["mlp", "conv4"])
def test_norms_are_read_or_absent(name: str, norm: str) -> None:
    assert_computes_the_same(build(name, input_shape=(1, 8, 8), classes=3, width=0.1, norm=norm), (1, 8, 8))


def test_a_graph_says_what_is_computed_layer_by_layer() -> None:
    network = nn.Sequential(
        nn.Conv2d(2, 4, (3, 5), stride=(2, 1), padding=(1, 2), groups=2),
        nn.BatchNorm2d(4, eps=0.5),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        BinaryActivation(),
        nn.Dropout(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Identity(),
        nn.Linear(4, 3),
    )
    graph = read_graph(ready(network), (2, 8, 6))
    assert (graph.input_shape, graph.output) == ((2, 8, 6), "9")
    assert [(node.name, node.inputs, node.shape) for node in graph.nodes] == [
        ("0", ("input",), (4, 4, 6)),
        ("1", ("0",), (4, 4, 6)),
        ("2", ("1",), (4, 4, 6)),
        ("3", ("2",), (4, 2, 3)),
        ("4", ("3",), (4, 2, 3)),
        ("6", ("4",), (4, 1, 1)),
        ("7", ("6",), (4,)),
        ("9", ("7",), (3,)),
    ]
    convolution, norm, relu, pool, sign, average, flatten, linear = (node.operation for node in graph.nodes)
    assert isinstance(convolution, Convolution)
    assert convolution.weight.data_ptr() == network[0].weight.data_ptr()  # type: ignore[union-attr]
    assert (convolution.stride, convolution.padding, convolution.groups) == ((2, 1), (1, 2), 2)
    assert isinstance(norm, Normalisation)
    assert norm.epsilon == 0.5
    assert isinstance(linear, Linear)
    assert torch.equal(linear.weight, network[9].weight)  # type: ignore[arg-type]
    assert (relu, pool, sign) == (Relu(), MaxPool((3, 3), (2, 2), (1, 1)), Sign())
    assert (average, flatten) == (AveragePool((2, 3), (1, 1)), Flatten())


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4, bias=False), (4, 7, 6)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, stride=2), (4, 7, 6)),
    "dilated": (lambda: nn.Conv2d(2, 3, 3, dilation=(2, 1), padding=(0, 2)), (2, 7, 6)),
    "same": (lambda: nn.Conv2d(2, 3, (3, 5), padding="same", dilation=(2, 1)), (2, 7, 6)),
    "valid": (lambda: nn.Conv2d(2, 3, 2, padding="valid"), (2, 7, 6)),
    "reflecting nothing": (lambda: nn.Conv2d(2, 3, 2, padding_mode="reflect"), (2, 7, 6)),
    "linear": (lambda: nn.Linear(5, 3, bias=False), (5,)),
    "norm of units": (lambda: nn.BatchNorm1d(5, affine=False), (5,)),
    "norm of channels": (lambda: nn.BatchNorm2d(2), (2, 3, 3)),
    "max pool": (lambda: nn.MaxPool2d((3, 2), stride=(1, 2), padding=(1, 0)), (2, 7, 6)),
    "ceil mode without use": (lambda: nn.MaxPool2d(2, ceil_mode=True), (2, 8, 6)),
    "average pool": (lambda: nn.AvgPool2d(3, stride=2, padding=1), (2, 7, 6)),
    "average pool without padding": (lambda: nn.AvgPool2d(3, count_include_pad=False), (2, 7, 6)),
    "average of all": (lambda: nn.AvgPool2d(6), (2, 6, 6)),
    "adaptive to one": (lambda: nn.AdaptiveAvgPool2d((1, 1)), (2, 5, 6)),
    "adaptive to a half": (lambda: nn.AdaptiveAvgPool2d((4, None)), (2, 8, 6)),
    "adaptive, overlapping": (lambda: nn.AdaptiveAvgPool2d((2, 1)), (2, 7, 4)),
    "flatten": (lambda: nn.Flatten(), (2, 3, 4)),
    "flatten an image without channels": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), (3, 4)),
    "sign": (lambda: BinaryActivation(), (2, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_by_itself_is_a_network(name: str) -> None:
    make, shape = LAYERS[name]
    graph = assert_computes_the_same(make(), shape)
    assert graph.nodes


@pytest.mark.parametrize(
    "layer",
    [nn.Identity(), nn.Dropout(), nn.Dropout2d(), nn.AdaptiveAvgPool2d((4, 4)), nn.MaxPool2d(1), nn.AvgPool2d(1)],
)
def test_layers_that_change_nothing_are_left_out(layer: nn.Module) -> None:
    graph = assert_computes_the_same(nn.Sequential(nn.ReLU(), layer), (2, 4, 4))
    assert [node.operation for node in graph.nodes] == [Relu()]


class Written(nn.Module):
    """A network whose forward pass is given."""

    def __init__(self, forward: Callable[[Any, Any], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.given = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, inputs: Tensor) -> Any:
        return self.given(self, inputs)


def classifier(pool: Callable[[Any, Any], Any]) -> nn.Module:
    return Written(
        lambda self, x: self.fc(pool(self, self.conv(x))), conv=nn.Conv2d(2, 4, 3, padding=1), fc=nn.Linear(4, 3)
    )


FLATTENED: dict[str, Callable[[Any, Any], Any]] = {
    "method flatten": lambda self, x: F.adaptive_avg_pool2d(x, 1).flatten(1),
    "torch.flatten": lambda self, x: torch.flatten(F.avg_pool2d(x, 4), start_dim=1),
    "view with the batch's size": lambda self, x: F.max_pool2d(x, 4).view(x.size(0), -1),
    "view with a size by name": lambda self, x: F.max_pool2d(x, 4).view(x.size(dim=0), x.size(dim=1)),
    "view with a shape": lambda self, x: F.max_pool2d(x, kernel_size=4).view(x.shape[0], x.shape[1]),
    "view of sizes multiplied": lambda self, x: (y := F.avg_pool2d(x, x.size()[2:])).view(-1, y.size(1) * y.size(2)),
    "reshape": lambda self, x: torch.reshape(F.avg_pool2d(x, x.shape[-1]), (-1, 4)),
    "reshape of a list": lambda self, x: torch.max_pool2d(x, (4, 4)).reshape([x.size(0), 4]),
    "mean": lambda self, x: x.mean((2, 3)),
    "mean from the end, kept": lambda self, x: torch.mean(x, dim=[-1, -2], keepdim=True).contiguous().flatten(1),
    "dropout in evaluation": lambda self, x: F.dropout(x.mean((2, 3)), training=self.training),
}


@pytest.mark.parametrize("name", FLATTENED)
def test_functions_are_read_as_layers_are(name: str) -> None:
    assert_computes_the_same(classifier(FLATTENED[name]), (2, 4, 4))


ACTIVATED: dict[str, Callable[[Any, Any], Any]] = {
    "F.relu": lambda self, x: F.relu(self.conv(x)),
    "torch.relu": lambda self, x: torch.relu(self.conv(x)),
    "method relu": lambda self, x: self.conv(x).relu(),
    "in place": lambda self, x: F.relu(self.conv(x), inplace=True),
    "F.silu": lambda self, x: F.silu(self.conv(x)),
    "nn.SiLU": lambda self, x: self.silu(self.conv(x)),
    "F.silu in place": lambda self, x: F.silu(y := self.conv(x), inplace=True) + y,
    "+": lambda self, x: self.conv(x) + x,
    "torch.add": lambda self, x: torch.add(x, other=self.conv(x)),
    "method add": lambda self, x: self.conv(x).add(x),
    "operator.add": lambda self, x: operator.add(self.conv(x), x),
    "a layer twice": lambda self, x: self.relu(self.conv(x) + self.relu(x)) + self.conv(self.relu(x)),
    "sum": lambda self, x: sum([self.conv(x), x, self.relu(x)]),
    "x + x": lambda self, x: self.conv(x) + self.conv(x),
}


@pytest.mark.parametrize("name", ACTIVATED)
def test_activations_and_sums_of_any_spelling_are_read(name: str) -> None:
    network = Written(ACTIVATED[name], conv=nn.Conv2d(2, 2, 3, padding=1), relu=nn.ReLU(), silu=nn.SiLU())
    graph = assert_computes_the_same(network, (2, 5, 4))
    assert len({node.name for node in graph.nodes}) == len(graph.nodes)


def in_place_by_method(self: Any, x: Tensor) -> Tensor:
    y = self.conv(x)
    y.relu_()
    return y + y.add_(x)


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: (y := self.conv(x)) + self.relu(y),  # y is changed by the time it is added
        lambda self, x: self.relu(y := self.conv(x)) + y,
        in_place_by_method,
    ],
)
def test_what_changes_in_place_changes_for_all_who_read_it_later(forward: Callable[[Any, Any], Any]) -> None:
    assert_computes_the_same(
        Written(forward, conv=nn.Conv2d(2, 2, 3, padding=1), relu=nn.ReLU(inplace=True)), (2, 5, 4)
    )


def test_an_argument_that_is_left_out_is_its_default() -> None:
    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, inputs: Tensor, mask: Tensor | None = None, scale: float = 2.0) -> Tensor:
            output: Tensor = self.fc(inputs)
            return output if mask is None else output * mask * scale

    assert_computes_the_same(Optional(), (4,))


def test_names_never_meet() -> None:
    inner = nn.Sequential(nn.Conv2d(2, 2, 1))
    network = Written(
        lambda self, x: self.input(x) + self.add(x) + self.add_2(x), input=nn.ReLU(), add=inner, add_2=nn.ReLU()
    )
    graph = assert_computes_the_same(network, (2, 3, 3))
    assert [node.name for node in graph.nodes] == ["input_2", "add.0", "add", "add_2", "add_3"]


def test_layers_that_lead_nowhere_are_left_out() -> None:
    network = Written(lambda self, x: (self.one(x), self.two(x))[1], one=nn.ReLU(), two=nn.Linear(3, 2))
    assert [node.name for node in read_graph(network.eval(), (3,)).nodes] == ["two"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "wide_resnet50_2", "vgg11_bn", "alexnet"])
def test_networks_of_torchvision_are_read(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    assert_computes_the_same(getattr(models, name)(num_classes=4), (3, 224, 224))


# What has no form


def test_a_layer_without_a_form_is_named_with_the_targets_that_take_it() -> None:
    first = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6())
    network = nn.Sequential(OrderedDict(features=nn.Sequential(first, nn.Flatten())))
    with pytest.raises(ExportError) as caught:
        read_graph(network.eval(), (3, 32, 32))
    assert str(caught.value) == (
        "features.0.2 (ReLU6) has no form here; onnx (float weights), pt2 and safetensors take it"
    )


def hooked() -> nn.Module:
    layer = nn.ReLU()
    layer.register_forward_hook(lambda module, given, output: output + 1)
    return layer


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (nn.GELU(), (4,), r"^0 \(GELU\) has no form here"),
        (nn.ConvTranspose2d(1, 1, 2), (1, 3, 3), r"0 \(ConvTranspose2d\)"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), (1, 3, 3), "which has padding_mode 'circular'"),
        (nn.Conv2d(1, 1, 2, padding="same"), (1, 3, 3), "'same' with an even kernel"),
        (nn.BatchNorm2d(1, track_running_stats=False), (1, 3, 3), "has no running statistics"),
        (nn.MaxPool2d(2, dilation=2), (1, 5, 5), "has dilation 2"),
        (nn.MaxPool2d(2, ceil_mode=True), (1, 5, 5), "has ceil_mode True with windows that reach beyond the image"),
        (nn.MaxPool2d(2, return_indices=True), (1, 4, 4), "has return_indices True"),
        (nn.AvgPool2d(2, padding=1, count_include_pad=False), (1, 4, 4), "has count_include_pad False"),
        (nn.AvgPool2d(2, divisor_override=3), (1, 4, 4), "has divisor_override 3"),
        (nn.AdaptiveAvgPool2d(3), (1, 5, 5), "has windows of several sizes, from 5 pixels to 3"),
        (nn.AdaptiveAvgPool2d(6), (1, 3, 3), "has windows of several sizes, from 3 pixels to 6"),
        (nn.AdaptiveAvgPool2d(2), (1, 1, 1), "has windows of several sizes, from 1 pixels to 2"),
        (nn.Flatten(2), (2, 3, 3), "flattens dimensions 2 to -1"),
        (nn.Linear(3, 2), (2, 3), r"0 \(Linear, which reads 2x3 an example\)"),
        (nn.Conv2d(2, 1, 1), (3, 3, 3), r"0 \(Conv2d, which reads 3x3x3 an example\)"),
        (hooked(), (3,), r"0 \(ReLU, which has hooks\)"),
    ],
)
def test_a_layer_is_refused_by_name_with_the_reason(layer: nn.Module, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        read_graph(nn.Sequential(layer).eval(), shape)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("onnx (float weights), pt2 and safetensors take it")


class Block(nn.Module):
    def __init__(self, forward: Callable[[Any], Any]) -> None:
        super().__init__()
        self.given = forward
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, inputs: Tensor) -> Any:
        return self.given(inputs)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (torch.tanh, r"^1 \(Block, which calls tanh\) has no form here"),
        (lambda x: x.sigmoid(), r"1 \(Block, which calls sigmoid\)"),
        (lambda x: x * 2, r"calls mul"),
        (lambda x: x + 1, r"calls add: adds what is no value of the network"),
        (lambda x: torch.add(x, x, alpha=2), "adds what is no value"),
        (lambda x: torch.cat([x, x]), "calls cat"),
        (lambda x: x.mean(2), "calls mean: over dimensions 2"),
        (lambda x: x.view(2, -1), "calls view: gives another shape than a row for each example"),
        (lambda x: x.view(-1, 3), "calls view: gives another shape"),
        (lambda x: x.view(x.size(0), 3), "calls view: gives another shape"),
        (lambda x: F.dropout(x), "calls dropout: in training mode"),
        (lambda x: x.flatten(), "calls flatten: flattens dimensions 0 to -1"),
        (lambda x: x[0], "calls getitem"),
        (lambda x: x.mean((2, 3), dtype=torch.float64), "calls mean: .*unexpected keyword argument 'dtype'"),
        (lambda x: x.T, "calls getattr: reads T"),
        (lambda x: x.view(x.size(0) * 2, -1), "calls mul"),
        (lambda x: x + torch.flatten(x, 1), r"calls add: reads 2x3x3 and 18 an example"),
        (lambda x: F.max_pool2d(x, 2, return_indices=True)[0], "calls max_pool2d_with_indices"),
    ],
)
def test_a_function_is_refused_by_the_module_that_calls_it(forward: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        read_graph(nn.Sequential(nn.ReLU(), Block(forward)).eval(), (2, 3, 3))
    assert "\n" not in str(caught.value)


def test_a_parameter_that_no_layer_holds_is_refused() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.relu = nn.ReLU()

        def forward(self, inputs: Tensor) -> Tensor:
            output: Tensor = self.relu(inputs) * self.scale
            return output

    with pytest.raises(ExportError, match=r"the network \(Scaled, which reads scale\) has no form here"):
        read_graph(Scaled().eval(), (3,))


def test_a_network_that_decides_by_values_is_refused_in_one_line() -> None:
    network = Written(lambda self, x: self.fc(x) if x.sum() > 0 else -self.fc(x), fc=nn.Linear(3, 2))
    with pytest.raises(
        ExportError, match=r"the forward pass of Written cannot be followed layer by layer \("
    ) as caught:
        read_graph(network.eval(), (3,))
    assert "\n" not in str(caught.value)


def test_a_network_of_several_outputs_is_refused() -> None:
    network = Written(lambda self, x: (self.fc(x), x), fc=nn.Linear(3, 2))
    with pytest.raises(ExportError, match="Written returns a tuple and not one tensor"):
        read_graph(network.eval(), (3,))
