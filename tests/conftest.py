"""What all tests share."""

from __future__ import annotations

import os

import torch
from hypothesis import settings

# A test of a shared machine must not depend on how fast it is.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Nothing in a test reaches for the network.
os.environ["HF_HUB_OFFLINE"] = "1"

# Tensors in tests are small: one thread is faster than several, and does not fight with other processes.
torch.set_num_threads(1)
