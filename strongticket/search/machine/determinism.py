"""Arithmetic that gives the same bits every time, on GPUs too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.backends import cudnn

from ...errors import ConfigError

# cuBLAS adds in a fixed order only if it is given workspaces of its own, and reads this when it is first used.
_WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
_REFUSED = "does not have a deterministic implementation"


@contextmanager
def deterministic(enabled: bool = True) -> Iterator[None]:
    """Let torch use deterministic algorithms only while the block runs, if ``enabled``.

    Elsewhere some sums on a GPU are added up in whatever order threads come. Raises ConfigError, naming it, for an
    operation that has no deterministic algorithm.
    """
    if not enabled:
        yield
        return
    os.environ.setdefault(*_WORKSPACE)
    chosen = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fill, backends = memory.fill_uninitialized_memory, (cudnn.deterministic, cudnn.benchmark)
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # only those who read what they never wrote need it
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    except RuntimeError as error:
        operation, refused, _ = str(error).partition(_REFUSED)
        if not refused:
            raise
        raise ConfigError(
            f"deterministic arithmetic was asked for, but {operation.strip()} has no deterministic algorithm in torch; "
            "leave --deterministic out, or replace that layer of the network"
        ) from None
    finally:
        torch.use_deterministic_algorithms(chosen[0], warn_only=chosen[1])
        memory.fill_uninitialized_memory = fill
        cudnn.deterministic, cudnn.benchmark = backends
