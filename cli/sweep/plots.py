"""Accuracy against each number that varies in a sweep, and against bits a weight, as SVG."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from strongticket.errors import MissingExtraError
from strongticket.files import write_beside

from .plan import Interval, Sweep, as_text
from .results import PointResult

_BITS = "bits_per_weight"
_LEGEND = 12  # labels that can be told apart
_LOGARITHMIC = 30  # largest ÷ smallest from which values are drawn by their logarithms


def draw_plots(sweep: Sweep, results: Sequence[PointResult], out: Path) -> list[Path]:
    """Write ``accuracy-KEY.svg`` for every number that varies, and return the files.

    The same results give the same bytes. MissingExtraError if matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("plots need an extra: pip install 'strongticket[report]'") from None
    found = [result for result in results if result.mean is not None]
    files = []
    for key in (*sweep.keys, _BITS):
        places = {result.point: _place(result, key) for result in found}
        numbers = {place for place in places.values() if place is not None}
        if len(numbers) < 2 or None in places.values():
            continue
        with rc_context({"svg.hashsalt": "strongticket", "svg.fonttype": "none"}), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a letter that the font lacks
            figure = Figure(figsize=(6, 3.8), layout="constrained")
            axes = figure.add_subplot()
            _draw(axes, sweep, found, key)
            if min(numbers) > 0 and (_is_log(sweep, key) or max(numbers) / min(numbers) >= _LOGARITHMIC):
                axes.set_xscale("log")
            axes.set_xlabel("bits a weight" if key == _BITS else key.replace("_", " "))
            axes.set_ylabel("validation accuracy, %")
            axes.set_title(f"{sweep.name}: mean ± sd, n = {len(sweep.seeds)}")
            axes.grid(alpha=0.3)
            image = io.BytesIO()
            figure.savefig(image, format="svg", metadata={"Date": None})
        files.append(out / f"accuracy-{key}.svg")
        write_beside(files[-1], image.getvalue())
    return files


def _draw(axes: Any, sweep: Sweep, results: Sequence[PointResult], key: str) -> None:
    """Draw a line for every setting of the other keys; points where these were sampled, or where bits were measured."""
    along = {key, "density"} if key == _BITS else {key}  # bits follow from the density
    scattered = key == _BITS or any(other not in along for other in sweep.sample)
    groups: dict[str, list[PointResult]] = {}
    for result in results:
        groups.setdefault(_label(result.values, sweep, along), []).append(result)
    for label, group in groups.items():
        ordered = sorted(group, key=lambda result: (_place(result, key) or 0.0, result.point))
        axes.errorbar(
            [_place(result, key) for result in ordered],
            [100 * (result.mean or 0.0) for result in ordered],
            [100 * result.sd for result in ordered],
            marker="o",
            markersize=4,
            capsize=3,
            linestyle="none" if scattered else "-",
            label=label,
        )
    if 1 < len(groups) <= _LEGEND:
        axes.legend(fontsize="small")


def _label(values: Mapping[str, Any], sweep: Sweep, along: set[str]) -> str:
    return ", ".join(f"{key} {as_text(values[key])}" for key in sweep.grid if key not in along)


def _place(result: PointResult, key: str) -> float | None:
    value = result.bits_per_weight if key == _BITS else result.values[key]
    return None if isinstance(value, bool) or not isinstance(value, int | float) else float(value)


def _is_log(sweep: Sweep, key: str) -> bool:
    given = sweep.sample.get(key)
    return isinstance(given, Interval) and given.log
