"""Hostile checkpoints: ``python benchmarks/fuzz_checkpoint.py --inputs 20000``.

Spoils the JSON values and the tensors of a checkpoint, seals it again with the checksum that it ought to have, and lets
a search go on from it, to its end. It has to be refused in one line, or to go on; anything else is a finding.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from fuzz_ticket import Choices, as_json, spoil_json
from torch import Tensor, nn

from strongticket import attach, search
from strongticket.errors import StrongTicketError
from strongticket.search import EpochDone, Event, SearchConfig, checkpoint

CONFIG = SearchConfig(epochs=3, device="cpu", precision="fp32", checkpoint_epochs=1)
_DRAWN = torch.Generator().manual_seed(0)
BATCHES = [(torch.rand(8, 6, generator=_DRAWN), torch.randint(0, 3, (8,), generator=_DRAWN)) for _ in range(3)]


def network() -> nn.Module:
    """Return a small network with masks, batch norm among its layers."""
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    attach(model)
    return model


class StoppedError(Exception):
    """The search that is to leave a checkpoint has come far enough."""


def begin(folder: Path) -> None:
    """Search until there is a checkpoint of the first of three epochs."""

    def stop(event: Event) -> None:
        if isinstance(event, EpochDone) and event.epoch == 2:
            raise StoppedError

    with suppress(StoppedError):
        search(network(), BATCHES, CONFIG, validation=BATCHES, checkpoint=folder, on_event=stop)


def go_on(folder: Path) -> None:
    """Search to the end from the checkpoint in ``folder``."""
    search(network(), BATCHES, CONFIG, validation=BATCHES, checkpoint=folder, resume=True)


def spoil_tensors(tensors: dict[str, Tensor], choices: Choices) -> dict[str, Tensor]:
    """Return tensors of which one is gone, doubled, of another shape or type, or of random bytes."""
    changed = dict(tensors)
    name = choices.of(list(changed))
    value = changed[name]
    action = choices.below(4)
    if action == 0:
        del changed[name]
    elif action == 1:
        changed[choices.of(("model:x", "optimizer:0:x", "optimizer:x", "random:now:x", "best", "x"))] = value.clone()
    elif action == 2:
        others = [torch.zeros(0), torch.zeros(()), torch.zeros(3, dtype=torch.complex64), value.reshape(-1)[:1].clone()]
        if not value.is_complex():
            others += [value.double(), value.to(torch.uint8)]
        changed[name] = choices.of(others)
    else:
        size = max(1, value.numel() * value.element_size())
        changed[name] = torch.tensor([choices.below(256) for _ in range(min(size, 10_000))], dtype=torch.uint8)
    return changed


def spoiled(values: dict[str, Any], tensors: dict[str, Tensor], choices: Choices) -> bytes:
    """Return a checkpoint in which up to three things are others, under a checksum that fits."""
    for _ in range(1 + choices.below(3)):
        if choices.below(10) >= 6 and tensors:
            tensors = spoil_tensors(tensors, choices)
        else:
            changed = spoil_json(values, choices)
            values = changed if isinstance(changed, dict) else {}
    text = as_json(values, choices)
    file = bytearray(safetensors.torch.save(tensors, {"search": text, "sha256": checkpoint._checksum(tensors, text)}))
    if choices.one_in(15):
        file[choices.below(len(file))] ^= 1 << choices.below(8)
    return bytes(file)


def main() -> None:
    """Fuzz, then say how the inputs ended; exit code 1 if there was a finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    source, outcomes = random.Random(options.seed), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begin(folder)
        file = max(folder.iterdir())
        whole = checkpoint._read(file)
        values = {"version": checkpoint._VERSION, **whole.values}
        while sum(outcomes.values()) < options.inputs:
            choices = Choices(source.randbytes(source.randrange(120)))
            try:
                data = spoiled(copy.deepcopy(values), whole.tensors, choices)
            except (ValueError, UnicodeError, RecursionError):
                continue  # not even a file can be made of it
            for entry in folder.iterdir():
                entry.unlink()
            file.write_bytes(data)
            torch.manual_seed(0)
            random.seed(0)
            try:
                go_on(folder)
                outcomes["went on"] += 1
            except StrongTicketError as error:
                outcomes["refused" if len(str(error).splitlines()) == 1 else "finding: several lines"] += 1
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                outcomes[f"finding: {type(error).__name__} at {Path(where.filename).name}:{where.lineno}"] += 1
    print(json.dumps(outcomes))
    sys.exit(any(outcome.startswith("finding") for outcome in outcomes))


if __name__ == "__main__":
    main()
