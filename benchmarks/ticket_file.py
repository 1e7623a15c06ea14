"""The ticket file: ``python benchmarks/ticket_file.py --json`` prints its size beside the entropy, and what it takes.

Tickets of random masks: a square matrix of each of ``--sides``, VGG-small, ResNet-18 and ResNet-50. Sizes are ratios
to n·H(d), summed over the masks of a ticket, plus the bytes of stored tensors where the column says so. Times are
the least of ``--repeats``, on one thread: save and load with all checks and digests, apply with the weights drawn
again and compared.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import strongticket as st
from strongticket.models import build as build_network
from strongticket.ticket import CODERS, Ticket, entropy_bits, mask_bits
from strongticket.weights import digest

DENSITIES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5)


def random_ticket(build: Callable[[], nn.Module], density: float, weights: str) -> Ticket:
    """Return a ticket of the network whose masks keep each edge with the chance ``density``."""
    model = build()
    st.attach(model, density=density, seed=0, weights=weights)
    ticket = st.extract(model)
    generator = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(mask.shape, generator=generator) < density for name, mask in ticket.masks.items()}
    return replace(ticket, masks=masks)


def least(call: Callable[[], Any], repeats: int) -> float:
    """Return the seconds that a call takes, the least of some."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def measured(build: Callable[[], nn.Module], density: float, coder: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the sizes and times of one ticket, after checking that it comes back and applies bit for bit."""
    ticket = random_ticket(build, density, options.weights)
    bound = sum(entropy_bits(int(mask.sum()), mask.numel()) for mask in ticket.masks.values()) / 8
    stored = sum(value.numel() * value.element_size() for value in ticket.stored.values())
    coded = mask_bits(ticket, coder=coder) // 8
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ticket.safetensors"
        save = least(lambda: st.save(ticket, path, coder=coder), options.repeats)
        load = least(lambda: st.load(path), options.repeats)
        size, loaded = path.stat().st_size, st.load(path)
    assert digest(loaded.masks) == digest(ticket.masks)
    fresh = [build() for _ in range(options.repeats)]
    apply = least(lambda: st.apply(loaded, fresh.pop()), options.repeats)
    applied, again = st.apply(loaded, build()), st.extract(st.apply(loaded, build()))
    assert again.weights_digest == ticket.weights_digest
    assert all(torch.equal(kept(applied, name), mask) for name, mask in ticket.masks.items())
    return {
        "edges": ticket.total,
        "masks": len(ticket.masks),
        "density": density,
        "coder": coder,
        "entropy_bytes": round(bound),
        "stored_bytes": stored,
        "masks_to_entropy": coded / bound,
        "masks_and_stored_to_entropy_and_stored": (coded + stored) / (bound + stored),
        "file_to_entropy_and_stored": size / (bound + stored),
        "file_without_stored_to_entropy": (size - stored) / bound,
        "file_bytes": size,
        "save_s": save,
        "load_s": load,
        "apply_s": apply,
    }


def kept(model: nn.Module, name: str) -> Tensor:
    """Return where the effective weight of a tensor is not 0; no law draws a 0."""
    owner, _, attribute = name.rpartition(".")
    weight: Tensor = getattr(model.get_submodule(owner), attribute)
    return weight != 0


def main() -> None:
    """Measure every network at every density with every coder, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="*", default=[1000, 5000])
    parser.add_argument("--densities", type=float, nargs="*", default=list(DENSITIES))
    parser.add_argument("--coders", nargs="*", choices=list(CODERS), default=list(CODERS))
    parser.add_argument("--weights", default="signed-constant")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    from torchvision.models import resnet18, resnet50

    networks: dict[str, Callable[[], nn.Module]] = {
        f"{side}×{side}": lambda side=side: nn.Linear(side, side, bias=False) for side in options.sides
    }
    networks["vgg-small"] = lambda: build_network("vgg-small", input_shape=(3, 32, 32), classes=10)
    networks |= {"resnet18": resnet18, "resnet50": resnet50}
    results = []
    for name, build in networks.items():
        for density in options.densities:
            for coder in options.coders:
                results.append({"network": name, **measured(build, density, coder, options)})
                if not options.json:
                    print(line(results[-1]), flush=True)
    if options.json:
        where = {"torch": torch.__version__, "python": platform.python_version(), "weights": options.weights}
        print(json.dumps({**where, "threads": 1, "results": results}))


def line(result: Mapping[str, Any]) -> str:
    """Return one row of the table."""
    return (
        f"{result['network']:>10} d {result['density']:<5} {result['coder']:4}  "
        f"masks ÷ n·H {result['masks_to_entropy']:.5f}  "
        f"with stored {result['masks_and_stored_to_entropy_and_stored']:.5f}  "
        f"whole file {result['file_to_entropy_and_stored']:.4f}  "
        f"without stored {result['file_without_stored_to_entropy']:.4f}  {result['file_bytes']:>9,} bytes  "
        f"save {result['save_s']:.3f} s  load {result['load_s']:.3f} s  apply {result['apply_s']:.3f} s"
    )


if __name__ == "__main__":
    main()
