from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import strongticket as st
from strongticket.cli.config import RunConfig, load_config
from strongticket.cli.run_folder import PLACE, RunFolder, config_of, default_folder, environment, open_ticket
from strongticket.errors import ConfigError, TicketError

CONFIG = RunConfig(model="mlp", epochs=3)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "one")


def begin(folder: RunFolder, config: RunConfig = CONFIG) -> None:
    with folder.begun(config):
        pass


def make_checkpoint(folder: RunFolder) -> None:
    folder.checkpoint.mkdir()
    (folder.checkpoint / "search.safetensors").write_bytes(b"")


def report(digest: str = "d", **controls: int) -> dict[str, Any]:
    return {
        "ticket": {"weights_digest": digest, "test_accuracy": 0.75},
        "controls": {name: {"n": n, "mean": n / 16} for name, n in controls.items()},
        "tta": "none",
        "seeds": list(range(max(controls.values(), default=0))),
        "layers": [
            {"name": "fc1.weight", "weights": "binary", "inputs": "real", "gain": [0.5]},
            {"name": "head.weight", "weights": "binary", "inputs": "binary", "gain": [0.5]},
        ],
        "prizes": "those of what was measured just now",
    }


def prizes(trained: float | None = None) -> dict[str, Any]:
    """The prizes of ``report()`` beside a trained network of this accuracy."""
    return {
        "accuracy": {"ticket": 0.75, "trained": trained, "difference": None if trained is None else 0.75 - trained},
        "weights": {"digest": "d", "unchanged": True},
        "bits": {"weight": 1, "activation": 1, "layers": 2, "layers_with_binary_inputs": 1},
    }


# Beginning


def test_a_begun_run_has_its_options_and_its_machine(folder: RunFolder) -> None:
    begin(folder)
    assert {entry.name for entry in folder.path.iterdir()} == {"config.yaml", "environment.json"}
    assert load_config(str(folder.config)) == CONFIG
    assert json.loads(folder.environment.read_text()).keys() == environment().keys()


def test_the_options_are_written_down_without_their_own_place(folder: RunFolder) -> None:
    begin(folder, RunConfig(out=folder.path))
    assert load_config(str(folder.config)).out is None


def test_an_empty_folder_is_free_and_one_with_anything_in_it_is_not(folder: RunFolder) -> None:
    folder.path.mkdir(parents=True)
    folder.check_free()
    (folder.path / ".hidden").write_text("")
    with pytest.raises(ConfigError, match="is not an empty folder; choose another --out"):
        folder.check_free()


def test_a_run_is_not_begun_over_another(folder: RunFolder) -> None:
    begin(folder)
    before = folder.config.read_bytes()
    with pytest.raises(ConfigError, match=f"{folder.path} holds another run; go on with it by --resume"):
        begin(folder, RunConfig(epochs=9))
    assert folder.config.read_bytes() == before


@pytest.mark.parametrize("error", [ConfigError, OSError, KeyboardInterrupt])
def test_a_run_that_fails_before_its_first_checkpoint_leaves_nothing(
    error: type[BaseException], folder: RunFolder, tmp_path: Path
) -> None:
    def fail() -> None:
        (folder.checkpoint / "deeper").mkdir(parents=True)
        folder.write_metrics([{"epoch": 1}])
        raise error

    with pytest.raises(error), folder.begun(CONFIG):
        fail()
    assert list(tmp_path.iterdir()) == []
    begin(folder)  # the next attempt is not blocked


def test_a_folder_of_the_user_is_emptied_and_stays(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("mine")
    folder = RunFolder(tmp_path / "mine")
    folder.path.mkdir()
    with pytest.raises(ConfigError), folder.begun(CONFIG):
        raise ConfigError
    assert {entry.name for entry in tmp_path.iterdir()} == {"mine", "other"}
    assert list(folder.path.iterdir()) == []


def test_a_run_that_fails_after_a_checkpoint_is_kept(folder: RunFolder) -> None:
    def fail() -> None:
        make_checkpoint(folder)
        raise OSError("full")

    with pytest.raises(OSError, match="full"), folder.begun(CONFIG):
        fail()
    assert folder.config.exists()
    assert folder.checkpoint.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = RunFolder(tmp_path / "file" / "run")
    with pytest.raises(ConfigError, match=f"the run folder {folder.path} cannot be written: Not a directory"):
        begin(folder)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"model": "mlp"}, "mlp-digits-seed0"),
        ({"model": "torchvision:resnet18", "seed": 7}, "torchvision-resnet18-digits-seed7"),
        ({"data": "imagefolder:/home/me/my pictures/"}, "conv2-imagefolder-home-me-my-pictures-seed0"),
        ({"data": "imagefolder:" + "x" * 300}, f"conv2-{'x' * 40}-seed0"),
        ({"data": "imagefolder:../.."}, "conv2-imagefolder-seed0"),
    ],
)
def test_the_default_folder_is_named_after_the_run(
    options: dict[str, Any], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_folder(RunConfig(**options)).path == Path("runs") / name
    for number in (2, 3):
        default_folder(RunConfig(**options)).path.mkdir(parents=True)
        assert default_folder(RunConfig(**options)).path == Path("runs") / f"{name}-{number}"


# Going on


def test_a_run_goes_on_with_its_own_options(folder: RunFolder) -> None:
    begin(folder)
    assert folder.options_to_resume(None, {}) == CONFIG
    assert folder.options_to_resume(None, {"epochs": 3}) == CONFIG


@pytest.mark.parametrize("name", sorted(PLACE | {"precision", "channels_last", "compile", "skip_bad_images"}))
def test_a_run_may_go_on_elsewhere(name: str, folder: RunFolder) -> None:
    values = {"device": "cpu", "data_dir": Path("x"), "download": True, "out": Path("y"), "track": "tensorboard"}
    values |= {"coder": "ans"}
    values |= {"precision": "fp32", "channels_last": "off", "compile": "on", "workers": 3, "deterministic": True}
    values |= {"checkpoint_minutes": 1.0, "checkpoint_epochs": 2, "skip_bad_images": True}
    begin(folder)
    assert getattr(folder.options_to_resume(None, {name: values[name]}), name) == values[name]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("seed", 1), ("density", 0.3), ("model", "conv2"), ("epochs", 9), ("where", ("fc*",))),
        *(("binary", "weights"), ("gain", "channel"), ("activations", ("relu*",)), ("activation_gradient", "bi-real")),
    ],
)
def test_a_run_does_not_go_on_as_another(name: str, value: Any, folder: RunFolder) -> None:
    begin(folder)
    with pytest.raises(ConfigError, match=f"began with other options: {name} .* → .*; resume it with its own"):
        folder.options_to_resume(None, {name: value})


def test_a_config_file_given_again_must_say_the_same(folder: RunFolder, tmp_path: Path) -> None:
    begin(folder)
    (tmp_path / "recipe.yaml").write_text("model: mlp\nepochs: 4\n")
    with pytest.raises(ConfigError, match=r"epochs \(3 → 4\)"):
        folder.options_to_resume(str(tmp_path / "recipe.yaml"), {})
    assert folder.options_to_resume(str(tmp_path / "recipe.yaml"), {"epochs": 3}) == CONFIG


def test_a_finished_run_does_not_go_on_even_if_its_checkpoint_was_left(folder: RunFolder) -> None:
    begin(folder)
    make_checkpoint(folder)
    for file in (folder.ticket, folder.report):
        file.write_text("")
    with pytest.raises(ConfigError, match="is finished; evaluate it, or choose another --out"):
        folder.options_to_resume(None, {})
    assert not folder.checkpoint.exists()


def test_a_run_with_a_ticket_and_no_report_goes_on(folder: RunFolder) -> None:
    begin(folder)
    make_checkpoint(folder)
    folder.ticket.write_text("")
    assert folder.options_to_resume(None, {}) == CONFIG
    assert folder.checkpoint.exists()


def test_every_machine_a_run_went_on_is_written_down(folder: RunFolder) -> None:
    begin(folder)
    first = json.loads(folder.environment.read_text())
    folder.note_resumption()
    folder.note_resumption()
    found = json.loads(folder.environment.read_text())
    assert [entry.keys() for entry in found.pop("resumed")] == [first.keys()] * 2
    assert found == first


def test_what_a_kill_left_half_written_is_cleared_away(folder: RunFolder) -> None:
    begin(folder)
    (folder.path / ".metrics.jsonl.4711").write_text("{")
    folder.note_resumption()
    assert {entry.name for entry in folder.path.iterdir()} == {"config.yaml", "environment.json"}


def test_a_damaged_environment_does_not_keep_a_run_from_going_on(folder: RunFolder) -> None:
    begin(folder)
    folder.environment.write_text("{")
    folder.note_resumption()
    assert len(json.loads(folder.environment.read_text())["resumed"]) == 1


# What it holds


def test_metrics_are_read_as_they_were_written(folder: RunFolder) -> None:
    begin(folder)
    assert folder.read_metrics() == []
    history = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": None}]
    folder.write_metrics(history)
    assert folder.read_metrics() == history


def test_a_line_of_metrics_that_was_cut_short_is_left_out(folder: RunFolder) -> None:
    begin(folder)
    folder.metrics.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epo')
    assert folder.read_metrics() == [{"epoch": 1}, {"epoch": 2}]


def test_a_report_grows_by_what_is_measured_later(folder: RunFolder) -> None:
    begin(folder)
    folder.write_report(report(random=3, untrained=3))
    merged = folder.write_report(report(random=1, shuffled=2))
    assert {name: control["n"] for name, control in merged["controls"].items()} == {
        "random": 1,
        "untrained": 3,
        "shuffled": 2,
    }
    assert merged["seeds"] == [0, 1, 2]
    assert json.loads(folder.report.read_text()) == merged


def test_the_prizes_are_those_of_all_that_was_measured(folder: RunFolder) -> None:
    begin(folder)
    assert folder.write_report(report(random=3))["prizes"] == prizes()
    # The trained network is measured later, then stays, then is measured again.
    assert folder.write_report(report(trained=4))["prizes"] == prizes(0.25)
    assert folder.write_report(report(shuffled=2))["prizes"] == prizes(0.25)
    assert folder.write_report(report(trained=8))["prizes"] == prizes(0.5)
    assert json.loads(folder.report.read_text())["prizes"] == prizes(0.5)


def test_the_prizes_of_another_ticket_are_not_taken_over(folder: RunFolder) -> None:
    begin(folder)
    folder.write_report(report("other", trained=4))
    assert folder.write_report(report(random=3))["prizes"] == prizes()


def test_a_comparison_stays_until_it_is_made_again(folder: RunFolder) -> None:
    begin(folder)
    folder.write_report({**report(trained=1), "against_trained": {"difference": 0.1}})
    assert folder.write_report(report(random=1))["against_trained"] == {"difference": 0.1}
    again = {**report(trained=1), "against_trained": {"difference": 0.2}}
    assert folder.write_report(again)["against_trained"] == {"difference": 0.2}


@pytest.mark.parametrize("before", ["", "[]", "{}", '{"ticket": 3}', json.dumps(report("other", random=3))])
def test_nothing_is_taken_over_from_a_report_that_is_not_of_this_ticket(before: str, folder: RunFolder) -> None:
    begin(folder)
    folder.report.write_text(before)
    assert folder.write_report(report(shuffled=1)) == {**report(shuffled=1), "prizes": prizes()}


def test_nothing_is_taken_over_from_a_report_that_was_measured_in_another_way(folder: RunFolder) -> None:
    begin(folder)
    folder.write_report(report(random=3))
    mirrored = {**report(shuffled=1), "tta": "flip"}
    assert folder.write_report(mirrored) == {**mirrored, "prizes": prizes()}


def test_a_checkpoint_is_removed_and_may_be_missing(folder: RunFolder) -> None:
    begin(folder)
    make_checkpoint(folder)
    for _ in range(2):
        folder.remove_checkpoint()
        assert not folder.checkpoint.exists()


# Tickets


def ticket(**provenance: Any) -> st.Ticket:
    model = nn.Sequential(nn.Linear(4, 3))
    st.attach(model)
    return st.extract(model, provenance=provenance)


def test_a_ticket_is_opened_by_its_folder_or_its_file(folder: RunFolder) -> None:
    begin(folder)
    st.save(ticket(), folder.ticket)
    assert open_ticket(folder.path)[1] == folder
    assert open_ticket(folder.ticket)[1] is None
    assert open_ticket(folder.path)[0].weights_digest == open_ticket(folder.ticket)[0].weights_digest


def test_a_folder_without_a_ticket_says_whether_it_is_a_run(folder: RunFolder, tmp_path: Path) -> None:
    begin(folder)
    with pytest.raises(TicketError, match="its search is not finished: go on with --resume"):
        open_ticket(folder.path)
    with pytest.raises(TicketError, match=f"^{tmp_path} holds no ticket.safetensors$"):
        open_ticket(tmp_path)


def test_the_options_of_a_ticket_are_those_of_its_run_or_of_its_provenance(folder: RunFolder) -> None:
    begin(folder)
    found = ticket(config={"model": "conv2", "width": 0.5, "where": ["fc*"], "densities": {"fc*": 0.3}})
    assert config_of(found, folder, {"data": "mnist"}) == RunConfig(model="mlp", epochs=3, data="mnist")
    assert config_of(found, None, {"data": "mnist"}) == RunConfig(
        model="conv2", width=0.5, where=("fc*",), densities={"fc*": 0.3}, data="mnist"
    )


def test_the_gain_of_the_law_in_a_ticket_of_format_1_is_read(folder: RunFolder) -> None:
    found = config_of(ticket(config={"model": "mlp", "gain": 2.0}), None, {})
    assert found == RunConfig(model="mlp", weight_gain=2.0)
    for gain in (None, "channel"):
        assert config_of(ticket(config={"model": "mlp", "gain": gain}), None, {}) == RunConfig(model="mlp", gain=gain)


@pytest.mark.parametrize("provenance", [{}, {"config": "conv2"}, {"config": {"unheard_of": 1}}])
def test_a_ticket_that_does_not_say_how_it_was_found_has_no_options(provenance: dict[str, Any]) -> None:
    with pytest.raises(TicketError, match=r"use strongticket\.evaluate with your own network and data"):
        config_of(ticket(**provenance), None, {})


def test_the_environment_is_json_and_needs_no_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["git_commit"] is None
    assert found["versions"]["strongticket"] == st.__version__
