"""``strongticket export``: a ticket as a file for another runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click
import torch
from click import get_current_context
from click.core import ParameterSource

from strongticket import export
from strongticket.errors import ExportError, StrongTicketError
from strongticket.export import TARGETS, Census, ExportReport, check_request

from . import console
from .assembly import assemble, network_of
from .run_folder import check_model, config_of, open_ticket

_EXAMPLES = 64


@click.command(name="export")
@click.argument("ticket", metavar="RUN|TICKET", type=click.Path(path_type=Path))
@click.option("--to", "target", required=True, type=click.Choice(list(TARGETS)), help="Format.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File or folder to write; a new one.")
@click.option("--model", help="The package.module:factory that a ticket file names: it is code, and will be run.")
@click.option("--weights", type=click.Choice(["float", "int2", "int8"]), help="How onnx stores weights. [float]")
@click.option("--activations", type=click.Choice(["float", "int8", "binary"]), help="What layers of c read. [float]")
@click.option("--with-main", is_flag=True, help="With c: a program around the network, too.")
@click.option("--batch", type=int, help="The batch size that openvino fixes. [1]")
@click.option("--report", "with_report", is_flag=True, help="Print sizes and what is left of the network.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written and verified as one JSON object.")
def command(
    ticket: Path,
    target: str,
    out: Path,
    model: str | None,
    with_report: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write the network of a ticket for another runtime, and check that it computes the same.

    The check runs on random inputs, and on test images where the data of the search are at hand.
    """
    source = get_current_context().get_parameter_source
    typed = {name: value for name, value in options.items() if source(name) is ParameterSource.COMMANDLINE}
    empty = TARGETS[target].folder and out.is_dir() and not any(out.iterdir())
    if out.exists() and not empty:
        raise ExportError(f"{out} exists already; choose another --out, or remove it first")
    check_request(out, to=target, **typed)  # said now, since reading images can take a while
    found, run = open_ticket(ticket)
    check_model(found, run, model)
    network = network_of(found.model)
    try:
        with console.ProgressLine("reading images") as bar:
            parts = assemble(config_of(found, run, {"device": "cpu"}), on_progress=bar.update).fitted_to(found)
        example = next(inputs for inputs, _ in parts.test())[:_EXAMPLES]
    except StrongTicketError as error:
        console.note(f"verified on random inputs only: {error}")
        example = torch.randn(2, *found.model["input_shape"], generator=torch.Generator().manual_seed(0))
    report = export(found, network, out, to=target, example=example, **typed)
    if as_json:
        console.print_json(report.as_dict())
        return
    console.print_line(
        f"{out}: {report.bytes:,} bytes; largest difference from torch {report.max_difference:.3g} over "
        f"{report.inputs} inputs, {report.equal_decisions:.2%} equal decisions"
    )
    if report.memory is not None:
        console.print_line(
            f"constant tables of {report.memory.table_bytes:,} bytes, a buffer of {report.memory.buffer_bytes:,} bytes"
        )
    if with_report:
        _print(report)


def _print(report: ExportReport) -> None:
    """Print how closely an export was checked, the sizes it stands beside, and what is left of its network."""
    console.print_line(
        f"verified in batches and one by one: {report.max_relative:.3g} of the largest output at most, "
        f"{report.beyond} inputs beyond {report.tolerance:g}"
    )
    sizes = {
        "written": report.bytes,
        "dense network in float32": report.sizes.dense,
        "masked weights at one bit each": report.sizes.one_bit,
        "entropy bound of the masks": report.sizes.entropy_bound,
    }
    console.print_line()
    console.print_table(
        ["size", "bytes", "÷ dense"],
        [[name, f"{size:,}", f"{size / report.sizes.dense:.4f}"] for name, size in sizes.items()],
    )
    console.print_line()
    if report.census is None:
        console.print_line("what is left was not counted: the network is more than layers that can be counted")
    else:
        _print_census(report.census)


def _print_census(census: Census) -> None:
    rows = {
        "weights": (census.before.weights, census.after.weights),
        "kept edges": (census.before.edges, census.after.edges),
        "channels": (census.before.channels, census.after.channels),
        "multiply-adds, all weights": (census.before.multiply_adds, census.after.multiply_adds),
        "multiply-adds, kept edges": (census.before.edge_multiply_adds, census.after.edge_multiply_adds),
    }
    console.print_table(
        ["what can matter", "left", "of", "share"],
        [[name, f"{left:,}", f"{total:,}", f"{left / total:.4f}"] for name, (total, left) in rows.items()],
    )
