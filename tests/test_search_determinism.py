"""Arithmetic that gives the same bits every time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn
from torch.backends import cudnn

from strongticket import SearchConfig, attach, search
from strongticket.errors import ConfigError
from strongticket.search.machine.determinism import deterministic
from strongticket.ticket import to_bytes


def settings() -> tuple[Any, ...]:
    memory: Any = torch.utils.deterministic
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        memory.fill_uninitialized_memory,
        cudnn.deterministic,
        cudnn.benchmark,
    )


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is put back to what it was
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(cudnn, "benchmark", True)


def test_only_within_the_block_algorithms_are_deterministic() -> None:
    before = settings()
    with deterministic():
        assert settings() == (True, False, False, True, False)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert settings() == before
    with pytest.raises(ZeroDivisionError), deterministic():
        _ = 1 / 0
    assert settings() == before


def test_what_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with deterministic():
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
        assert settings()[:2] == (True, True)
    finally:
        torch.use_deterministic_algorithms(False)


def test_switched_off_it_changes_nothing() -> None:
    before = settings()
    with deterministic(False):
        assert settings() == before
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_an_operation_without_a_deterministic_algorithm_is_named() -> None:
    text = "histc_cuda with floating point input does not have a deterministic implementation, but you set 'torch.use…"
    expected = r"histc_cuda with floating point input has no .* leave --deterministic out"
    with pytest.raises(ConfigError, match=expected), deterministic():
        raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), deterministic():
        torch.ones(2, 3) @ torch.ones(2, 3)


class Watching(nn.Module):
    """Notes in which of its passes algorithms were deterministic."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[bool, bool]] = set()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add((self.training, torch.are_deterministic_algorithms_enabled()))
        return x


@pytest.mark.parametrize("chosen", [False, True])
def test_a_search_learns_and_validates_as_it_was_told(chosen: bool) -> None:
    inputs = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    batches = list(zip(inputs.split(8), (inputs.sum(1) > 0).long().split(8), strict=True))
    watching = Watching()
    model = nn.Sequential(nn.Linear(4, 8), watching, nn.Linear(8, 2))
    attach(model)
    search(model, batches, SearchConfig(epochs=1, device="cpu", deterministic=chosen), validation=batches)
    assert watching.seen == {(True, chosen), (False, chosen)}
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_gpu_two_searches_and_a_resumed_one_are_the_same_bit_for_bit(
    precision: Literal["fp32", "bf16"], tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(64, 3, 16, 16, generator=generator), torch.arange(64) % 10) for _ in range(8)]
    config = SearchConfig(
        epochs=3, device="cuda", precision=precision, deterministic=True, learning_rate=0.1, checkpoint_minutes=0.0
    )

    def found(**options: Any) -> bytes:
        layers = [nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Flatten()]
        model = nn.Sequential(*layers, nn.Dropout(0.1), nn.Linear(64 * 144, 10))
        attach(model)
        torch.cuda.set_rng_state(torch.Generator("cuda").manual_seed(1).get_state())
        return to_bytes(search(model, batches, config, **options).ticket)

    def stop(event: object) -> None:
        if (getattr(event, "epoch", 0), getattr(event, "step", 0)) == (2, 3):
            raise KeyboardInterrupt

    expected = found()
    assert found() == expected
    with pytest.raises(KeyboardInterrupt):
        found(checkpoint=tmp_path, on_event=stop)
    assert found(checkpoint=tmp_path, resume=True) == expected
