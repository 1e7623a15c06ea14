"""The forward pass of a network, compiled where that pays."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import SearchError
from ..config import SearchConfig

STEPS_WORTH_COMPILING = 5000
"""Steps from which on "auto" compiles on a GPU; compiling takes as long as some thousand steps save there."""


def is_to_be_compiled(config: SearchConfig, device: torch.device, steps: int | None) -> bool:
    """Say whether a run of so many optimizer steps, None if that is not known, is compiled.

    "auto" never compiles on a CPU, where the compiled step was measured to be slower (docs/results.md).
    """
    if config.compile != "auto":
        return config.compile == "on"
    long_enough = steps is not None and steps >= STEPS_WORTH_COMPILING
    return device.type == "cuda" and long_enough and find_spec("triton") is not None


class Forward:
    """Calls ``model``, through ``torch.compile`` if ``compiled``, in which nothing but the time differs.

    Whether the compiler takes a network shows in the first call. If it does not, a network that ``must_compile``
    ends in SearchError, and any other is called as it is from then on, with ``compiled`` False.
    """

    def __init__(self, model: nn.Module, *, compiled: bool = False, must_compile: bool = False) -> None:
        self.compiled = compiled
        self._model, self._must_compile = model, must_compile
        self._call: Any = torch.compile(model) if compiled else model
        self._is_proven = not compiled

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the outputs for a batch of inputs."""
        if self._is_proven:
            outputs: Tensor = self._call(inputs)
            return outputs
        try:
            outputs = self._call(inputs)
        except Exception as error:  # the compiler's, of many classes, or the network's own, which comes again below
            outputs = self._model(inputs)
            if self._must_compile:
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                raise SearchError(
                    f"torch.compile does not take this network here ({type(error).__name__}: {reason}); "
                    "use compile 'auto' or 'off'"
                ) from error
            self._call, self.compiled = self._model, False
        self._is_proven = True
        return outputs
