"""Which modules become ±1: chosen by default or by name, replaced wherever they are read, refused where none can be."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from strongticket import apply, attach, bake, extract
from strongticket.errors import ConfigError, ModelError, StrongTicketError
from strongticket.masks import attachment_of, binary_activations, choose_activations
from strongticket.weights import BinaryActivation


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Dropout(0.0), nn.Linear(8, 3))


def attached(model: nn.Module | None = None, **options) -> nn.Module:
    model = network() if model is None else model
    attach(model, **{"binary": "weights+activations", "weights": "kaiming-normal", **options})
    return model


def gradients(model: nn.Module) -> dict[str, str]:
    return {name: module.gradient for name, module in binary_activations(model).items()}


class Wrapped(nn.Module):
    """One layer, what ``forward`` does with it, and whatever else is set on it."""

    def __init__(self, **parts: object) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)
        for name, part in parts.items():
            setattr(self, name, part)


class TwoNames(Wrapped):
    def __init__(self) -> None:
        one = nn.ReLU()
        super().__init__(first=one, second=one)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.layer(self.first(self.layer(x))))


class Own(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x)


def test_every_activation_module_becomes_the_sign_if_none_is_named():
    model = attached(activation_gradient="clipped-identity")
    assert gradients(model) == {"1": "clipped-identity", "3": "clipped-identity"}
    assert [type(m) for m in (model[1], model[3], model[4])] == [BinaryActivation, BinaryActivation, nn.Dropout]
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    first = x @ model[0].weight.T
    second = torch.where(first >= 0, 1.0, -1.0) @ model[2].weight.T
    torch.testing.assert_close(model(x), torch.where(second >= 0, 1.0, -1.0) @ model[5].weight.T)


@pytest.mark.parametrize(
    "kind",
    [
        nn.ReLU,
        nn.ReLU6,
        nn.LeakyReLU,
        nn.GELU,
        nn.SiLU,
        nn.Hardtanh,
        nn.Hardswish,
        nn.Tanh,
        nn.Sigmoid,
        nn.ELU,
        nn.Mish,
    ],
)
def test_the_activations_of_torch_are_known(kind):
    assert choose_activations(nn.Sequential(nn.Linear(2, 2), kind(), nn.Softmax(1)), None) == ["1"]


def test_one_instance_under_two_names_is_replaced_under_both():
    model = attached(TwoNames())
    assert gradients(model) == {"first": "bi-real", "second": "bi-real"}
    assert set(model(torch.randn(4, 6)).unique().tolist()) == {-1.0, 1.0}


def test_an_instance_called_twice_is_replaced_once_for_both_calls():
    block = torchvision.models.resnet.BasicBlock(4, 4)
    assert gradients(attached(block)) == {"relu": "bi-real"}
    assert set(block(torch.randn(2, 4, 5, 5)).unique().tolist()) == {-1.0, 1.0}


def test_a_block_that_stands_under_two_names_is_replaced_in_both():
    block = nn.Sequential(nn.ReLU())
    model = attached(nn.Sequential(nn.Linear(6, 6), block, nn.Linear(6, 6), block))
    assert gradients(model) == {"1.0": "bi-real", "3.0": "bi-real"}
    assert type(model[1][0]) is type(model[3][0]) is BinaryActivation


def test_containers_of_modules_are_entered():
    class Held(Wrapped):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.table["relu"](self.layer(self.items[0](self.layer(x))))

    model = attached(Held(table=nn.ModuleDict({"relu": nn.ReLU()}), items=nn.ModuleList([nn.ReLU()])))
    assert gradients(model).keys() == {"table.relu", "items.0"}
    assert set(model(torch.randn(4, 6)).unique().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [("1", ["1"]), ("*", ["1", "3"]), (["3"], ["3"]), (["3", "1"], ["1", "3"]), ("[13]", ["1", "3"]), (("3",), ["3"])],
)
def test_patterns_choose_among_the_activation_modules(patterns, chosen):
    assert choose_activations(network(), patterns) == chosen
    model = attached(activations=patterns)
    assert list(gradients(model)) == chosen
    assert [type(m) for n, m in zip("13", (model[1], model[3]), strict=True) if n not in chosen] == [
        kind for n, kind in (("1", nn.ReLU), ("3", nn.Tanh)) if n not in chosen
    ]


def test_a_name_written_out_may_be_a_class_of_the_users_own_and_a_wider_pattern_is_not():
    build = lambda: nn.Sequential(nn.Linear(6, 6), Own(), nn.Linear(6, 6), nn.ReLU())  # noqa: E731
    assert list(gradients(attached(build(), activations=["1"]))) == ["1"]
    assert list(gradients(attached(build(), activations=["1", "*"]))) == ["1", "3"]
    assert list(gradients(attached(build(), activations="*"))) == ["3"]


@pytest.mark.parametrize("module", [nn.Flatten(), nn.BatchNorm1d(6, affine=False), nn.Sequential(nn.ReLU())])
def test_a_name_written_out_is_not_taken_for_an_activation_if_it_is_another_layer_of_torch(module):
    with pytest.raises(ConfigError, match="no activation matched '1'; this model has"):
        choose_activations(nn.Sequential(nn.Linear(6, 6), module, nn.ReLU()), "1")


def test_a_subclass_of_an_activation_of_torch_is_one():
    class Renamed(nn.ReLU):
        pass

    class Doubled(nn.ReLU):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * F.relu(x)

    assert choose_activations(nn.Sequential(nn.Linear(2, 2), Renamed(), Doubled()), None) == ["1", "2"]


def signs_and_relu() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 6), BinaryActivation("clipped-identity"), nn.Linear(6, 6), nn.ReLU())


@pytest.mark.parametrize("binary", ["none", "weights"])
def test_activations_that_are_binary_already_are_noted_and_stay(binary):
    model = attached(signs_and_relu(), binary=binary)
    assert gradients(model) == attachment_of(model).binary.activations == {"1": "clipped-identity"}
    assert type(model[3]) is nn.ReLU


def test_an_activation_that_is_binary_already_keeps_its_gradient_unless_one_is_given():
    kept = attached(signs_and_relu())
    assert gradients(kept) == attachment_of(kept).binary.activations == {"1": "clipped-identity", "3": "bi-real"}
    assert gradients(attached(signs_and_relu(), activation_gradient="bi-real")) == {"1": "bi-real", "3": "bi-real"}
    one = attached(signs_and_relu(), activations="3", activation_gradient="bi-real")
    assert gradients(one) == attachment_of(one).binary.activations == {"1": "clipped-identity", "3": "bi-real"}


def test_copies_and_baked_networks_have_binary_activations_too():
    model = attached().eval()
    inputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    for twin in (copy.deepcopy(model), bake(model)):
        assert gradients(twin) == {"1": "bi-real", "3": "bi-real"}
        assert torch.equal(twin(inputs), model(inputs))


def test_the_kind_of_gradient_reaches_the_scores():
    inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))

    def grad(gradient: str) -> torch.Tensor:
        model = attached(activation_gradient=gradient)
        model(inputs).square().sum().backward()
        return model[0].parametrizations.weight[0].scores.grad

    assert grad("bi-real").abs().sum() > 0
    assert not torch.equal(grad("bi-real"), grad("clipped-identity"))


# Torch evaluates a transformer layer in one fused kernel, with the activation that it was built with.
@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
def test_a_transformer_layer_has_its_sign_in_evaluation_too(masked):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation=nn.GELU(), batch_first=True)
    model = attached(nn.TransformerEncoder(layer, 2)).train()
    assert gradients(model).keys() == {"layers.0.activation", "layers.1.activation"}
    inputs = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    padding = torch.arange(5).expand(3, 5) >= torch.tensor([[5], [3], [4]]) if masked else None
    slow = model(inputs, src_key_padding_mask=padding)
    for twin in (model.eval(), bake(model).eval()):
        seen = torch.ones(3, 5, dtype=torch.bool) if padding is None else ~padding
        torch.testing.assert_close(twin(inputs, src_key_padding_mask=padding)[seen], slow[seen])


class FunctionalF(Wrapped):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.layer(x))


class FunctionalTorch(Wrapped):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(x))


class FunctionalMethod(Wrapped):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).relu_()


class FunctionalLeaky(Wrapped):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(self.layer(x))


class FunctionalInMethod(Wrapped):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self._deeper(self.layer(x))

    @staticmethod
    def _deeper(x: torch.Tensor) -> torch.Tensor:
        return F.gelu(x)


def passed_on(function):
    @functools.wraps(function)
    def call(*arguments):
        return function(*arguments)

    return call


class FunctionalDecorated(Wrapped):
    @passed_on
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum(F.silu(y) for y in (x, self.layer(x)))


class FunctionalInParent(FunctionalF):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -super().forward(x)


class FunctionalHeld(Wrapped):
    def __init__(self) -> None:
        super().__init__(function=F.relu)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.layer(x))


def densenet() -> nn.Module:
    return torchvision.models.DenseNet(growth_rate=4, block_config=(1, 1), num_init_features=8, num_classes=3)


FUNCTIONAL = {
    "FunctionalF calls relu": FunctionalF,
    "FunctionalTorch calls relu": FunctionalTorch,
    "FunctionalMethod calls relu_": FunctionalMethod,
    "FunctionalLeaky calls leaky_relu": FunctionalLeaky,
    "FunctionalInMethod calls gelu": FunctionalInMethod,
    "FunctionalDecorated calls silu": FunctionalDecorated,
    "FunctionalInParent calls relu": FunctionalInParent,
    "FunctionalHeld calls relu": FunctionalHeld,
    "TransformerEncoderLayer calls relu": lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
    "DenseNet calls relu": densenet,
    "Own calls sigmoid": lambda: nn.Sequential(nn.Linear(2, 2), Own()),
}


def assert_refused_unchanged(model: nn.Module, error: type[StrongTicketError], words: str, **options) -> None:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modules = [(name, module, type(module)) for name, module in model.named_modules()]
    with pytest.raises(error, match=words) as caught:
        attached(model, **options)
    assert "\n" not in str(caught.value)
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert modules == [(name, module, type(module)) for name, module in model.named_modules()]


def test_what_checks_refusals_tells_a_model_that_was_changed(monkeypatch):
    def too_late(model: nn.Module) -> None:
        raise ConfigError("too late")

    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        assert_refused_unchanged(network(), ConfigError, "too late")
    monkeypatch.setattr("strongticket.masks.attachment.refresh", too_late)
    with pytest.raises(AssertionError, match="keys"):
        assert_refused_unchanged(network(), ConfigError, "too late")


@pytest.mark.parametrize("call", FUNCTIONAL)
def test_activations_that_are_calls_are_refused_and_what_to_do_is_said(call):
    words = f"{call}: activations that are calls of functions cannot become ±1; make them modules .self.relu = nn.ReLU"
    assert_refused_unchanged(FUNCTIONAL[call](), ModelError, words)


def mixed() -> nn.Sequential:
    return nn.Sequential(FunctionalF(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))


def test_a_network_with_calls_and_modules_is_refused_unless_the_modules_are_named():
    assert_refused_unchanged(mixed(), ModelError, "FunctionalF calls relu.*or name the activation modules")
    assert gradients(attached(mixed(), activations="2")) == {"2": "bi-real"}
    assert gradients(attached(mixed(), activations="*")) == {"2": "bi-real"}


def test_patterns_on_a_network_that_has_nothing_but_calls_are_refused_for_that_reason():
    assert_refused_unchanged(FunctionalF(), ModelError, "FunctionalF calls relu: .* make them modules", activations="*")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"binary": "activations"},
            "binary 'activations' is not known; choose one of none, weights, weights.activations",
        ),
        ({"binary": "none", "gain": "layer"}, "gain 'layer' was given, but weights are not binary"),
        ({"gain": "row"}, "gain 'row' is not known; choose one of layer, channel"),
        ({"binary": "weights", "activations": "1"}, "activations '1' was given, but activations are not binary; add"),
        ({"binary": "none", "activations": ["1"]}, r"activations \['1'\] was given, but activations are not binary"),
        ({"binary": "weights", "activation_gradient": "bi-real"}, "activation_gradient 'bi-real' was given, but"),
        ({"activation_gradient": "bireal"}, r"'bireal' is not known \(did you mean 'bi-real'\?\)"),
        ({"activations": "relu*"}, r"no activation matched 'relu\*'; this model has 1, 3$"),
        ({"activations": ["1", "9"]}, "no activation matched '9'"),
        ({"activations": "0"}, "no activation matched '0'"),
        ({"activations": []}, r"activations \[\] names no module"),
    ],
)
def test_a_bad_choice_is_one_line_and_leaves_the_model_alone(options, words):
    assert_refused_unchanged(network(), ConfigError, words, **options)


def test_a_network_without_an_activation_is_refused():
    linear = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    assert_refused_unchanged(linear, ModelError, "this model has no activation module such as nn.ReLU; add some")
    assert_refused_unchanged(
        linear, ConfigError, "no activation matched 'a'; this model has no activation module", activations="a"
    )


def test_a_long_list_of_activations_is_cut():
    model = nn.Sequential(nn.Linear(2, 2), *(nn.ReLU() for _ in range(15)))
    with pytest.raises(ConfigError, match=r"this model has 1, 2, .*, 12 and 3 more$"):
        choose_activations(model, "x")


class NamedLikeFunctions(Wrapped):
    def __init__(self) -> None:
        super().__init__(threshold=0.5, relu=nn.ReLU(), act=nn.GELU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.relu(self.layer(x)) - self.threshold) + self.sigmoid(x)

    def sigmoid(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_attributes_and_methods_called_like_functions_are_not_taken_for_them():
    assert choose_activations(NamedLikeFunctions(), None) == ["relu", "act"]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vgg11_bn", "vit_b_16", "convnext_tiny", "swin_t"])
def test_networks_of_modules_are_not_taken_for_networks_of_calls(name):
    with torch.device("meta"):
        model = torchvision.models.get_model(name)
    kinds = (nn.ReLU, nn.GELU, nn.Hardswish, nn.Hardsigmoid)
    expected = [n for n, m in model.named_modules(remove_duplicate=False) if isinstance(m, kinds)]
    assert choose_activations(model, None) == expected
    assert expected


def test_an_activation_with_a_parameter_of_its_own_goes_with_it():
    build = lambda: nn.Sequential(nn.Linear(6, 6), nn.PReLU(6), nn.Linear(6, 2))  # noqa: E731
    model = attached(build())
    assert list(gradients(model)) == ["1"]
    ticket = extract(model)
    assert not [name for name in ticket.stored if name.startswith("1.")]
    inputs = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(apply(ticket, build())(inputs), model.eval()(inputs))


class Calling(Wrapped):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.layer(x))


class Overriding(Calling):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.layer(x))


class Extending(Calling):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(super().forward(x))


def test_a_forward_pass_that_is_overridden_does_not_count_unless_it_is_called():
    assert choose_activations(Overriding(act=nn.ReLU()), None) == ["act"]
    with pytest.raises(ModelError, match="Extending calls relu"):
        choose_activations(Extending(act=nn.ReLU()), None)
