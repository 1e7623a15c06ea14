"""Batch norm over the batch of all processes, beside torch's over the whole batch in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from crews import run_crew
from torch import Tensor, nn

from strongticket.search.processes import joined
from strongticket.search.processes.batch_norm import synchronised


def batch_norm(kind: str) -> tuple[nn.Module, Tensor]:
    generator = torch.Generator().manual_seed(1)
    if kind == "images":
        return nn.BatchNorm2d(3), torch.randn(8, 3, 2, 5, generator=generator) * 3 + 50
    if kind == "vectors, average of all":
        return nn.BatchNorm1d(3, momentum=None), torch.randn(8, 3, generator=generator).double()
    if kind == "without running statistics":
        return nn.BatchNorm1d(3, track_running_stats=False), torch.randn(8, 3, 4, generator=generator)
    return nn.BatchNorm1d(3, affine=False, eps=0.5), torch.randn(8, 3, generator=generator)


@pytest.mark.parametrize("kind", ["images", "vectors, average of all", "without running statistics", "not affine"])
def test_batch_norm_is_that_of_the_whole_batch(tmp_path: Path, kind: str) -> None:
    def passed(module: nn.Module, inputs: Tensor, weights: Tensor) -> dict[str, Any]:
        module.to(inputs.dtype)
        with torch.no_grad():
            for number, parameter in enumerate(module.parameters()):
                parameter.copy_(torch.arange(3) + number + 0.5)
        outputs = []
        for _ in range(2):
            module.zero_grad()
            inputs = inputs.detach().requires_grad_()
            outputs.append(module(inputs))
            (outputs[-1] * weights).sum().backward()
        module.eval()
        outputs.append(module(inputs))
        gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
        return {"x": inputs.grad, "y": torch.stack(outputs, 1), **gradients, **dict(module.named_buffers())}

    module, inputs = batch_norm(kind)
    weights = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(2)).to(inputs.dtype)
    names = list(module.state_dict())
    expected = passed(module, inputs, weights)

    def work(rank: int) -> None:
        own, _ = batch_norm(kind)
        part = slice(0, 3) if rank == 0 else slice(3, 8)
        with joined() as processes:
            assert processes is not None
            with synchronised(own, processes, lambda: True):
                torch.save(passed(own, inputs[part], weights[part]), tmp_path / f"passed-{rank}")
        assert list(own.state_dict()) == names
        assert "forward" not in vars(own)

    run_crew(2, tmp_path, work)
    parts = [torch.load(tmp_path / f"passed-{rank}") for rank in range(2)]
    for name, value in expected.items():
        if name in ("x", "y"):
            together = torch.cat([part[name] for part in parts])
        else:  # parameters' gradients are of each process alone, to be averaged with all others
            together = parts[0][name] + parts[1][name] if name in ("weight", "bias") else parts[1][name]
        torch.testing.assert_close(together, value, rtol=1e-5, atol=1e-5, msg=lambda text: f"{name}: {text}")  # noqa: B023
