"""Phases are timed from where the last one ended."""

from __future__ import annotations

import torch

from strongticket.search import stopwatch
from strongticket.search.stopwatch import Stopwatch


def test_a_phase_gets_its_own_time_and_what_lies_between_is_the_rest(monkeypatch):
    times = iter([0.0, 1.0, 3.0, 3.5, 7.5, 8.0, 10.0, 20.0, 26.0, 26.0])
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: next(times))
    watch = Stopwatch(torch.device("cpu"))  # at 0
    with watch.phase("forward"):  # 1 to 3
        pass
    with watch.phase("masks"):  # 3.5 to 7.5
        pass
    watch.step()  # at 8
    watch.begin()  # at 10
    with watch.phase("forward"):  # 20 to 26
        pass
    watch.step()
    assert watch.steps == [{"rest": 2.0, "forward": 2.0, "masks": 4.0}, {"rest": 10.0, "forward": 6.0}]


def test_medians_are_over_the_steps_after_the_warm_up_and_a_phase_that_did_not_happen_took_no_time():
    watch = Stopwatch(torch.device("cpu"))
    watch.steps = [{"forward": 100.0}, {"forward": 1.0, "masks": 5.0}, {"forward": 3.0}, {"forward": 2.0}]
    assert watch.medians(warm_up=1) == {
        "data": 0.0,
        "forward": 2.0,
        "backward": 0.0,
        "optimizer": 0.0,
        "masks": 0.0,
        "rest": 0.0,
    }
