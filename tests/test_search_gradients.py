"""Gradients of several processes become their mean, where they lie."""

from __future__ import annotations

from pathlib import Path

import torch
from crews import run_crew
from torch import nn

from strongticket.search.processes import joined
from strongticket.search.processes.gradients import MeanGradients


def test_gradients_are_means_and_what_nobody_used_has_none(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        used, images, never, late = (nn.Parameter(torch.ones(2)) for _ in range(4))
        images = nn.Parameter(torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last))
        wide = nn.Parameter(torch.ones(3, dtype=torch.float64))
        with joined() as processes:
            assert processes is not None
            gradients = MeanGradients([used, images, never, late, wide], processes)
            for _ in range(2):
                for parameter in (used, images, never, late, wide):
                    parameter.grad = None
                weights = torch.arange(120.0).view(2, 3, 4, 5)
                loss = (rank + 1) * used.sum() + (images * weights).sum() * rank + wide.sum() * 4
                (loss + late.sum() if rank else loss).backward()
                gradients.finish()
            gradients.end()
        assert used.grad is not None
        assert images.grad is not None
        assert late.grad is not None
        assert wide.grad is not None
        assert used.grad.tolist() == [1.5, 1.5]
        assert torch.equal(images.grad, weights / 2)
        assert images.grad.stride() == images.stride()
        assert late.grad.tolist() == [0.5, 0.5]
        assert wide.grad.tolist() == [4, 4, 4]
        assert never.grad is None
        used.grad = None
        used.sum().backward()  # alone again
        assert used.grad.tolist() == [1, 1]  # type: ignore[union-attr]

    run_crew(2, tmp_path, work)
