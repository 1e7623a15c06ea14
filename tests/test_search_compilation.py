"""A network is compiled where that pays, and what the compiler does not take is called as it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from strongticket import SearchConfig, attach, extract, search
from strongticket.errors import SearchError
from strongticket.search import place
from strongticket.search.machine import compilation
from strongticket.search.machine.compilation import Forward, is_to_be_compiled

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_auto_compiles_long_runs_on_a_gpu_only(monkeypatch):
    monkeypatch.setattr(compilation, "find_spec", lambda name: object())
    auto = SearchConfig(compile="auto")
    assert not is_to_be_compiled(auto, CPU, 10**9)
    assert is_to_be_compiled(auto, CUDA, 5000)
    assert not is_to_be_compiled(auto, CUDA, 4999)
    assert not is_to_be_compiled(auto, CUDA, None)


def test_auto_does_not_compile_without_a_compiler_for_the_gpu(monkeypatch):
    monkeypatch.setattr(compilation, "find_spec", lambda name: None)
    assert not is_to_be_compiled(SearchConfig(compile="auto"), CUDA, 10**9)


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_on_and_off_are_obeyed(device):
    assert is_to_be_compiled(SearchConfig(compile="on"), device, None)
    assert not is_to_be_compiled(SearchConfig(compile="off"), device, 10**9)


@pytest.fixture
def no_compiler(monkeypatch) -> None:
    def fail(model: nn.Module) -> Any:
        def call(inputs: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no C++ compiler\nand a long trace")

        return call

    monkeypatch.setattr(torch, "compile", fail)


def test_what_the_compiler_does_not_take_is_called_as_it_is(no_compiler):
    model = nn.Linear(3, 2)
    forward, inputs = Forward(model, compiled=True), torch.randn(4, 3)
    assert forward.compiled
    assert torch.equal(forward(inputs), model(inputs))
    assert not forward.compiled
    assert torch.equal(forward(inputs), model(inputs))


def test_what_has_to_be_compiled_and_cannot_be_is_refused_in_one_line(no_compiler):
    with pytest.raises(SearchError, match=r"\(RuntimeError: no C\+\+ compiler\); use compile 'auto' or 'off'$"):
        Forward(nn.Linear(3, 2), compiled=True, must_compile=True)(torch.randn(4, 3))


def test_an_error_of_the_network_itself_is_not_blamed_on_the_compiler(no_compiler):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Forward(nn.Linear(3, 2), compiled=True, must_compile=True)(torch.randn(4, 5))


def test_the_placement_says_whether_it_is_compiled():
    config = SearchConfig(compile="on", device="cpu", precision="fp32")
    assert place(nn.Linear(2, 2), config).describe() == "cpu, fp32, compiled"


@pytest.mark.slow
def test_a_compiled_search_finds_the_masks_of_a_plain_one_where_arithmetic_is_exact():
    # Small integers and a linear network: every sum is exact, in whatever order the compiler takes it.
    inputs = torch.randint(-2, 3, (32, 8), generator=torch.Generator().manual_seed(0)).float()
    targets = inputs.sum(1, keepdim=True)

    def found(compile: str) -> dict[str, torch.Tensor]:
        model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Linear(16, 1, bias=False))
        attach(model, density=0.5, weights="unsigned-constant")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_((parameter * 64).round() / 64)
        config = SearchConfig(
            epochs=3, learning_rate=2**-12, momentum=0.5, weight_decay=0, schedule="constant", compile=compile,
            precision="fp32", device="cpu", nesterov=False,
        )  # fmt: skip
        loss = lambda outputs, wanted: (outputs - wanted).sum() / 32  # noqa: E731
        result = search(model, [(inputs, targets)] * 4, config, loss=loss)
        assert result.placement.compiled == (compile == "on")
        return extract(model).masks

    plain, compiled = found("off"), found("on")
    assert all(torch.equal(plain[name], compiled[name]) for name in plain)
