"""What all tests share."""

from __future__ import annotations

import gc
import os
import signal

import torch
from hypothesis import settings

# A test of a shared machine must not depend on how fast it is.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Nothing in a test reaches for the network.
os.environ["HF_HUB_OFFLINE"] = "1"

# Tensors in tests are small: one thread is faster than several, and does not fight with other processes.
torch.set_num_threads(1)

# A shell starts what runs in the background with Ctrl-C ignored, and so would be the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Leave what has been imported out of garbage collections, which thousands of tests would pay for."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let all of it be collected at the end, which some extension modules complain about otherwise."""
    gc.unfreeze()
