"""What the machine can do, and what a search makes of it."""

from __future__ import annotations

import ctypes
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ...errors import ConfigError
from ..config import SearchConfig
from ..processes import are_several, local_rank
from .compilation import is_to_be_compiled


@dataclass(frozen=True)
class Placement:
    """Where and how batches are computed: a device, bf16 or fp32, the memory format of images, compiled or not."""

    device: torch.device
    bf16: bool
    channels_last: bool
    compiled: bool = False

    def describe(self) -> str:
        """Return one phrase for people, such as ``cpu, fp32, channels_last``."""
        layout = ", channels_last" if self.channels_last else ""
        compiled = ", compiled" if self.compiled else ""
        return f"{self.device.type}, {'bf16' if self.bf16 else 'fp32'}{layout}{compiled}"

    def autocast(self) -> torch.autocast:
        """Return the context in which a forward pass runs."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def inputs(self, value: Tensor) -> Tensor:
        """Move an input to the device, and images to the memory format."""
        value = value.to(self.device, non_blocking=True)
        if self.channels_last and value.dim() == 4:
            value = value.contiguous(memory_format=torch.channels_last)
        return value


def place(model: nn.Module, config: SearchConfig, *, steps: int | None = None) -> Placement:
    """Choose device, precision and memory format for ``model``, and move it there.

    ``steps`` are those of the whole run, if they are known: a long one on a GPU is compiled. Raises
    ConfigError if CUDA is asked for where there is none, or bf16 where it cannot run.
    """
    device = choose_device(config.device)
    if config.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ConfigError("precision 'bf16' was asked for, but this GPU has no bf16; use precision 'fp32'")
    bf16 = config.precision == "bf16" or (config.precision == "auto" and has_fast_bf16(device))
    convolutional = any(isinstance(module, _ConvNd) for module in model.modules())
    channels_last = config.channels_last == "on" or (config.channels_last == "auto" and convolutional)
    if device.type == "cpu":
        keep_freed_memory()
    model.to(device)
    if channels_last:
        model.to(memory_format=torch.channels_last)
    return Placement(device, bf16, channels_last, is_to_be_compiled(config, device, steps))


def choose_device(name: str) -> torch.device:
    """Return the device called "auto", "cpu" or "cuda"; ConfigError for CUDA where there is none.

    Of several processes that search together each gets a GPU of its own.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device 'cuda' was asked for, but torch sees no CUDA device here; use 'cpu' or 'auto'")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and are_several():
        if local_rank() >= torch.cuda.device_count():
            raise ConfigError(
                f"process {local_rank()} here has no GPU of its own, torch sees {torch.cuda.device_count()}; "
                "start no more processes than there are GPUs, or use device 'cpu'"
            )
        return torch.device("cuda", local_rank())
    return torch.device(name)


@cache
def keep_freed_memory() -> bool:
    """Let this process keep the memory that tensors leave, for the next ones; say whether it will.

    The C library gives large blocks back to the system at once, and the next tensor pays for each of its pages anew:
    on a CPU that costs several times what most operations on it do. Every step of a search needs the same blocks
    again. Known to glibc only; elsewhere nothing changes.
    """
    no_separate_blocks, trim_threshold = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(no_separate_blocks, 0)) and bool(mallopt(trim_threshold, 2**31 - 1))


def has_fast_bf16(device: torch.device) -> bool:
    """Say whether bf16 is faster than fp32 here, and no emulation.

    Of a GPU the answer is known. A CPU has instructions for bf16 or not, and where it has them they may still be slower
    than those for fp32 (an Xeon whose AMX the virtual machine hides takes twice as long), so that it is measured.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags = Path("/proc/cpuinfo")
    if device.type != "cpu" or not flags.exists():
        return False
    words = flags.read_text(errors="replace").split()
    return ("amx_bf16" in words or "avx512_bf16" in words) and _multiplies_faster_in_bf16()


@cache
def _multiplies_faster_in_bf16() -> bool:
    """Multiply matrices in both precisions, in turns, and compare the least times; a tenth of a second at most.

    It does so in one thread, since two would wait for each other where another process has a core.
    """
    matrices = [torch.ones(512, 512, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    least = [float("inf")] * 2
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for which, matrix in [*enumerate(matrices)] * 6:
            started = time.perf_counter()
            torch.mm(matrix, matrix)
            least[which] = min(least[which], time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return least[1] < least[0]
