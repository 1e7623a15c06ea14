"""Muon: momentum whose singular values are made equal, for scores and for weights.

Jordan et al. 2024 ("Muon: An optimizer for hidden layers in neural networks") orthogonalise the momentum of each weight
matrix, so that all its directions learn alike. Scores need one thing more: a matrix of scores has the structure of its
weights' gradient only once each entry points the way in which its edge's contribution grows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial, reduce
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..masks import attachment_of, edges, is_attached

Directions = Mapping[nn.Parameter, Callable[[], Tensor]]
"""For scores, the sign (±1, their shape) of ∂w̃/∂s, the effective weight's derivative as the backward pass has it."""

_STEPS = 5
_QUINTIC = (3.4445, -4.7750, 2.0315)  # takes singular values from (0, 1] to 0.7 … 1.2 in five steps


class Muon(torch.optim.Optimizer):
    """Gradient descent with orthogonalised momentum.

    With the gradient g, the momentum b ← μ·b + g and u = g + μ·b (Nesterov) or b, a parameter moves by
    −η · √max(1, rows/columns) · d ⊙ orth(d ⊙ u) after it was multiplied by 1 − η·λ. d is its direction, 1 where
    ``directions`` has none. The first axis gives the rows, all others the columns; a vector is one column. So an entry
    moves by about η/√columns a step: what initial scores are to η = 1.
    """

    def __init__(
        self,
        parameters: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        nesterov: bool,
        directions: Directions | None = None,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": 0.0})
        self._directions = directions or {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.numel():
                    self._move(parameter, group)
        return loss

    def _move(self, parameter: nn.Parameter, group: Mapping[str, Any]) -> None:
        gradient, momentum = cast(Tensor, parameter.grad), group["momentum"]
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"].mul_(momentum).add_(gradient)
        update = gradient.add(buffer, alpha=momentum) if group["nesterov"] else buffer.clone()
        direction = self._directions[parameter]() if parameter in self._directions else None
        if direction is not None:
            update.mul_(direction)
        move = _in_matrices(update)
        if group["weight_decay"]:
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
        rows = parameter.shape[0]
        reach = group["lr"] * math.sqrt(max(1.0, rows * rows / parameter.numel()))
        if direction is None:
            parameter.add_(move, alpha=-reach)
        else:
            parameter.addcmul_(move, direction, value=-reach)


def directions_of(model: nn.Module) -> dict[nn.Parameter, Callable[[], Tensor]]:
    """Return what tells the direction of each Parameter of scores (``Rule.direction``); without scores nothing does."""
    rule = attachment_of(model).rule if is_attached(model) else None
    if rule is None:
        return {}
    live = edges(model).values()
    return {cast(nn.Parameter, edge.scores): partial(rule.direction, edge.weight, edge.scores) for edge in live}


def _in_matrices(update: Tensor) -> Tensor:
    """Return orth(update), of the update's shape and memory format."""
    # Which column is which does not matter, so that they are taken as they lie.
    order = [0, *sorted(range(1, update.dim()), key=update.stride, reverse=True)]
    as_stored = update.permute(order)
    matrix = as_stored.reshape(update.shape[0], -1)
    back = [order.index(axis) for axis in range(update.dim())]
    return orthogonalised(matrix).reshape(as_stored.shape).permute(back).to(update.dtype)


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return nearly U·Vᵀ of a real matrix (rows, columns) = U·S·Vᵀ, in float32; zero for zero.

    Five Newton–Schulz steps X ← a·X + b·(X·Xᵀ)·X + c·(X·Xᵀ)²·X from X = matrix / ‖matrix‖ bring singular values near 1
    (0.7 to 1.2), but for those below a hundredth of the norm, which stay smaller. The steps are taken on the Gram
    matrix of the shorter side: X is read twice, however many there are. All their factors are polynomials of that one
    matrix, so that their order is no matter.
    """
    wide = matrix.float() if matrix.shape[0] <= matrix.shape[1] else matrix.float().mT
    # By the largest first, since squares of what a deep layer gets may be no numbers any more.
    wide = wide / wide.abs().amax().clamp_min(torch.finfo(torch.float32).tiny)
    gram = wide @ wide.mT
    squared_norm = gram.trace().clamp_min(1.0)
    gram = gram / squared_norm
    a, b, c = _QUINTIC
    factors: list[Tensor] = []
    for _ in range(_STEPS):
        if factors:
            gram = factors[-1] @ gram @ factors[-1]
        factors.append(torch.addmm(gram, gram, gram, beta=b, alpha=c))
        factors[-1].diagonal().add_(a)
    result: Tensor = (reduce(torch.matmul, factors) * squared_norm.rsqrt()) @ wide
    return result if matrix.shape[0] <= matrix.shape[1] else result.mT
