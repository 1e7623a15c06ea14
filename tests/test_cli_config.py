from __future__ import annotations

import math
import string
from pathlib import Path
from typing import Any

import pytest
import rich_click as click
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from strongticket.cli.config import RunConfig, format_config, load_config
from strongticket.cli.options import config_options, flag_name
from strongticket.cli.shipped import shipped_configs
from strongticket.cli.yaml_text import format_mapping, parse_mapping
from strongticket.errors import ConfigError
from strongticket.masks import RULES
from strongticket.weights import LAWS


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return tmp_path / "recipe.yaml"


def message(config: Path | str | None = None, **flags: Any) -> str:
    """Return the one line with which these options are refused."""
    with pytest.raises(ConfigError) as caught:
        load_config(None if config is None else str(config), flags)
    text = str(caught.value)
    assert "\n" not in text
    return text


def refused(recipe: Path, text: str) -> str:
    recipe.write_text(text)
    return message(recipe)


# Which value wins


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(recipe: Path) -> None:
    recipe.write_text("epochs: 3\nseed: 4\n")
    config = load_config(str(recipe), {"seed": 5})
    assert (config.epochs, config.seed, config.batch_size) == (3, 5, RunConfig().batch_size)


def test_nothing_given_is_the_defaults() -> None:
    assert load_config() == RunConfig()


def test_an_empty_file_changes_nothing(recipe: Path) -> None:
    recipe.write_text("# nothing yet\n")
    assert load_config(str(recipe)) == RunConfig()


def test_a_key_may_be_written_like_its_flag(recipe: Path) -> None:
    recipe.write_text("learning-rate: 0.25\ndata-dir: pictures\n")
    config = load_config(str(recipe))
    assert (config.learning_rate, config.data_dir) == (0.25, Path("pictures"))


def test_every_shipped_config_can_be_loaded_and_says_what_it_is() -> None:
    for name, description in shipped_configs().items():
        assert isinstance(load_config(name), RunConfig)
        assert description, f"{name}.yaml does not begin with a comment"


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_an_activation_that_becomes_binary_anyway_is_refused(activation: str) -> None:
    text = message(activation=activation, binary="weights+activations")
    assert f"activation {activation} was given, but binary weights+activations puts ±1 in its place" in text
    named = {"activation": activation, "binary": "weights+activations", "activations": ("relu1",)}
    assert load_config(None, named).built_activation == activation


def test_a_resolved_config_is_read_back_as_itself(recipe: Path) -> None:
    config = load_config(
        None,
        {"width": "0.5x", "out": Path("a/b"), "densities": {"conv*": 0.25}, "where": ("fc*", "1e3"), "seed": 2**64 - 1}
        | {"binary": "weights+activations", "gain": "channel", "activations": ("relu*", "no"), "workers": 0}
        | {"activation_gradient": "clipped-identity", "weight_gain": 2.0},
    )
    recipe.write_text(format_config(config))
    assert load_config(str(recipe)) == config


def test_densities_by_name_fall_back_to_the_density_of_all() -> None:
    assert load_config(None, {"density": 0.25}).density_by_name == 0.25
    assert load_config(None, {"density": 0.25, "densities": {"a*": 0.75}}).density_by_name == {"a*": 0.75, "*": 0.25}
    assert load_config(None, {"densities": {"a*": 0.75, "*": 1.0}}).density_by_name == {"a*": 0.75, "*": 1.0}


def test_the_law_carries_gain_fan_and_scaling() -> None:
    options = {"weights": "kaiming-normal", "weight_gain": 2.0, "fan": "out", "scale_by_density": True}
    law = load_config(None, options).law
    assert (law.kind, law.gain, law.fan, law.scale_by_density) == ("kaiming-normal", 2.0, "out", True)


@pytest.mark.parametrize("text", ["4x", "4", "4.0", "4X"])
def test_widths_are_read_alike(text: str, recipe: Path) -> None:
    assert load_config(None, {"width": text}).width == 4.0
    recipe.write_text(f"width: {text}\n")
    assert load_config(str(recipe)).width == 4.0


# What is refused, and how


def test_an_unknown_key_is_named_with_what_was_meant(recipe: Path) -> None:
    text = refused(recipe, "epoch: 3\n")
    assert text == f"{recipe}: the key 'epoch' is unknown (did you mean 'epochs'?)"


def test_an_unknown_key_is_named_with_its_full_path(recipe: Path) -> None:
    assert "the key 'search.nope' is unknown" in refused(recipe, "search:\n  nope: 1\n")
    assert "the key 'a.b.c' is unknown" in refused(recipe, "a: {b: {c: 1}}\n")


def test_a_known_key_in_a_section_is_sent_to_the_top_level(recipe: Path) -> None:
    text = refused(recipe, "search:\n  epochs: 1\n")
    assert "'search.epochs' is unknown; keys are not nested" in text


def test_a_key_given_twice_is_refused_with_its_lines(recipe: Path) -> None:
    assert "line 3: the key 'epochs' was given before, in line 1" in refused(recipe, "epochs: 1\nseed: 2\nepochs: 3\n")
    assert "given twice" in refused(recipe, "data-dir: a\ndata_dir: b\n")
    assert "line 2: the key 'fc*' was given before" in refused(recipe, "densities: {'fc*': 0.5,\n 'fc*': 0.25}\n")


@pytest.mark.parametrize("text", ["- epochs\n", "epochs\n", "3\n"])
def test_a_file_that_is_no_mapping_is_refused(text: str, recipe: Path) -> None:
    assert "expected 'key: value' lines" in refused(recipe, text)


def test_bad_yaml_is_refused_with_its_line(recipe: Path) -> None:
    assert f"{recipe}, line 2" in refused(recipe, "epochs: 1\nseed: [1]]\n")
    assert f"{recipe}, line 1" in refused(recipe, "epochs: !!python/name:os.system x\n")
    assert "tags" in refused(recipe, "epochs: !!int x\n")
    assert "not YAML" in refused(recipe, "epochs: \x01\n")
    assert "not text" in refused(recipe, "1: 2\n")


def test_a_file_that_is_not_text_is_refused(recipe: Path) -> None:
    recipe.write_bytes(b"epochs: \xff\xfe\n")
    assert "UTF-8" in message(recipe)


def test_a_missing_file_lists_the_shipped_configs(recipe: Path) -> None:
    text = message(recipe)
    assert "does not exist" in text
    assert all(name in text for name in shipped_configs())


def test_a_folder_is_no_config(tmp_path: Path) -> None:
    assert "is a folder" in message(tmp_path)


@pytest.mark.parametrize("value", [0, 0.0, -0.1, 1.5, math.nan, math.inf, "0.5", True, None])
def test_a_density_outside_its_range_is_refused(value: object) -> None:
    expected = f"{value!r} was given; expected a number above 0 and at most 1"
    assert message(density=value) == f"--density: {expected}"
    assert message(densities={"conv*": value}) == f"--densities.conv*: {expected}"


def test_the_ends_of_the_range_of_densities() -> None:
    assert load_config(None, {"density": 1}).density == 1.0
    assert load_config(None, {"density": 1e-9}).density == 1e-9


@pytest.mark.parametrize("value", ["0", "x4y", "-1", "nan", "inf", ""])
def test_a_width_that_is_no_factor_is_refused(value: str) -> None:
    assert message(width=value).startswith("--width: ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epochs: ten", "epochs: 'ten' was given in {}; expected a whole number at least 1"),
        ("epochs: 1.5", "epochs: 1.5 was given in {}; expected a whole number at least 1"),
        ("epochs: true", "epochs: True was given in {}; expected a whole number at least 1"),
        ("epochs: 010", "epochs: '010' was given in {}; expected a whole number at least 1"),
        ("epochs: 0", "epochs: 0 was given in {}; expected a whole number at least 1"),
        ("epochs: null", "epochs: None was given in {}; expected a whole number at least 1"),
        ("control_seeds: -1", "control_seeds: -1 was given in {}; expected a whole number at least 0"),
        ("validation: 1", "validation: 1 was given in {}; expected a number at least 0 and below 1"),
        ("learning_rate: 0", "learning_rate: 0 was given in {}; expected a number above 0"),
        ("learning_rate: .nan", "learning_rate: nan was given in {}; expected a number above 0"),
        ("download: 1", "download: 1 was given in {}; expected true or false"),
        ("weight_gain: 0", "weight_gain: 0 was given in {}; expected a number above 0"),
        ("gain: 2.0", "gain: 2.0 was given in {}; expected 'layer' or 'channel'"),
        (
            "binary: weights+activation",
            "binary: 'weights+activation' was given in {}; expected 'none', 'weights' or 'weights+activations'",
        ),
        ("binary: true", "binary: True was given in {}; expected 'none', 'weights' or 'weights+activations'"),
        ("activations: relu*", "activations: 'relu*' was given in {}; expected a list"),
        (
            "activation_gradient: bireal",
            "activation_gradient: 'bireal' was given in {}; expected 'bi-real' or 'clipped-identity'",
        ),
        ("workers: -1", "workers: -1 was given in {}; expected a whole number at least 0"),
        ("workers: 1.5", "workers: 1.5 was given in {}; expected a whole number at least 0"),
        ("image_size: 1.5", "image_size: 1.5 was given in {}; expected a whole number at least 1"),
        ("seed: -1", "seed: -1 was given in {}; expected a whole number at least 0 and below 18446744073709551616"),
        ("where: fc", "where: 'fc' was given in {}; expected a list"),
        ("model: ''", "model: '' was given in {}; expected a text that is not empty"),
        ("model: 4", "model: 4 was given in {}; expected text"),
        ("scope: all", "scope: 'all' was given in {}; expected 'layer' or 'global'"),
        ("densities: 0.5", "densities: 0.5 was given in {}; expected a mapping from name patterns to densities"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(text: str, expected: str, recipe: Path) -> None:
    assert refused(recipe, text) == expected.format(recipe)


def test_all_wrong_values_stand_in_one_line(recipe: Path) -> None:
    recipe.write_text("epochs: 0\n")
    text = message(recipe, batch_size=0)
    assert f"epochs: 0 was given in {recipe}" in text
    assert "--batch-size: 0 was given; expected a whole number at least 1" in text


def test_a_long_value_is_cut(recipe: Path) -> None:
    assert len(refused(recipe, f"epochs: {'x' * 5000}")) < 200 + len(str(recipe))


@pytest.mark.parametrize(("key", "known"), [("rule", RULES), ("weights", LAWS)])
def test_an_unknown_rule_or_law_lists_what_there_is(key: str, known: dict[str, object], recipe: Path) -> None:
    text = refused(recipe, f"{key}: lottery\n")
    assert text.startswith(f"{key}: 'lottery' was given")
    assert all(name in text for name in known)


# YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E3", 1000.0),
        ("-2.5e+1", -25.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("-7", -7),
        ("010", "010"),
        ("1_000", "1_000"),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("none", "none"),
        ("null", None),
        ("~", None),
        ("2024-01-02", "2024-01-02"),
        ("12:30", "12:30"),
        ("1e", "1e"),
    ],
)
def test_scalars_are_those_of_the_core_schema(text: str, value: object) -> None:
    found = parse_mapping(f"key: {text}", "here")["key"]
    assert found == value
    assert type(found) is type(value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(string.printable),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(string.ascii_letters + "*.= #"), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.text(string.ascii_letters), VALUES, max_size=4))
def test_what_is_written_is_read_back(values: dict[str, Any]) -> None:
    assert parse_mapping(format_mapping(values), "here") == values


@given(st.text())
def test_any_text_is_a_mapping_or_one_line_of_error(text: str) -> None:
    try:
        outcome: object = parse_mapping(text, "here")
    except ConfigError as error:
        outcome = str(error)
    assert isinstance(outcome, dict) or (isinstance(outcome, str) and "\n" not in outcome)


def test_the_loader_leaves_the_library_of_yaml_as_it_is() -> None:
    assert yaml.safe_load("a: on") == {"a": True}


# Flags


def show(flags: dict[str, Any]) -> None:
    for name, value in flags.items():
        click.echo(f"{name}={value!r}")


probe = click.command("probe")(config_options(RunConfig, default_panel="Other")(show))


def typed(*arguments: str) -> str:
    result = CliRunner().invoke(probe, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_field_is_a_flag_with_help_and_every_flag_a_field() -> None:
    flags = {option for parameter in probe.params for option in parameter.opts}
    assert flags == {flag_name(name) for name in RunConfig.model_fields}
    for parameter in probe.params:
        assert isinstance(parameter, click.Option)
        assert parameter.help, f"{parameter.name} has no description"


def test_only_what_was_typed_is_handed_on() -> None:
    assert typed() == ""
    assert typed("--no-download", "--epochs", "30").splitlines() == ["epochs=30", "download=False"]


def test_a_typed_value_equal_to_the_default_wins_over_the_file(recipe: Path) -> None:
    recipe.write_text(f"epochs: {RunConfig().epochs + 1}\n")
    assert f"epochs={RunConfig().epochs}" in typed("--epochs", str(RunConfig().epochs))
    assert load_config(str(recipe), {"epochs": RunConfig().epochs}).epochs == RunConfig().epochs


def test_flags_arrive_with_the_type_of_their_field() -> None:
    output = typed(
        *("--learning-rate", "1e-3", "--data-dir", "x", "--where", "a*", "--where", "b", "--scope", "global"),
        *("--densities", "conv*=0.25", "--densities", "a=b=0.5", "--width", "4x", "--download", "--weight-gain", "2"),
        *("--gain", "channel", "--binary", "weights", "--activations", "a*", "--activations", "b", "--workers", "0"),
    )
    assert set(output.splitlines()) == {
        "learning_rate=0.001",
        f"data_dir={Path('x')!r}",
        "where=('a*', 'b')",
        "scope='global'",
        "densities={'conv*': 0.25, 'a=b': 0.5}",
        "width='4x'",
        "download=True",
        "weight_gain=2.0",
        "gain='channel'",
        "binary='weights'",
        "activations=('a*', 'b')",
        "workers=0",
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ("--epochs", "ten"),
        ("--rule", "lottery"),
        ("--weights", "lottery"),
        ("--scope", "all"),
        ("--gain", "2"),
        ("--binary", "weights+activation"),
        ("--activation-gradient", "relu"),
        ("--workers", "two"),
        ("--densities", "conv"),
        ("--densities", "=0.5"),
        ("--densities", "conv=x"),
        ("--nope", "1"),
    ],
)
def test_a_text_that_cannot_be_read_is_wrong_usage(arguments: tuple[str, str]) -> None:
    result = CliRunner().invoke(probe, arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.output


def test_help_shows_defaults_choices_and_panels() -> None:
    text = typed("--help")
    choices = ("layer|global", "layer|channel", "edge-popup")
    for part in ("Weights and masks", "Binary", *choices, "[default: 0.5]", "no-download"):
        assert part in text


def test_a_field_without_a_panel_goes_to_the_default_one() -> None:
    from pydantic import BaseModel, Field

    class Small(BaseModel):
        size: int = Field(1, description="A size.")

    small = click.command("small")(config_options(Small, default_panel="Leftovers")(show))
    assert "Leftovers" in CliRunner().invoke(small, ["--help"]).output


def test_a_field_that_no_flag_can_hold_is_an_error_of_the_developer() -> None:
    from pydantic import BaseModel

    class Odd(BaseModel):
        thing: bytes = b""

    with pytest.raises(TypeError, match="bytes"):
        config_options(Odd, default_panel="x")(lambda flags: None)
