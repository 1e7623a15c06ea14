"""``strongticket export``: a ticket as a file for another runtime."""

from __future__ import annotations

from pathlib import Path

import rich_click as click
import torch

from strongticket import export
from strongticket.errors import ExportError, StrongTicketError
from strongticket.export import TARGETS

from . import console
from .assembly import assemble, network_of
from .run_folder import config_of, open_ticket

_EXAMPLES = 64


@click.command(name="export")
@click.argument("ticket", metavar="RUN|TICKET", type=click.Path(path_type=Path))
@click.option("--to", "target", required=True, type=click.Choice(list(TARGETS)), help="Format.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File to write; it must not exist.")
@click.option("--json", "as_json", is_flag=True, help="Print what was verified as one JSON object.")
def command(ticket: Path, target: str, out: Path, as_json: bool) -> None:
    """Write the network of a ticket for another runtime, and check that it computes the same.

    The check runs on random inputs, and on test images where the data of the search are at hand.
    """
    if out.exists():  # said now, since reading images can take a while
        raise ExportError(f"{out} exists already; choose another --out, or remove it first")
    found, run = open_ticket(ticket)
    model = network_of(found.model)
    try:
        with console.ProgressLine("reading images") as bar:
            parts = assemble(config_of(found, run, {"device": "cpu"}), on_progress=bar.update).fitted_to(found)
        example = next(inputs for inputs, _ in parts.test())[:_EXAMPLES]
    except StrongTicketError as error:
        console.note(f"verified on random inputs only: {error}")
        example = torch.randn(2, *found.model["input_shape"], generator=torch.Generator().manual_seed(0))
    report = export(found, model, out, to=target, example=example)
    if as_json:
        console.print_json(report.as_dict())
        return
    console.print_line(
        f"{out}: {report.bytes:,} bytes; largest difference from torch {report.max_difference:.3g} over "
        f"{report.inputs} inputs, {report.equal_decisions:.2%} equal decisions"
    )
