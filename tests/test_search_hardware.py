"""What the machine can do is found out, not assumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from strongticket.search.machine import hardware
from strongticket.search.machine.hardware import has_fast_bf16

CPU = torch.device("cpu")


@pytest.fixture
def times(monkeypatch):
    """Let a product in fp32 take 2 seconds, and one in bf16 as many as this list says, by a clock of our own."""
    seconds = [1.0]
    clock = [0.0]

    def product(one: torch.Tensor, other: torch.Tensor) -> None:
        clock[0] += 2.0 if one.dtype is torch.float32 else seconds[0]

    monkeypatch.setattr(hardware.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(hardware.torch, "mm", product)
    hardware._multiplies_faster_in_bf16.cache_clear()
    yield seconds
    hardware._multiplies_faster_in_bf16.cache_clear()


@pytest.fixture
def cpuinfo(monkeypatch, tmp_path):
    """Stand for /proc/cpuinfo."""
    file = tmp_path / "cpuinfo"
    file.write_text("flags : sse2 avx512f avx512_bf16\n")
    monkeypatch.setattr(hardware, "Path", lambda name: file if name == "/proc/cpuinfo" else Path(name))
    return file


@pytest.mark.parametrize(("seconds", "faster"), [(1.0, True), (1.99, True), (2.0, False), (4.0, False)])
def test_bf16_of_a_cpu_is_fast_if_its_products_take_less_time(times, cpuinfo, seconds, faster):
    times[0] = seconds
    assert has_fast_bf16(CPU) is faster


def test_a_cpu_without_instructions_for_bf16_is_not_asked(times, cpuinfo):
    cpuinfo.write_text("flags : sse2 avx2\n")
    assert has_fast_bf16(CPU) is False
    cpuinfo.unlink()
    assert has_fast_bf16(CPU) is False


def test_measuring_leaves_the_number_of_threads(times, cpuinfo):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        has_fast_bf16(CPU)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
