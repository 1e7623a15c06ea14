"""``strongticket search``: find a ticket and say what it is worth."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import rich_click as click

from strongticket import evaluate, search
from strongticket.errors import ConfigError, MissingExtraError
from strongticket.search import EpochDone, Event, StepDone

from . import console
from .assembly import Assembly, assemble
from .config import RunConfig, load_config
from .options import config_options
from .report import print_report
from .run_folder import RunFolder, default_folder, save_tickets

_QUICK_CONTROLS = ("random", "untrained")


@click.command(name="search")
@click.argument("config", required=False)
@config_options(RunConfig, default_panel="Search")
@click.option("--resume", is_flag=True, help="Go on with the run in --out from its checkpoint.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def command(config: str | None, flags: dict[str, Any], resume: bool, as_json: bool) -> None:
    """Find a ticket: learn which edges of a random network to keep, and never change a weight.

    CONFIG is a YAML file or the name of a shipped one ('strongticket list configs'); flags win over it. Without
    anything, it searches a small convolutional network for handwritten digits.
    """
    options, run = _options(config, flags, resume)
    if not resume:
        run.begin(options)
    with console.ProgressLine("reading images") as bar:
        parts = assemble(options, on_progress=bar.update)
    model = parts.attached_model()
    started = time.perf_counter()
    with _Listener(run, parts) as listener:
        result = search(
            model,
            parts.train(),
            parts.search_config,
            validation=parts.validation(),
            on_event=listener,
            checkpoint=run.checkpoint,
            resume=resume,
        )
    seconds = time.perf_counter() - started
    run.write_metrics(result.history)
    spec, provenance = parts.model_spec(), parts.provenance(result.best_epoch, result.history)
    ticket = replace(result.ticket, model=spec, provenance=provenance)
    last = replace(result.last, model=spec, provenance=parts.provenance(options.epochs, result.history))
    save_tickets(run, ticket, last)
    with console.ProgressLine("evaluating") as bar:
        report = evaluate(
            ticket,
            parts.model,
            parts.test(),
            controls=_QUICK_CONTROLS,
            train=parts.train(),
            config=parts.search_config,
            dataset=options.data,
            on_control=lambda name, seed: bar.update(0, None, f"{name}, seed {seed}"),
        )
    merged = run.write_report(report.as_dict())
    run.remove_checkpoint()
    if as_json:
        console.print_json(merged)
        return
    print_report(merged)
    console.print_line(f"search: {seconds:.0f} s on {result.placement.describe()}, epoch {result.best_epoch} kept")
    console.print_line(f"ticket: {run.ticket}")


def _options(config: str | None, flags: dict[str, Any], resume: bool) -> tuple[RunConfig, RunFolder]:
    if not resume:
        options = load_config(config, flags)
        return options, RunFolder(options.out) if options.out else default_folder(options)
    if "out" not in flags:
        raise ConfigError("--resume needs --out DIR, the folder of the run to go on with")
    run = RunFolder(Path(flags["out"]))
    if not run.config.exists():
        raise ConfigError(f"{run.path} holds no run to resume (no config.yaml)")
    if run.ticket.exists() and not run.checkpoint.exists():
        raise ConfigError(f"the run in {run.path} is finished; evaluate it, or choose another --out")
    return load_config(config or str(run.config), flags), run


class _Listener:
    """Shows the progress of a search, and writes its metrics down epoch by epoch."""

    def __init__(self, run: RunFolder, parts: Assembly) -> None:
        self._run, self._epochs = run, parts.config.epochs
        self._history: list[dict[str, Any]] = run.read_metrics()
        self._stack = ExitStack()
        self._tracker: Callable[[EpochDone], None] | None = None
        if parts.config.track == "tensorboard":
            self._tracker = self._tensorboard()

    def __enter__(self) -> _Listener:
        self._bar = self._stack.enter_context(console.ProgressLine("searching"))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepDone):
            steps = event.steps
            done = event.step if steps is None else (event.epoch - 1) * steps + event.step
            self._bar.update(done, steps and steps * self._epochs, f"epoch {event.epoch}/{self._epochs}")
            return
        self._history = [*self._history[: event.epoch - 1], event.as_dict()]
        self._run.write_metrics(self._history)
        if self._tracker is not None:
            self._tracker(event)
        self._bar.line(_describe(event))

    def _tensorboard(self) -> Callable[[EpochDone], None]:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingExtraError("--track tensorboard needs an extra: pip install 'strongticket[track]'") from None
        writer = SummaryWriter(str(self._run.path / "tensorboard"))  # type: ignore[no-untyped-call]
        self._stack.callback(writer.close)

        def write(event: EpochDone) -> None:
            for name, value in event.as_dict().items():
                if isinstance(value, int | float):
                    writer.add_scalar(name, value, event.epoch)  # type: ignore[no-untyped-call]

        return write


def _describe(event: EpochDone) -> str:
    validation = "" if event.validation_accuracy is None else f"  validation {event.validation_accuracy:.4f}"
    return (
        f"epoch {event.epoch}/{event.epochs}  loss {event.loss:.4f}  train {event.train_accuracy:.4f}{validation}  "
        f"{event.images_per_second:,.0f} images/s  {_clock(event.seconds_left)} left"
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
