"""What the tests of the targets share: small networks, tickets of them, and random inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import strongticket as st
from strongticket.models import build
from strongticket.ticket import Ticket


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3))


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def binary_net() -> nn.Module:
    return build("conv2", input_shape=(2, 4, 4), classes=3, width=0.25, activation="binary")


def transformer() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)


def tokens() -> nn.Module:
    return nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 3))


class Recurrent(nn.Module):
    """Gives two outputs, so that both must be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 3, batch_first=True)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        steps, (last, _) = self.lstm(inputs)
        return steps, last[0]


class Branching(nn.Module):
    """Decides by its input's values, which no graph can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.linear(inputs)
        return output if inputs.sum() > 0 else -output


class ThreeInputs(nn.Module):
    """Takes batches of three only."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.linear(inputs.reshape(3, 12))
        return output


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def found(build_it: Callable[[], nn.Module], example: Tensor, **options: Any) -> Ticket:
    """Return a ticket of random scores, with batch-norm statistics of two batches."""
    model = build_it()
    st.attach(model, **{"density": 0.5, "seed": 7, **options})
    model.train()
    with torch.no_grad():
        model(example)
        model(2 * example + 1 if example.is_floating_point() else example)
    return st.extract(model)
