"""What a search step costs beside a dense training step, and where its time goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from ..masks import refresh
from .config import SearchConfig
from .loop import Batches, Loop, Loss, steps_of
from .machine.hardware import Placement, place
from .stopwatch import Stopwatch


@dataclass(frozen=True)
class Profile:
    """Median seconds of a search step and of a dense training step, by phase (``PHASES``), over ``steps`` steps."""

    search: dict[str, float]
    dense: dict[str, float]
    steps: int
    placement: Placement

    @property
    def ratio(self) -> float:
        """A search step ÷ a dense training step, the wait for data left out."""
        search, dense = (sum(s for name, s in each.items() if name != "data") for each in (self.search, self.dense))
        return search / dense


def profile(
    model: nn.Module,
    dense: nn.Module,
    train: Batches,
    config: SearchConfig | None = None,
    *,
    steps: int = 20,
    warm_up: int = 5,
    loss: Loss | None = None,
) -> Profile:
    """Time search steps of an attached ``model`` and training steps of a plain ``dense`` network, in turns.

    Both change: take fresh ones for a search. Dense steps get one and the same batch, so that data are waited for
    once. The device is waited for after each phase, so that a step takes longer here than in a search on a GPU.
    """
    config = config or SearchConfig()
    placement = place(model, config, steps=steps_of(train, config))
    place(dense, config)

    def decide(progress: float) -> float:
        refresh(model)
        return 1.0

    searching = _Run(model, train, config, placement, loss, decide)
    training = _Run(dense, [next(iter(train))], config.for_dense_training(), placement, loss)
    for _ in range(warm_up + steps):
        searching.step()
        training.step()
    return Profile(
        search=searching.watch.medians(warm_up=warm_up),
        dense=training.watch.medians(warm_up=warm_up),
        steps=steps,
        placement=replace(placement, compiled=searching.loop.forward.compiled),
    )


class _Run:
    """A run that goes on one step at a time, and the watch that times it."""

    def __init__(
        self,
        model: nn.Module,
        train: Batches,
        config: SearchConfig,
        placement: Placement,
        loss: Loss | None,
        after_step: Callable[[float], float] | None = None,
    ) -> None:
        self.watch = Stopwatch(placement.device)
        self.loop = Loop(
            model,
            train,
            config.model_copy(update={"epochs": 10**9}),
            placement=placement,
            loss=loss,
            after_step=after_step,
            should_pause=lambda: True,
            stopwatch=self.watch,
        )
        self._pauses = self.loop.epochs()

    def step(self) -> None:
        done = len(self.watch.steps)
        self.watch.begin()
        while len(self.watch.steps) == done:  # the end of an epoch is no step
            next(self._pauses)
