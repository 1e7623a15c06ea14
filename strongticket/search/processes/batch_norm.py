"""Batch norm over the batch of all processes, on any device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .group import Processes


@contextmanager
def synchronised(model: nn.Module, processes: Processes, counts: Callable[[], bool]) -> Iterator[None]:
    """Let every batch norm of ``model`` take its statistics over the batches of all processes inside the block.

    ``counts`` says whether the batch of this process counts; it does not where it stands in for an empty one. The
    modules stay what they are, and so do the names in their ``state_dict``; ``nn.SyncBatchNorm``, which would take
    their place, works on GPUs only. A batch norm with a ``forward`` of its own is left to itself.
    """
    found = [module for module in model.modules() if _is_plain(module)]
    for module in found:
        # Called in the place of the class's own, as long as the instance has it.
        module.forward = partial(_forward, module, processes, counts)
    try:
        yield
    finally:
        for module in found:
            del module.forward


def is_synchronised(module: nn.Module) -> bool:
    """Say whether ``module`` is a batch norm that is the same in all processes of a search."""
    return _is_plain(module) or isinstance(module, nn.SyncBatchNorm)


def _is_plain(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and type(module).forward is _BatchNorm.forward


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _forward(module: Any, processes: Processes, counts: Callable[[], bool], x: Tensor) -> Tensor:
    """Return what ``_BatchNorm.forward`` would for the whole batch, of which ``x`` is a part."""
    if not module.training and module.running_mean is not None:
        return _BatchNorm.forward(module, x)
    module._check_input_dim(x)
    kept = module.running_mean is not None and module.training and module.track_running_stats
    running = (module.running_mean, module.running_var) if kept else None
    factor = 0.0 if module.momentum is None else module.momentum
    if module.training and module.track_running_stats and module.num_batches_tracked is not None:
        module.num_batches_tracked.add_(1)
        if module.momentum is None:
            factor = 1.0 / float(module.num_batches_tracked)
    with torch.autocast(x.device.type, enabled=False):
        outputs: Tensor = _Normalise.apply(
            x, module.weight, module.bias, running, factor, module.eps, processes, counts()
        )
    return outputs


class _Normalise(torch.autograd.Function):
    """y = γ · (x − μ) / √(σ² + ε) + β, with μ and σ² over the batches of all processes.

    Backward, with x̂ = (x − μ) / √(σ² + ε) and means over all processes:
    ∂L/∂x = γ / √(σ² + ε) · (∂L/∂y − mean(∂L/∂y) − x̂ · mean(x̂ · ∂L/∂y)). Those of γ and β are of this process alone, as
    the gradients of all other parameters are. Ioffe & Szegedy 2015 (arXiv 1502.03167), section 3.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running: tuple[Tensor, Tensor] | None,
        factor: float,
        eps: float,
        processes: Processes,
        counts: bool,
    ) -> Tensor:
        """Return y, of the type of ``x``; ``running`` mean and variance move by ``factor`` to those of the batch."""
        held = torch.float64 if x.dtype == torch.float64 else torch.float32
        number = x.numel() // x.shape[1] if counts else 0
        # Asked for statistics of its own, torch gives them no more digits than a half-precision input has.
        zeros, ones = (torch.full(x.shape[1:2], value, dtype=held, device=x.device) for value in (0.0, 1.0))
        mean, variance = (each.double() for each in torch.batch_norm_update_stats(x, zeros, ones.clone(), 0.0))
        # In doubles, where E[x²] − μ² loses nothing that a float could hold; so one round tells everything.
        sums = torch.stack([torch.ones_like(mean), mean, variance + mean.square()]) * number
        totals = processes.add(sums)
        total = totals[0, 0]
        mean = totals[1] / total
        variance = (totals[2] / total - mean.square()).clamp_min(0)
        if running is not None:
            unbiased = variance * (total / (total - 1))
            for kept, now in zip(running, (mean, unbiased), strict=True):
                kept.lerp_(now.to(kept.dtype), factor)
        mean, scale = mean.to(held), (variance + eps).rsqrt().to(held)
        ctx.save_for_backward(x, ones if weight is None else weight.detach(), mean, scale, total)
        ctx.processes, ctx.counts = processes, counts
        y: Tensor = torch.native_batch_norm(x, weight, bias, mean, variance.to(held), False, 0.0, eps)[0]
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of ``x``, ``weight`` and ``bias``."""
        x, weight, mean, scale, total = ctx.saved_tensors
        as_images = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        grad = grad.contiguous(memory_format=torch.channels_last if as_images else torch.contiguous_format)
        none, both = None, [False, True, True]  # of x, of the weight, of the bias
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, none, none, mean, scale, True, 0.0, both
        )
        sums = torch.stack([of_bias, of_weight]).double() * float(ctx.counts)
        first, second = (ctx.processes.add(sums) / total).to(mean.dtype)
        # slope · (grad − first − (x − mean) · scale · second), in one pass each over grad and x.
        slope = scale * weight if ctx.counts else torch.zeros_like(scale)
        by_x = -slope * scale * second
        shape = [1, -1] + [1] * (x.dim() - 2)
        slope, by_x, rest = (each.view(shape) for each in (slope, by_x, -slope * first - by_x * mean))
        of_x = torch.addcmul(rest, x.to(mean.dtype), by_x).addcmul_(grad.to(mean.dtype), slope)
        learned = [of_weight if ctx.needs_input_grad[1] else None, of_bias if ctx.needs_input_grad[2] else None]
        return of_x.to(x.dtype), *learned, None, None, None, None, None
