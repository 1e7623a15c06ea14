"""``strongticket search``: find a ticket and say what it is worth."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import rich_click as click

from strongticket import evaluate, search
from strongticket.errors import ConfigError, InterruptedRunError, MissingExtraError
from strongticket.search import EpochDone, Event, SearchResult, StepDone, seeded
from strongticket.search.checkpoint import has_checkpoint

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
    with console.ProgressLine("reading images") as bar:
        parts = assemble(options, on_progress=bar.update)
    started = time.perf_counter()
    with seeded(options.seed):  # a network's own initialisation and dropout draw from torch's global generator
        result = _search(parts, run, resume)
    seconds = time.perf_counter() - started
    run.write_metrics(result.history)
    spec = parts.model_spec()
    ticket, last = (
        replace(found, model=spec, provenance=parts.provenance(epoch, result.history))
        for found, epoch in ((result.ticket, result.best_epoch), (result.last, options.epochs))
    )
    save_tickets(run, ticket, last)
    with console.ProgressLine("evaluating") as bar:
        report = evaluate(
            ticket,
            parts.model,
            parts.test(),
            build_dense=parts.dense_model,
            controls=_QUICK_CONTROLS,
            train=parts.train(),
            config=options.search_config,
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
    if resume:
        out = flags.get("out") or (load_config(config).out if config else None)
        if out is None:
            raise ConfigError("--resume needs --out DIR, the folder of the run to go on with")
        run = RunFolder(Path(out))
        return run.options_to_resume(config, flags), run
    options = load_config(config, flags)
    run = RunFolder(options.out) if options.out else default_folder(options)
    run.check_free()
    return options, run


def _search(parts: Assembly, run: RunFolder, resume: bool) -> SearchResult:
    model = parts.attached_model()
    if resume:
        run.note_resumption()
        if not has_checkpoint(run.checkpoint):
            console.note(f"{run.path} holds no checkpoint yet: the search begins anew")
    try:
        with nullcontext() if resume else run.begun(parts.config), _Listener(run, parts) as listener:
            return search(
                model,
                parts.train(),
                parts.config.search_config,
                validation=parts.validation(),
                on_event=listener,
                checkpoint=run.checkpoint,
                resume=resume,
            )
    except InterruptedRunError as error:
        command = f"strongticket search --resume --out {shlex.quote(str(run.path))}"
        raise InterruptedRunError(f"{error}: {command}", signal=error.signal) from None


class _Listener:
    """Shows the progress of a search, and writes its metrics down epoch by epoch."""

    def __init__(self, run: RunFolder, parts: Assembly) -> None:
        self._run, self._epochs = run, parts.config.epochs
        self._history: list[dict[str, Any]] = run.read_metrics()
        self._stack = ExitStack()
        self._track = parts.config.track
        self._tracker: Callable[[EpochDone], None] | None = None

    def __enter__(self) -> _Listener:
        if self._track == "tensorboard":
            self._tracker = self._tensorboard()
        console.note(f"run: {self._run.path}")
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
            # By name: whether its types are known depends on what is installed.
            module = import_module("torch.utils.tensorboard")
        except ImportError:
            raise MissingExtraError("--track tensorboard needs an extra: pip install 'strongticket[track]'") from None
        writer = module.SummaryWriter(str(self._run.path / "tensorboard"))
        self._stack.callback(writer.close)

        def write(event: EpochDone) -> None:
            for name, value in event.as_dict().items():
                if isinstance(value, int | float):
                    writer.add_scalar(name, value, event.epoch)

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
