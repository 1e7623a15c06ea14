"""Randomness that is not ours: what a stranger's network draws from torch's global generator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block under a global generator that begins at ``seed``; afterwards it stands where it stood.

    Dropout, and a network that initialises itself, know no other generator, so their seed can enter only
    here. ``seed`` lies in [0, 2**64).
    """
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        if torch.cuda.is_available():
            torch.cuda.set_rng_state(torch.Generator("cuda").manual_seed(seed).get_state())
        yield
