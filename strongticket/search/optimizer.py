"""The optimizer of what learns, and its learning rate over a run."""

from __future__ import annotations

import math

import torch
from torch import nn

from .config import SearchConfig
from .muon import Directions, Muon

REMEMBERED = {
    "sgd": frozenset({"momentum_buffer"}),
    "muon": frozenset({"momentum_buffer"}),
    "adam": frozenset({"step", "exp_avg", "exp_avg_sq"}),
    "adamw": frozenset({"step", "exp_avg", "exp_avg_sq"}),
}
"""What each optimizer remembers of a parameter from its first step on, in tensors; SGD without momentum nothing."""


def learning_rate_factor(progress: float, config: SearchConfig) -> float:
    """Return the factor on the peak learning rate after ``progress`` epochs, in [0, 1].

    Linear from 1/10 to 1 during warm-up, then ½(1 + cos(π·t)) with t from 0 to 1 over the remaining
    epochs, or 1 throughout under the constant schedule.
    """
    if progress < config.warmup_epochs:
        return 0.1 + 0.9 * progress / config.warmup_epochs
    if config.schedule == "constant":
        return 1.0
    rest = max(config.epochs - config.warmup_epochs, 1e-9)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - config.warmup_epochs) / rest)))


def make_optimizer(
    parameters: list[nn.Parameter], config: SearchConfig, *, directions: Directions | None = None
) -> torch.optim.Optimizer:
    """Return the configured optimizer; vectors (affine parameters, biases) get no weight decay.

    It is torch's fused one, which goes through each parameter once, where there is one for its dtype; ``directions``
    belong to Muon.
    """
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    nesterov = config.nesterov and config.momentum > 0
    if config.optimizer == "muon":
        return Muon(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=nesterov, directions=directions)
    if config.optimizer == "sgd":
        sgd = torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=nesterov, fused=fused)
        if config.momentum:
            # The fused one takes momenta of all parameters or of none: one that is first used in a later step has its
            # from the beginning. From zero the first is the gradient, as it would be.
            for parameter in parameters:
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)
        return sgd
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=config.learning_rate, fused=fused)
