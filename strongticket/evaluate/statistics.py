"""Batch-norm statistics for a network that was never run in training mode."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import parametrize

from ..search import Placement
from ..search.loop import Batches


def has_running_statistics(model: nn.Module) -> bool:
    """Say whether a layer of ``model`` normalises by running statistics in evaluation mode."""
    return any(isinstance(m, _NormBase) and m.track_running_stats for m in model.modules())


@torch.no_grad()
def reestimate(model: nn.Module, batches: Batches, *, placement: Placement, examples: int = 8192) -> None:
    """Replace the running statistics of ``model`` by plain averages over the first ``examples`` inputs.

    Only normalisation layers run in training mode, so that dropout stays off; labels are not read. Does
    nothing to a network without running statistics.
    """
    norms = [m for m in model.modules() if isinstance(m, _NormBase) and m.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average over batches
        norm.train()
    seen = 0
    with parametrize.cached():  # no mask changes, so each masked weight is computed once
        for inputs, _ in batches:
            if len(inputs) > 1:
                model(placement.inputs(inputs))
                seen += len(inputs)
            if seen >= examples:
                break
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
