"""Randomness that is not ours: what a stranger's network draws from global generators."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block under global generators that begin at ``seed``; afterwards they stand where they stood.

    Dropout, and a network that initialises itself, know no other generators than torch's, numpy's and Python's, so
    their seed can enter only here. ``seed`` lies in [0, 2**64).
    """
    numbers, python = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))):
        torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        if torch.cuda.is_available():
            torch.cuda.set_rng_state(torch.Generator("cuda").manual_seed(seed).get_state())
        np.random.set_state(np.random.RandomState([seed % 2**32, seed >> 32]).get_state())
        random.setstate(random.Random(seed).getstate())
        try:
            yield
        finally:
            np.random.set_state(numbers)
            random.setstate(python)
