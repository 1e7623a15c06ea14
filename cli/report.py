"""A report as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .console import print_line, print_table

_VIEWS = {
    "flip": "an image and of its mirror image",
    "flip-shift": "an image and of its mirror image, and of both moved by a pixel up left and down right,",
}


def print_report(report: Mapping[str, Any]) -> None:
    """Print the ticket and its controls, one row each, and what has to be known to read them."""
    ticket = report["ticket"]
    rows = [["ticket", f"{ticket['test_accuracy']:.4f}", "", 1, *_quality(ticket)]]
    for name, control in report["controls"].items():
        sd = f"± {control['sd']:.4f}" if control["n"] > 1 else ""
        rows.append([name, f"{control['mean']:.4f}", sd, control["n"], *_quality(control)])
    print_table(["", "test accuracy", "sd", "n", "density", "nll", "calibration error"], rows)
    if against := report.get("against_trained"):
        print_line(
            f"ticket − trained: {against['difference']:+.4f} "
            f"[{against['low']:+.4f}, {against['high']:+.4f}] ({against['confidence']:.0%}, {against['method']})"
        )
    trained = ", ".join(ticket["trained"]) or "nothing"
    print_line(f"data: {report['dataset']}, {ticket['examples']} test examples; trained besides scores: {trained}")
    if views := _VIEWS.get(report["tta"]):
        print_line(f"test-time augmentation: the outputs of {views} are averaged, in every row")
    _print_prizes(report)
    print_line(f"batch norm: {report['batch_norm']}")
    print_line(
        f"weights: {ticket['weights_digest'][:16]}…, {_kept_as(report)} by the search; "
        f"{ticket['bits_per_weight']:.3f} bits a weight, file {ticket['file_bytes']:,} bytes"
    )


def _print_prizes(report: Mapping[str, Any]) -> None:
    """Print the three prizes of a ticket with something binary, and what in it is binary and what is real."""
    prizes, layers = report["prizes"], report["layers"]
    if not any("binary" in (layer["weights"], layer["inputs"]) for layer in layers):
        return
    accuracy, bits = prizes["accuracy"], prizes["bits"]
    beside = (
        "not measured: --controls trained"
        if accuracy["trained"] is None
        else f"{accuracy['trained']:.4f}, difference {accuracy['difference']:+.4f}"
    )
    print_table(
        ["prize", "", ""],
        [
            ["accuracy", f"{accuracy['ticket']:.4f}", f"trained dense network: {beside}"],
            ["no weight trained", _kept_as(report), f"SHA-256 {prizes['weights']['digest'][:16]}…"],
            [
                "binary",
                f"{bits['weight']}/{bits['activation']} bits",
                f"a weight/an activation; {bits['layers_with_binary_inputs']} of {bits['layers']} layers read ±1",
            ],
        ],
    )
    for part in ("weights", "inputs"):
        real = [
            f"{layer['name']} (not seen)" if layer[part] == "not seen" else layer["name"]
            for layer in layers
            if layer[part] != "binary"
        ]
        print_line(f"real {part}: {', '.join(real) or 'none'}")
    print_line(f"outputs: {report['outputs']}")


def _kept_as(report: Mapping[str, Any]) -> str:
    """Say what a search did to the random weights."""
    return "drawn anew from the seed" if report["ticket"].get("levels") == "draws" else "unchanged"


def _quality(values: Mapping[str, Any]) -> list[str]:
    figures = (values["density"], values["nll"], values["calibration_error"])
    return ["not finite" if figure is None else f"{figure:.4f}" for figure in figures]
