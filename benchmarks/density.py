"""Accuracy against density on the digits: ``python benchmarks/density.py --out docs/density.json``.

Searches the default network at several densities and seeds, evaluates each ticket on the test split once, and writes
the figures as JSON and, with the ``report`` extra, as a plot beside it.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from statistics import fmean, stdev

import torch

from strongticket import SearchConfig, attach, evaluate, search
from strongticket.data import load, make_loader
from strongticket.models import build

DENSITIES = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)


def accuracy(model_name: str, density: float, seed: int, epochs: int) -> dict[str, float]:
    """Search one ticket; return the test accuracy of it and of a random mask of its density."""
    data = load("digits", seed=seed)
    options = {"mean": data.mean, "std": data.std, "seed": seed}

    def network() -> torch.nn.Module:
        return build(model_name, input_shape=data.input_shape, classes=len(data.classes))

    model = network()
    attach(model, density=density, seed=seed)
    train = make_loader(data.train, batch_size=128, shuffle=True, drop_last=True, **options)
    validation = make_loader(data.validation, batch_size=500, **options)
    result = search(model, train, SearchConfig(epochs=epochs), validation=validation)
    test = make_loader(data.test, batch_size=500, **options)
    report = evaluate(result.ticket, network, test, controls=("random",), seeds=(seed,), train=train).as_dict()
    return {"ticket": report["ticket"]["test_accuracy"], "random": report["controls"]["random"]["mean"]}


def plot(results: list[dict[str, object]], path: Path) -> None:
    """Draw mean ± standard deviation over seeds against density."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "density"  # the same figures give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    for name in sorted({row["model"] for row in results}):
        rows = [row for row in results if row["model"] == name]
        axes.errorbar(
            [row["density"] for row in rows],
            [100 * row["mean"] for row in rows],
            [100 * row["sd"] for row in rows],
            marker="o",
            capsize=3,
            label=f"{name}, ticket",
        )
    axes.set(xlabel="density (kept ÷ total)", ylabel="test accuracy, %", title="Digits, weights never trained")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Run the sweep and write its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("density.json"))
    parser.add_argument("--models", default="conv2,mlp")
    parser.add_argument("--densities", default=",".join(map(str, DENSITIES)))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    results = []
    for model in options.models.split(","):
        for density in map(float, options.densities.split(",")):
            started = time.perf_counter()
            runs = [accuracy(model, density, seed, options.epochs) for seed in range(options.seeds)]
            values = [run["ticket"] for run in runs]
            results.append(
                {
                    "model": model,
                    "density": density,
                    "mean": fmean(values),
                    "sd": stdev(values) if len(values) > 1 else 0.0,
                    "n": len(values),
                    "accuracies": values,
                    "random_mean": fmean(run["random"] for run in runs),
                }
            )
            row = results[-1]
            print(
                f"{model:6} d {density:<5} ticket {row['mean']:.4f} ± {row['sd']:.4f}  "
                f"random {row['random_mean']:.4f}  {time.perf_counter() - started:.0f} s",
                flush=True,
            )
    written = {"torch": torch.__version__, "python": platform.python_version(), "epochs": options.epochs}
    options.out.write_text(json.dumps({**written, "results": results}, indent=1) + "\n")
    plot(results, options.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
