"""What all tests share."""

from __future__ import annotations

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
