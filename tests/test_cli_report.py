from __future__ import annotations

from typing import Any

import pytest

from strongticket.cli.report import print_report


def report(**changes: Any) -> dict[str, Any]:
    figures = {"nll": 0.25, "calibration_error": 0.0625, "density": 0.5}
    ticket = {
        "test_accuracy": 0.9625,
        "examples": 359,
        "bits_per_weight": 1.0036,
        "file_bytes": 3614,
        "weights_digest": "0123456789abcdef" * 4,
        "trained": [],
        **figures,
    }
    controls = {
        "random": {"mean": 0.1, "sd": 0.02, "n": 3, **figures},
        "inverted": {"mean": 0.2, "sd": 0.0, "n": 1, **figures},
    }
    return {
        "ticket": ticket,
        "controls": controls,
        "dataset": "digits",
        "tta": "none",
        "seeds": [0, 1, 2],
        "batch_norm": "none",
        "layers": [layer("fc1.weight"), layer("head.weight")],
        "outputs": "real",
        "prizes": {},
        **changes,
    }


def layer(name: str, weights: str = "real", inputs: str = "real") -> dict[str, Any]:
    return {"name": name, "weights": weights, "inputs": inputs, "gain": [0.5] if weights == "binary" else []}


def prizes(trained: float | None = None, *, weight: int = 1, activation: int = 1) -> dict[str, Any]:
    difference = None if trained is None else -0.0175
    return {
        "accuracy": {"ticket": 0.9625, "trained": trained, "difference": difference},
        "weights": {"digest": "fedcba9876543210" * 4, "unchanged": True},
        "bits": {"weight": weight, "activation": activation, "layers": 2, "layers_with_binary_inputs": 1},
    }


def printed(capsys: pytest.CaptureFixture[str], values: dict[str, Any]) -> list[str]:
    print_report(values)
    return capsys.readouterr().out.splitlines()


def test_a_table_says_what_was_seen_beside_each_image(capsys: pytest.CaptureFixture[str]) -> None:
    said = "test-time augmentation: the outputs of an image and of its mirror image are averaged, in every row"
    moved = said.replace("image are", "image, and of both moved by a pixel up left and down right, are")
    assert not any(line.startswith("test-time") for line in printed(capsys, report()))
    assert said in printed(capsys, report(tta="flip"))
    assert moved in printed(capsys, report(tta="flip-shift"))


def test_the_ticket_and_each_control_have_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [line.split() for line in printed(capsys, report())]
    assert ["ticket", "0.9625", "1", "0.5000", "0.2500", "0.0625"] in rows
    assert ["random", "0.1000", "±", "0.0200", "3", "0.5000", "0.2500", "0.0625"] in rows


def test_one_run_has_no_deviation(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [line.split() for line in printed(capsys, report())]
    assert ["inverted", "0.2000", "1", "0.5000", "0.2500", "0.0625"] in rows


def test_what_has_to_be_known_stands_below(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, report())
    assert "data: digits, 359 test examples; trained besides scores: nothing" in lines
    assert "batch norm: none" in lines
    assert "weights: 0123456789abcdef…, unchanged by the search; 1.004 bits a weight, file 3,614 bytes" in lines


def test_what_was_trained_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    values = report()
    values["ticket"]["trained"] = ["bn.weight", "bn.bias"]
    assert any(line.endswith("trained besides scores: bn.weight, bn.bias") for line in printed(capsys, values))


def test_the_comparison_with_the_trained_network_has_its_interval(capsys: pytest.CaptureFixture[str]) -> None:
    against = {"difference": -0.012, "low": -0.03, "high": 0.006, "confidence": 0.95, "method": "bootstrap"}
    assert "ticket − trained: -0.0120 [-0.0300, +0.0060] (95%, bootstrap)" in printed(
        capsys, report(against_trained=against)
    )
    assert not any("trained:" in line.partition("data:")[0] for line in printed(capsys, report()))


def test_a_report_without_controls_is_a_table_of_one_row(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, report(controls={}))
    assert sum(line.startswith(("ticket", "random")) for line in lines) == 1


# Three prizes

BINARY = [layer("fc1.weight", "binary"), layer("head.weight", "binary", "binary")]


def test_a_binary_ticket_has_a_row_for_each_prize(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [" ".join(line.split()) for line in printed(capsys, report(layers=BINARY, prizes=prizes(0.98)))]
    assert lines[lines.index("prize") + 2 :][:5] == [
        "accuracy 0.9625 trained dense network: 0.9800, difference -0.0175",
        "no weight trained unchanged SHA-256 fedcba9876543210…",
        "binary 1/1 bits a weight/an activation; 1 of 2 layers read ±1",
        "real weights: none",
        "real inputs: fc1.weight",
    ]


def test_a_trained_network_that_was_not_measured_is_said_to_be_so(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [" ".join(line.split()) for line in printed(capsys, report(layers=BINARY, prizes=prizes()))]
    assert "accuracy 0.9625 trained dense network: not measured: --controls trained" in lines


def test_what_stays_real_is_named_and_so_is_what_nobody_saw(capsys: pytest.CaptureFixture[str]) -> None:
    layers = [layer("a", "binary"), layer("b"), layer("c", "binary", "not seen"), layer("d", "binary", "binary")]
    lines = printed(capsys, report(layers=layers, prizes=prizes(weight=32)))
    assert "real weights: b" in lines
    assert "real inputs: a, b, c (not seen)" in lines
    assert any(line.split()[:3] == ["binary", "32/1", "bits"] for line in lines)


@pytest.mark.parametrize("layers", [[], [layer("fc1.weight")], [layer("fc1.weight", inputs="not seen")]])
def test_of_an_ordinary_ticket_no_prize_is_printed(
    layers: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    text = "\n".join(printed(capsys, report(layers=layers, prizes=prizes(0.98))))
    assert not any(word in text for word in ("prize", "bits a weight/", "real weights", "real inputs", "outputs"))
