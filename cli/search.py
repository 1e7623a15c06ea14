"""``strongticket search``: find a ticket and say what it is worth."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import rich_click as click

from strongticket import evaluate
from strongticket.errors import ConfigError
from strongticket.search import Processes, SearchResult, refuse_uneven, seeded, together
from strongticket.ticket import check_coder

from . import console, progress
from .assembly import Assembly
from .config import RunConfig, load_config
from .finding import find_ticket
from .followers import all_do, assembled, follow, speaking, tell
from .omissions import Omissions
from .options import config_options
from .profile import profile_run
from .report import print_report
from .resumption import explained
from .run_folder import RunFolder, default_folder
from .trackers import check_tracker

_QUICK_CONTROLS = ("random", "untrained")


@click.command(name="search")
@click.argument("config", required=False)
@click.option("--config", "config_option", metavar="CONFIG", help="The same as the argument.")
@config_options(RunConfig, default_panel="Search")
@click.option("--resume", is_flag=True, help="Go on with the run in --out from its checkpoint.")
@click.option("--profile", is_flag=True, help="Time some steps, show where the time goes, and search nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def command(
    config: str | None, config_option: str | None, flags: dict[str, Any], resume: bool, profile: bool, as_json: bool
) -> None:
    """Find a ticket: learn which edges of a random network to keep, and never change a weight.

    CONFIG is a YAML file or the name of a shipped one ('strongticket list configs'); flags win over it. Without
    anything, it searches a small convolutional network for handwritten digits. RUN/config.yaml repeats a run.
    """
    if config is not None and config_option is not None:
        raise click.UsageError(f"CONFIG {config!r} and --config {config_option!r} were both given; give one")
    config = config_option if config is None else config
    if profile:
        if resume:
            raise click.UsageError("--profile takes steps of a new search; give it without --resume")
        profile_run(load_config(config, flags), as_json=as_json)
        return
    with together() as processes, speaking(processes), ExitStack() as stack:
        if processes is not None and processes.rank:
            follow(processes)
            return
        open_run = partial(_resumed if resume else _new, config, flags, stack, processes)
        options, run = all_do(processes, open_run)
        tell(processes, options, run, resume=resume)
        with console.ProgressLine("reading images") as bar:
            parts = assembled(options, processes, on_progress=bar.update)
        stack.enter_context(explained(run))
        all_do(processes, lambda: stack.enter_context(nullcontext() if resume else run.begun(options)))
        result, report = _found_and_measured(parts, run, processes, resume=resume)
        run.remove_checkpoint()
    if as_json:
        console.print_json(report)
        return
    seconds = sum(epoch["seconds"] for epoch in result.history)
    print_report(report)
    console.print_line(f"search: {seconds:.0f} s on {result.placement.describe()}, epoch {result.best_epoch} kept")
    console.print_line(f"ticket: {run.ticket}")


def _new(
    config: str | None, flags: dict[str, Any], stack: ExitStack, processes: Processes | None
) -> tuple[RunConfig, RunFolder]:
    """Return the options of a run that begins, and its folder, which is free."""
    options = load_config(config, flags)
    _check_division(options, processes)
    check_tracker(options.track)
    check_coder(options.coder)
    run = RunFolder(options.out) if options.out else default_folder(options)
    run.check_free()
    return options, run


def _check_division(options: RunConfig, processes: Processes | None) -> None:
    if processes is not None:
        refuse_uneven(options.batch_size, processes.count)


def _resumed(
    config: str | None, flags: dict[str, Any], stack: ExitStack, processes: Processes | None
) -> tuple[RunConfig, RunFolder]:
    """Return the options of a run and its folder, which is held until the stack is closed."""
    out = flags.get("out") or (load_config(config).out if config else None)
    if out is None:
        raise ConfigError("--resume needs --out DIR, the folder of the run to go on with")
    run = RunFolder(Path(out))
    run.check_begun()
    stack.enter_context(run.held())
    options = run.options_to_resume(config, flags)
    _check_division(options, processes)
    check_coder(options.coder)
    return options, run


def _found_and_measured(
    parts: Assembly, run: RunFolder, processes: Processes | None, *, resume: bool
) -> tuple[SearchResult, dict[str, Any]]:
    omissions = Omissions(parts.data, run)
    omissions.tell()
    with seeded(parts.config.seed):  # a network's own initialisation and dropout draw from global generators
        model = parts.attached_model()
        with console.ProgressLine("searching") as bar:
            show = partial(progress.show, bar, parts.config.epochs)
            ticket, result = find_ticket(
                parts, model, run, omissions, resume=resume, on_event=show, processes=processes
            )
    with console.ProgressLine("evaluating") as bar:
        report = evaluate(
            ticket,
            parts.model,
            parts.test(),
            build_dense=parts.dense_model,
            controls=_QUICK_CONTROLS if parts.config.control_seeds else (),
            seeds=tuple(range(parts.config.control_seeds)),
            train=parts.train(),
            config=parts.config.search_config,
            dataset=parts.config.data,
            coder=parts.config.coder,
            tta=parts.config.tta,
            on_control=lambda name, seed: bar.update(0, None, f"{name}, seed {seed}"),
        )
    omissions.tell()
    return result, run.write_report(report.as_dict())
