"""Layer against global scope: ``python benchmarks/scope.py --data cifar10 --runs runs/scope --out docs/scope.json``.

One search of VGG-small with binary weights for each scope and density, each a ``strongticket search`` with a run folder
of its own below ``--runs``; a finished one is not repeated. The test accuracies of the tickets go into a JSON file and,
with the ``report`` extra, into a plot beside it.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from pathlib import Path

import torch

DENSITIES = (0.5, 0.2, 0.1, 0.05, 0.02)
SCOPES = ("layer", "global")


def command(scope: str, density: float, out: Path, options: argparse.Namespace) -> list[str]:
    """Return the search of one point. Both scopes ramp the density; the floor is a tenth of it."""
    words = f"""strongticket search cifar10-conv4 --data {options.data} --model vgg-small --width {options.width}
        --binary weights --scope {scope} --density {density} --density-schedule cubic
        --density-epochs {options.epochs / 2:g} --epochs {options.epochs}
        --rule edge-popup --weight-gain 1.4142 --augment flip --optimizer sgd --learning-rate 1 --weight-decay 1e-4"""
    floor = ["--floor", f"{density / 10:g}"] if scope == "global" else []
    return [*words.split(), *floor, "--out", str(out)]


def plot(results: list[dict[str, object]], path: Path) -> None:
    """Draw test accuracy against density, one line a scope."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "scope"  # the same figures give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    for scope in SCOPES:
        rows = [row for row in results if row["scope"] == scope]
        axes.plot(
            [row["density"] for row in rows], [100 * row["test_accuracy"] for row in rows], marker="o", label=scope
        )
    axes.set(
        xlabel="density (kept ÷ total)", ylabel="test accuracy, %", title="VGG-small, binary weights, never trained"
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks(DENSITIES, [f"{density:g}" for density in DENSITIES])
    axes.grid(alpha=0.3)
    axes.legend(title="scope")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Search what is not there yet, then write figures and plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--width", default="0.25x")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--runs", type=Path, default=Path("runs/scope"))
    parser.add_argument("--out", type=Path, default=Path("scope.json"))
    options = parser.parse_args()
    results = []
    for scope in SCOPES:
        for density in DENSITIES:
            run = options.runs / f"{scope}-{density}"
            if not (run / "report.json").exists():
                subprocess.run(command(scope, density, run, options), check=True)
            report = json.loads((run / "report.json").read_text("utf-8"))
            history = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
            results.append(
                {
                    "scope": scope,
                    "density": density,
                    "kept_share": report["ticket"]["density"],
                    "test_accuracy": report["ticket"]["test_accuracy"],
                    "validation_accuracy": history[-1]["validation_accuracy"],
                    "bits_per_weight": report["ticket"]["bits_per_weight"],
                    "file_bytes": report["ticket"]["file_bytes"],
                }
            )
            print(results[-1], flush=True)
    written = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "width": options.width,
        "epochs": options.epochs,
    }
    options.out.write_text(json.dumps({**written, "results": results}, indent=1) + "\n")
    plot(results, options.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
