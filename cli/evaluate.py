"""``strongticket evaluate``: a ticket beside its controls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from strongticket import evaluate
from strongticket.errors import ConfigError
from strongticket.evaluate import CONTROLS

from . import console
from .assembly import assemble
from .report import print_report
from .run_folder import config_of, open_ticket

_DEFAULT = "random,shuffled,redrawn"


@click.command(name="evaluate")
@click.argument("ticket", metavar="RUN|TICKET", type=click.Path(path_type=Path))
@click.option("--controls", default=_DEFAULT, show_default=True, help=f"Any of {', '.join(CONTROLS)}, or all.")
@click.option("--seeds", default="0,1,2", show_default=True, help="Seeds of the controls.")
@click.option("--data", help="Data set, if it is not the one of the search.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder in which data sets lie.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to run.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def command(ticket: Path, controls: str, seeds: str, as_json: bool, **flags: Any) -> None:
    """Measure a ticket on the test split, beside networks that differ from it in one thing each.

    The report of a RUN folder grows by what is measured here; a bare TICKET file is only printed.
    """
    names = tuple(CONTROLS) if controls == "all" else tuple(filter(None, (c.strip() for c in controls.split(","))))
    found, run = open_ticket(ticket)
    config = config_of(found, run, {key: value for key, value in flags.items() if value is not None})
    with console.ProgressLine("reading images") as bar:
        parts = assemble(config, on_progress=bar.update)
    with console.ProgressLine("evaluating") as bar:
        report = evaluate(
            found,
            parts.model,
            parts.test(),
            controls=names,
            seeds=_seeds(seeds),
            train=parts.train(),
            config=parts.search_config,
            dataset=config.data,
            on_control=lambda name, seed: bar.line(f"control {name}, seed {seed}"),
        )
    values = report.as_dict()
    if run is not None:
        values = run.write_report(values)
    if as_json:
        console.print_json(values)
    else:
        print_report(values)


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--seeds {text!r} was given; expected whole numbers with commas, such as 0,1,2") from None
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds {text!r} names a seed twice; expected different ones, such as 0,1,2")
    return seeds
