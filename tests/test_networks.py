"""Any network: on small instances of many kinds the mask cannot be bypassed and nothing else breaks."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torchvision
from torch import nn

from strongticket import SearchConfig, apply, attach, bake, extract, refresh, search
from strongticket.masks import edges, weights_digest


def images(side: int, channels: int = 3) -> torch.Tensor:
    return torch.randn(4, channels, side, side, generator=torch.Generator().manual_seed(0))


def sequence() -> torch.Tensor:
    return torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.body, self.head = kind(8, 6, num_layers=2, batch_first=True, bidirectional=True), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x)[0].mean(1))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.body, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x)[:, 0])


class BareParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.head = nn.Parameter(torch.randn(8, 6)), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((x @ self.matrix).relu().mean(1))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(40, 12), nn.ReLU(), nn.Linear(12, 4))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 4),
    )


def grouped_and_transposed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, groups=3, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 4),
    )


def vision_transformer() -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=4
    )


def swin() -> nn.Module:
    return torchvision.models.SwinTransformer(
        patch_size=[2, 2],
        embed_dim=8,
        depths=[2, 2],
        num_heads=[2, 2],
        window_size=[2, 2],
        stochastic_depth_prob=0.0,
        num_classes=4,
    )


def convnext() -> nn.Module:
    setting = torchvision.models.convnext.CNBlockConfig
    return torchvision.models.ConvNeXt(
        [setting(8, 16, 1), setting(16, None, 1)], num_classes=4, layer_scale=1.0, stochastic_depth_prob=0.0
    )


def mobilenet() -> nn.Module:
    return torchvision.models.mobilenet_v3_small(num_classes=4, width_mult=0.25, dropout=0.0)


@dataclass(frozen=True)
class Case:
    build: Callable[[], nn.Module]
    inputs: Callable[[], torch.Tensor]
    where: str | list[str] | None = None


CASES = {
    "mlp": Case(mlp, sequence),
    "conv": Case(convolutions, lambda: images(8)),
    "grouped-transposed": Case(grouped_and_transposed, lambda: images(5)),
    "resnet": Case(
        lambda: torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], 4), lambda: images(32)
    ),
    "mobilenet": Case(mobilenet, lambda: images(40)),
    "convnext": Case(convnext, lambda: images(32)),
    "vit": Case(vision_transformer, lambda: images(16)),
    "swin": Case(swin, lambda: images(16)),
    "lstm": Case(lambda: Recurrent(nn.LSTM), sequence),
    "gru": Case(lambda: Recurrent(nn.GRU), sequence),
    "transformer": Case(Encoder, sequence),
    "bare": Case(BareParameter, sequence, ["matrix", "head.weight"]),
}


@pytest.fixture(params=CASES)
def case(request) -> Case:
    return CASES[request.param]


def attached(case: Case, **options) -> nn.Module:
    model = case.build()
    attach(model, density=options.pop("density", 0.6), where=case.where, **options)
    return model


@torch.no_grad()
def test_a_dropped_weight_never_matters_and_a_kept_one_does(case):
    model, inputs = attached(case).eval(), case.inputs()
    for module in model.modules():
        if isinstance(module, nn.Hardswish | nn.Hardsigmoid | nn.ReLU):
            module.__class__ = nn.GELU  # so that a kept weight is never hidden by a flat part
            module.approximate = "none"
    # Batch statistics keep a deep signal alive that untrained running statistics would let die out.
    model.train(any(isinstance(module, nn.BatchNorm2d) for module in model.modules()))
    expected = model(inputs)
    for edge in edges(model).values():
        for value in (1e6, -1e6):
            index = torch.unravel_index((~edge.mask).flatten().int().argmax(), edge.mask.shape)
            before = edge.weight[index].clone()
            edge.weight[index] = value
            assert torch.equal(model(inputs), expected)
            edge.weight[index] = before
    matters = 0
    for edge in edges(model).values():
        saved = edge.weight.clone()
        edge.weight[edge.mask] *= -3
        matters += not torch.equal(model(inputs), expected)
        edge.weight.copy_(saved)
    assert matters == len(edges(model))


# Under binary weights a residual network is the mobilenet, which has few weights.
MOST = [name for name in CASES if name != "resnet"]
BINARY = {"weights": "kaiming-normal", "binary": "weights", "gain": "channel"}


@torch.no_grad()
@pytest.mark.parametrize("case", MOST, indirect=True)
def test_a_dropped_weight_enters_no_binary_weight_and_no_gain(case):
    model, inputs = attached(case, **BINARY).eval(), case.inputs()
    model.train(any(isinstance(module, nn.BatchNorm2d) for module in model.modules()))
    expected = model(inputs)
    for value in (1e6, -1e6):
        for edge in edges(model).values():
            edge.weight[~edge.mask] = value
        assert torch.equal(model(inputs), expected)
        refresh(model)
        assert torch.equal(model(inputs), expected)
    for edge in edges(model).values():
        edge.weight[edge.mask] *= -3
    refresh(model)
    assert not torch.equal(model(inputs), expected)


@torch.no_grad()
@pytest.mark.parametrize("case", MOST, indirect=True)
def test_binary_networks_are_baked_copied_carried_and_rebuilt_bit_for_bit(case):
    model, inputs = attached(case, seed=3, **BINARY).eval(), case.inputs()
    for number, edge in enumerate(edges(model).values()):
        noise = torch.randn(edge.scores.shape, generator=torch.Generator().manual_seed(number))
        edge.scores.add_(noise * edge.scores.abs().mean())
    before = model(inputs)
    refresh(model)
    expected = model(inputs)
    assert not torch.equal(expected, before) or any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    for name, edge in edges(model).items():
        module, _, attribute = name.rpartition(".")
        effective = getattr(model.get_submodule(module), attribute)
        assert torch.equal(effective != 0, edge.mask)
        assert torch.equal(effective[edge.mask] < 0, edge.weight[edge.mask] < 0)
    assert torch.equal(bake(model)(inputs), expected)
    assert set(bake(model).state_dict()) == set(case.build().state_dict())
    assert torch.equal(copy.deepcopy(model)(inputs), expected)
    other = attached(case, seed=8, **BINARY).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(inputs), expected)
    assert torch.equal(apply(extract(model), case.build())(inputs), expected)


def test_a_search_moves_scores_and_masks_but_no_weight(case):
    model = attached(case)
    before, scores = weights_digest(model), {n: e.scores.detach().clone() for n, e in edges(model).items()}
    batches = [(case.inputs(), torch.arange(4))]
    live = edges(model)
    config = SearchConfig(epochs=1, learning_rate=0.5, weight_decay=0.0, device="cpu", precision="fp32")
    search(model, batches * 2, config)
    assert weights_digest(model) == before
    moved = [not torch.equal(scores[name], edge.scores) for name, edge in live.items()]
    assert any(moved)
    if not any(isinstance(m, nn.RNNBase | nn.ReLU) for m in model.modules()):
        assert all(moved)


@torch.no_grad()
def test_a_ticket_rebuilds_the_network_bit_for_bit_under_any_other_initialisation(case):
    model = attached(case, seed=3).eval()
    ticket = extract(model)
    torch.manual_seed(99)
    again = apply(ticket, case.build())
    assert torch.equal(again(case.inputs()), model(case.inputs()))


@torch.no_grad()
def test_baking_copying_and_state_dicts_work(case):
    model, inputs = attached(case).eval(), case.inputs()
    expected = model(inputs)
    assert torch.equal(bake(model)(inputs), expected)
    assert set(bake(model).state_dict()) == set(case.build().state_dict())
    assert torch.equal(copy.deepcopy(model)(inputs), expected)
    other = attached(case, seed=8).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(inputs), expected)


def test_bf16_autocast_works_where_the_plain_network_does(case):
    def dtype_of(model: nn.Module) -> torch.dtype | None:
        try:
            with torch.autocast("cpu", torch.bfloat16):
                outputs = model.eval()(case.inputs())
        except RuntimeError:  # some processors have no bf16 kernel for recurrent layers
            return None
        assert outputs.isfinite().all()
        return outputs.dtype

    assert dtype_of(attached(case)) == dtype_of(case.build())


def works(function: Callable[[], object]) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch._dynamo.reset()
        try:
            function()
        except Exception:
            return False
        return True


LONG_TO_COMPILE = {"mobilenet", "swin"}


@pytest.mark.parametrize(
    "case",
    [pytest.param(name, marks=[pytest.mark.slow] if name in LONG_TO_COMPILE else []) for name in CASES],
    indirect=True,
)
def test_compilation_and_export_work_where_the_plain_network_does(case):
    inputs, plain, masked = case.inputs(), case.build().eval(), attached(case).eval()
    compiles = [works(lambda m=m: torch.compile(m, fullgraph=True, backend="eager")(inputs)) for m in (plain, masked)]
    assert compiles[1] or not compiles[0]
    exports = [works(lambda m=m: torch.export.export(m, (inputs,))) for m in (plain, masked)]
    assert exports[1] or not exports[0]


@pytest.mark.parametrize("name", ["conv", "grouped-transposed", "bare"])
def test_binary_networks_compile_and_export(name):
    case = CASES[name]
    model, inputs = attached(case, **BINARY).eval(), case.inputs()
    assert works(lambda: torch.compile(model, fullgraph=True, backend="eager")(inputs))
    exported = torch.export.export(model, (inputs,)).module()
    assert torch.allclose(exported(inputs), model(inputs), atol=1e-5)


# The compiler of torch 2.8 instantiates an autograd function, against which torch itself warns.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("options", [{}, {"weights": "kaiming-normal", "binary": "weights+activations"}])
def test_a_compiled_training_step_follows_a_refresh_without_compiling_again(options):
    case = CASES["conv"]
    torch._dynamo.reset()
    model = attached(case, **options)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(3):
            compiled(case.inputs()).sum().backward()
            with torch.no_grad():
                edges(model)["0.weight"].scores.add_(torch.randn_like(edges(model)["0.weight"].scores))
            refresh(model)
        assert torch.allclose(compiled(case.inputs()), model(case.inputs()), atol=1e-5)
