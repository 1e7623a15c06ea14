"""The file of a sweep: what it may say, what it asks for, and what is refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from strongticket.cli.config import load_config
from strongticket.cli.sweep.file import load_sweep
from strongticket.cli.sweep.plan import Choices, Interval, Slot, Sweep
from strongticket.errors import ConfigError

ROOT = Path(__file__).parents[1]


def sweep_of(tmp_path: Path, text: str, **flags: Any) -> Sweep:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    return load_sweep(file, flags)


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        sweep_of(tmp_path, text)
    line = str(caught.value)
    assert "\n" not in line
    assert "mine.yaml" in line
    return line


# What a file asks for


def test_a_grid_is_every_combination_over_every_seed(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "grid:\n  density: [0.1, 0.5]\n  rule: [edge-popup, bernoulli]\nseeds: [3, 1]\n")
    assert sweep.cells == [
        {"density": 0.1, "rule": "edge-popup"},
        {"density": 0.1, "rule": "bernoulli"},
        {"density": 0.5, "rule": "edge-popup"},
        {"density": 0.5, "rule": "bernoulli"},
    ]
    assert sweep.points == 4
    assert list(sweep.slots()) == [Slot(point, seed) for point in range(4) for seed in (3, 1)]


def test_values_are_held_as_a_run_holds_them(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "grid:\n  width: [2x, 0.5x, 3]\n  density: [1]\n  where: [[conv*], ['*']]\n")
    assert sweep.grid == {"width": (2.0, 0.5, 3.0), "density": (1.0,), "where": (["conv*"], ["*"])}


def test_the_base_is_a_shipped_config_a_path_or_options(tmp_path: Path) -> None:
    grid = "grid: {density: [0.5]}\n"
    assert sweep_of(tmp_path, f"base: digits-mlp\n{grid}").base == load_config("digits-mlp")
    (tmp_path / "recipe.yaml").write_text("model: mlp\nepochs: 7\n")
    assert sweep_of(tmp_path, f"base: recipe.yaml\n{grid}").base.epochs == 7
    assert sweep_of(tmp_path, f"base: {tmp_path / 'recipe.yaml'}\n{grid}").base.model == "mlp"
    base = sweep_of(tmp_path, f"base: {{config: recipe.yaml, epochs: 2, batch-size: 8}}\n{grid}").base
    assert (base.model, base.epochs, base.batch_size) == ("mlp", 2, 8)
    assert sweep_of(tmp_path, grid).base == load_config()


def test_a_run_has_the_options_of_the_base_its_point_and_its_seed(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "base: {model: mlp, epochs: 3}\ngrid: {density: [0.2, 0.4]}\nseeds: [7]\n")
    expected = load_config(None, {"model": "mlp", "epochs": 3, "density": 0.4, "seed": 7})
    assert sweep.options({"density": 0.4}, 7) == expected


def test_without_seeds_the_seed_of_the_base_is_used(tmp_path: Path) -> None:
    assert sweep_of(tmp_path, "base: {seed: 11}\ngrid: {density: [0.5]}\n").seeds == (11,)


def test_samples_are_ranges_or_choices(tmp_path: Path) -> None:
    text = """
        trials: 5
        sampler: random
        sample:
          learning-rate: {low: 0.001, high: 1, log: true}
          epochs: {low: 2, high: 10, step: 4}
          density: {low: 0.1, high: 0.9, step: 0.2}
          rule: {choices: [edge-popup, bernoulli]}
    """
    sweep = sweep_of(tmp_path, text)
    assert sweep.sample == {
        "learning_rate": Interval(0.001, 1.0, log=True),
        "epochs": Interval(2, 10, step=4),
        "density": Interval(0.1, 0.9, step=0.2),
        "rule": Choices(("edge-popup", "bernoulli")),
    }
    assert (sweep.points, sweep.sampler) == (5, "random")


def test_every_cell_of_a_grid_gets_its_own_samples(tmp_path: Path) -> None:
    text = "grid: {bn: [frozen, learned]}\nsample: {density: {low: 0.1, high: 0.9}}\ntrials: 3\nseeds: [0, 1]\n"
    sweep = sweep_of(tmp_path, text)
    assert sweep.points == 6
    assert len(list(sweep.slots())) == 12


def test_flags_hold_for_every_run(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "base: {device: cuda}\ngrid: {density: [0.5]}\n", device="cpu", data_dir=Path("there"))
    assert (sweep.base.device, sweep.base.data_dir) == ("cpu", Path("there"))


# Names


def test_a_sweep_has_one_name_wherever_it_runs_and_another_when_it_changes(tmp_path: Path) -> None:
    text = "base: {model: mlp}\ngrid: {density: [0.1, 0.5], width: [1, 2]}\nseeds: [0, 1]\n"
    name = sweep_of(tmp_path, text).study
    assert name.startswith("mine-")
    assert sweep_of(tmp_path, text, device="cpu", data_dir=Path("there")).study == name
    assert sweep_of(tmp_path, text.replace("[1, 2]", "[1x, 2x]")).study == name
    changes = [("0.5", "0.6"), ("mlp", "conv2"), ("[0, 1]", "[0, 2]"), ("density: [0.1, 0.5], width: [1, 2]", "")]
    others = {sweep_of(tmp_path, text.replace(*change)).study for change in changes[:3]}
    reordered = text.replace("density: [0.1, 0.5], width: [1, 2]", "width: [1, 2], density: [0.1, 0.5]")
    others.add(sweep_of(tmp_path, reordered).study)
    assert len(others | {name}) == 5


def test_every_run_has_a_folder_of_its_own_with_a_name_for_people(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "grid: {density: [0.1, 0.10000001], densities: [{}, {'conv*': 0.3}]}\nseeds: [0, 1]\n")
    names = {sweep.folder_name(slot, sweep.cells[slot.point]) for slot in sweep.slots()}
    assert len(names) == 8
    assert all(name.startswith("density-0.1-densities-") and len(name) < 120 for name in names)
    assert all(Path(name).name == name for name in names)


def test_runs_that_differ_in_their_place_alone_have_folders_of_their_own(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, f"grid: {{where: [[{'c' * 200}]], device: [auto, cpu]}}\n")
    assert len({sweep.folder_name(slot, sweep.cells[slot.point]) for slot in sweep.slots()}) == 2


def test_a_run_keeps_its_folder_when_its_sweep_grows(tmp_path: Path) -> None:
    small = sweep_of(tmp_path, "grid: {density: [0.5]}\nseeds: [0]\n")
    large = sweep_of(tmp_path, "grid: {density: [0.1, 0.5]}\nseeds: [1, 0]\n")
    values = {"density": 0.5}
    assert small.folder_name(Slot(0, 0), values) == large.folder_name(Slot(1, 0), values)


def test_a_sample_that_is_drawn_twice_has_two_folders(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "sample: {density: {choices: [0.1, 0.5]}}\ntrials: 9\n")
    assert sweep.folder_name(Slot(0, 0), {"density": 0.5}) != sweep.folder_name(Slot(1, 0), {"density": 0.5})


@given(st.text(min_size=1, max_size=300))
def test_a_folder_name_is_one_path_component_whatever_a_value_holds(text: str) -> None:
    sweep = Sweep("s", load_config(), {"model": (text,)}, {}, 1, "tpe", (0,))
    name = sweep.folder_name(Slot(0, 0), {"model": text})
    assert Path(name).name == name
    assert not name.startswith(".")
    assert len(name.encode()) < 130


# What is refused


@pytest.mark.parametrize(
    ("text", "key", "hint"),
    [
        ("grid: {densty: [0.5]}", "grid.densty", "did you mean 'density'"),
        ("sample: {learning_rat: {low: 1, high: 2}}\ntrials: 1", "sample.learning_rat", "learning_rate"),
        ("sample: {density: {lo: 0.1, high: 0.9}}\ntrials: 1", "sample.density.lo", "did you mean 'low'"),
        ("grid: {density: [0.5]}\nbase: {modle: mlp}", "base.modle", "did you mean 'model'"),
        ("grid: {density: [0.5]}\nbase: {search: {epochs: 3}}", "base.search.epochs", "option"),
        ("grid: {density: [0.5]}\nseed: [1]", "seed", "did you mean 'seeds'"),
        ("grid: {density: [0.5]}\nepochs: 3", "epochs", "under 'base:'"),
    ],
)
def test_an_unknown_key_is_refused_with_its_full_path(tmp_path: Path, text: str, key: str, hint: str) -> None:
    line = refused(tmp_path, text)
    assert f"the key {key!r} is unknown" in line
    assert hint in line


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("grid: {density: [0.5, 1.5]}", ["density: 1.5 was given", "under grid", "above 0 and at most 1"]),
        ("grid: {epochs: [1, 2.5]}", ["epochs: 2.5 was given", "under grid", "whole number"]),
        ("grid: {rule: [edge-popup, edgepopup]}", ["rule: 'edgepopup' was given", "bernoulli"]),
        ("grid: {density: 0.5}", ["grid.density: 0.5 was given", "a list of values"]),
        ("grid: {density: []}", ["grid.density", "empty list"]),
        ("grid: {width: [2, 2x]}", ["grid.width: 2.0 is given twice"]),
        ("grid: [0.5]", ["grid", "[0.5] was given"]),
        ("base: {density: 2}\ngrid: {epochs: [1]}", ["density: 2 was given", "under base"]),
        ("base: nothing\ngrid: {epochs: [1]}", ["config 'nothing' does not exist"]),
        ("base: 3\ngrid: {epochs: [1]}", ["base: 3 was given", "a config"]),
        ("base: {config: 3}\ngrid: {epochs: [1]}", ["base.config: 3 was given"]),
        ("base: {out: x}\ngrid: {epochs: [1]}", ["base.out", "--out"]),
        ("base: {validation: 0}\ngrid: {epochs: [1]}", ["validation", "held-out"]),
        ("grid: {validation: [0.1, 0]}", ["validation: 0 was given", "under grid", "held-out"]),
        ("grid: {seed: [1, 2]}", ["grid.seed", "'seeds:'"]),
        ("grid: {out: [a]}", ["grid.out", "folder of its own"]),
        ("grid: {batch-size: [1], batch_size: [2]}", ["grid.batch_size", "given twice"]),
        ("seeds: [0]", ["neither 'grid:' nor 'sample:'"]),
        ("grid: {epochs: [1]}\nseeds: []", ["seeds: [] was given", "whole numbers"]),
        ("grid: {epochs: [1]}\nseeds: [0, 0]", ["seeds: 0 is given twice"]),
        ("grid: {epochs: [1]}\nseeds: [-1]", ["seed: -1 was given", "at least 0"]),
        ("grid: {epochs: [1]}\nseeds: 3", ["seeds: 3 was given"]),
        ("grid: {epochs: [1]}\ntrials: 3", ["trials: 3", "without 'sample:'"]),
        ("sample: {density: {low: 0.1, high: 0.9}}", ["needs 'trials: N'"]),
        ("sample: {density: {low: 0.1, high: 0.9}}\ntrials: 0", ["trials: 0 was given", "at least 1"]),
        ("sample: {density: {low: 0.1, high: 0.9}}\ntrials: 1\nsampler: grid", ["sampler: 'grid' was given", "'tpe'"]),
        ("sample: {density: {low: 0.1, high: 1.5}}\ntrials: 1", ["density: 1.5 was given", "under sample"]),
        ("sample: {density: {low: 0.9, high: 0.1}}\ntrials: 1", ["sample.density", "low 0.9 and high 0.1"]),
        ("sample: {density: {low: 0.1}}\ntrials: 1", ["sample.density: low was given", "high"]),
        ("sample: {density: 0.5}\ntrials: 1", ["sample.density: 0.5 was given", "low"]),
        ("sample: {rule: {low: edge-popup, high: bernoulli}}\ntrials: 1", ["'edge-popup' is no number", "choices"]),
        ("sample: {download: {low: false, high: true}}\ntrials: 1", ["False is no number"]),
        ("sample: {density: {choices: [0.5, 2]}}\ntrials: 1", ["density: 2 was given", "under sample"]),
        ("sample: {density: {choices: [0.5], low: 0.1}}\ntrials: 1", ["both choices and low"]),
        ("sample: {density: {choices: []}}\ntrials: 1", ["sample.density.choices: [] was given"]),
        ("sample: {momentum: {low: 0, high: 0.9, log: true}}\ntrials: 1", ["low 0.0 with log"]),
        ("sample: {density: {low: 0.1, high: 0.9, log: true, step: 0.1}}\ntrials: 1", ["both log and step"]),
        ("sample: {density: {low: 0.1, high: 0.9, log: yes}}\ntrials: 1", ["sample.density.log: 'yes' was given"]),
        ("sample: {density: {low: 0.1, high: 0.9, step: 0.3}}\ntrials: 1", ["steps of 0.3", "do not end at high 0.9"]),
        ("sample: {density: {low: 0.1, high: 0.9, step: -1}}\ntrials: 1", ["sample.density.step: -1 was given"]),
        ("sample: {epochs: {low: 1, high: 3, step: 0.5}}\ntrials: 1", ["step 0.5", "whole number"]),
        (
            "grid: {density: [0.5]}\nsample: {density: {low: 0.1, high: 0.9}}\ntrials: 1",
            ["'density' stands under both grid and sample"],
        ),
        ("sample: {density: {low: 0.1, high: 0.9}}\ntrials: 100001", ["100001 runs"]),
        ("grid: {density: [0.5], density: [0.6]}", ["line 1", "given before"]),
        ("grid: [", ["is not YAML"]),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(tmp_path: Path, text: str, parts: list[str]) -> None:
    line = refused(tmp_path, text)
    assert all(part in line for part in parts), line


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml does not exist"):
        load_sweep(tmp_path / "nothing.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        load_sweep(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"base: \xe9\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_sweep(tmp_path / "latin.yaml")


# What the documentation shows


def test_the_files_that_the_documentation_shows_are_files_of_sweeps(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "scale.md").read_text("utf-8")
    shown = [block.partition("```")[0] for block in text.split("```yaml\n")[1:]]
    assert shown
    for block in shown:
        assert isinstance(yaml.safe_load(block), dict)
        assert sweep_of(tmp_path, block).points > 1
