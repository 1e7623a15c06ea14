"""``strongticket evaluate``: a ticket beside its controls."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, get_args

import rich_click as click

from strongticket import evaluate
from strongticket.errors import ConfigError
from strongticket.evaluate import CONTROLS, TTA
from strongticket.evaluate.controls import check_controls
from strongticket.ticket import coder_of

from . import console, progress
from .assembly import assemble
from .config import RunConfig
from .omissions import Omissions
from .report import print_report
from .run_folder import check_model, config_of, open_ticket

_DEFAULT = "random,shuffled,redrawn"


@click.command(name="evaluate")
@click.argument("ticket", metavar="RUN|TICKET", type=click.Path(path_type=Path))
@click.option("--controls", default=_DEFAULT, show_default=True, help=f"Any of {', '.join(CONTROLS)}, or all.")
@click.option("--seeds", default="0,1,2", show_default=True, help="Seeds of the controls.")
@click.option("--model", help="The package.module:factory that a ticket file names: it is code, and will be run.")
@click.option("--data", help="Data set, if it is not the one of the search.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder in which data sets lie.")
@click.option("--download", is_flag=True, default=None, help="Fetch the data set if it is missing.")
@click.option("--tta", type=click.Choice(get_args(TTA)), help="Test-time augmentation, if not that of the search.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to run.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def command(ticket: Path, controls: str, seeds: str, model: str | None, as_json: bool, **flags: Any) -> None:
    """Measure a ticket on the test split, beside networks that differ from it in one thing each.

    The report of a RUN folder grows by what is measured here on its own data and in its own way; all else is only
    printed.
    """
    chosen_controls, chosen_seeds = _controls(controls), _seeds(seeds)
    found, run = open_ticket(ticket)
    check_model(found, run, model)
    config = config_of(found, run, {key: value for key, value in flags.items() if value is not None})
    with console.ProgressLine("reading images") as bar:
        parts = assemble(config, on_progress=bar.update).fitted_to(found)
    omissions = Omissions(parts.data)
    with console.ProgressLine("evaluating") as bar:
        report = evaluate(
            found,
            parts.model,
            parts.test(),
            build_dense=parts.dense_model,
            controls=chosen_controls,
            seeds=chosen_seeds,
            train=parts.train(),
            config=config.search_config,
            dataset=config.data,
            coder=coder_of(ticket if run is None else run.ticket),
            tta=config.tta,
            on_control=lambda name, seed: bar.line(f"control {name}, seed {seed}"),
            on_event=partial(progress.show, bar, config.epochs),
        )
    omissions.tell()
    values = report.as_dict()
    if run is not None and _measures_the_same(config, config_of(found, run, {})):
        values = run.write_report(values)
    if as_json:
        console.print_json(values)
    else:
        print_report(values)


def _measures_the_same(config: RunConfig, searched: RunConfig) -> bool:
    return (config.data, config.tta) == (searched.data, searched.tta)


def _controls(text: str) -> tuple[str, ...]:
    if text == "all":
        return tuple(CONTROLS)
    names = tuple(dict.fromkeys(name for part in text.split(",") if (name := part.strip())))
    check_controls(names)
    return names


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        seeds = (-1,)
    if not all(0 <= seed < 2**64 for seed in seeds):
        raise ConfigError(
            f"--seeds {text!r} was given; expected whole numbers from 0 to 2**64 - 1 with commas, such as 0,1,2"
        )
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds {text!r} names a seed twice; expected different ones, such as 0,1,2")
    return seeds
