"""What a run is told: defaults, then a configuration file, then flags, checked as one model."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from strongticket.errors import ConfigError, StrongTicketError
from strongticket.evaluate import TTA
from strongticket.masks import RULE_OPTIONS, RULES, BinaryParts, Density, NormPolicy, Rule, Scope, as_rule
from strongticket.models import parse_width
from strongticket.search import SearchConfig
from strongticket.ticket import CODERS
from strongticket.weights import GRADIENTS, LAWS, Gain, WeightLaw

from .options import OneOf, flag_name
from .shipped import did_you_mean, find_config
from .yaml_text import format_mapping, parse_mapping

PANELS = ("Model", "Data", "Weights and masks", "Binary", "Search", "Dense baseline", "Machine", "Run")

_MODEL: dict[str, Any] = {"panel": "Model"}
_DATA: dict[str, Any] = {"panel": "Data"}
_MASKS: dict[str, Any] = {"panel": "Weights and masks"}
_BINARY: dict[str, Any] = {"panel": "Binary"}
_RUN: dict[str, Any] = {"panel": "Run"}

Share = Annotated[float, Field(gt=0, le=1)]


def _width(value: Any) -> float | None:
    try:
        return None if value is None else parse_width(value)
    except StrongTicketError as error:
        raise ValueError(str(error)) from None


class RunConfig(SearchConfig):
    """All options of ``strongticket search``; a key of a configuration file is a field here and a flag there."""

    # Strict: 'true' is no number and '10' in quotes is no 10.
    model_config = ConfigDict(strict=True, json_schema_extra={"panels": list(PANELS)})

    model: str = Field(
        "conv2",
        min_length=1,
        description="A name from 'list models', torchvision:NAME, or package.module:factory.",
        json_schema_extra=_MODEL,
    )
    width: Annotated[float | None, BeforeValidator(_width)] = Field(
        None, description="Factor on every hidden layer, such as 4x, 4 or 0.5x.", json_schema_extra=_MODEL
    )
    norm: Literal["none", "batch"] | None = Field(
        None, description="Normalisation layers; the model's own choice if not given.", json_schema_extra=_MODEL
    )
    activation: Literal["relu", "silu"] | None = Field(
        None, description="Activation of this library's networks; relu if not given.", json_schema_extra=_MODEL
    )

    data: str = Field(
        "digits", min_length=1, description="A name from 'list data', or imagefolder:DIR.", json_schema_extra=_DATA
    )
    data_dir: Annotated[Path, Field(strict=False)] = Field(
        Path("data"), description="Folder in which data sets lie.", json_schema_extra=_DATA
    )
    download: bool = Field(False, description="Fetch the data set if it is missing.", json_schema_extra=_DATA)
    image_size: int | None = Field(
        None, ge=1, description="Side in pixels to which image folders are scaled.", json_schema_extra=_DATA
    )
    validation: float = Field(
        0.1, ge=0, lt=1, description="Share of the training data held out for validation.", json_schema_extra=_DATA
    )
    workers: int | None = Field(
        None,
        ge=0,
        description="Processes that read images too many for memory; one a processor, at most 8, if not given.",
        json_schema_extra=_DATA,
    )
    skip_bad_images: bool = Field(
        False, description="Leave out images of a folder that cannot be read, and count them.", json_schema_extra=_DATA
    )
    batch_size: int = Field(128, ge=1, description="Images in a batch.", json_schema_extra=_DATA)
    augment: Literal["none", "flip", "crop-flip"] = Field(
        "none", description="Random changes of training images.", json_schema_extra=_DATA
    )
    crop_padding: int = Field(
        4, ge=0, description="Most pixels by which crop-flip shifts images that fit in memory.", json_schema_extra=_DATA
    )
    flips: Literal["random", "alternating"] = Field(
        "random",
        description="Whether flips are drawn in each epoch, or turn each image in every epoch after the first.",
        json_schema_extra=_DATA,
    )

    tta: TTA = Field(
        "none",
        description="Test-time augmentation: flip averages the outputs of an image and its mirror image, flip-shift "
        "those of both moved by a pixel as well.",
        json_schema_extra=_DATA,
    )

    density: Share = Field(0.5, description="Share of the edges that is kept.", json_schema_extra=_MASKS)
    densities: dict[str, Share] = Field(
        {},
        description="Density of tensors by name pattern, such as 'conv*=0.3'; repeatable, the first match holds.",
        json_schema_extra=_MASKS,
    )
    rule: Annotated[str, OneOf(RULES)] = Field(
        "edge-popup", description="How scores become masks.", json_schema_extra=_MASKS
    )
    coats: int | None = Field(
        None, description="Nested masks of rule multicoated; 3 if not given.", json_schema_extra=_MASKS
    )
    redraw_every: int | None = Field(
        None, description="Steps between the draws of rule iterand; 300 if not given.", json_schema_extra=_MASKS
    )
    redraw_share: float | None = Field(
        None,
        description="Probability that iterand then draws a dropped weight anew; 0.1 if not given.",
        json_schema_extra=_MASKS,
    )
    scope: Scope = Field("layer", description="Which edges compete with each other.", json_schema_extra=_MASKS)
    floor: float = Field(
        0.0, ge=0, le=1, description="Density below which no tensor falls in global scope.", json_schema_extra=_MASKS
    )
    where: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (),
        description="Pattern of names of tensors to mask, repeatable; all weights if not given.",
        json_schema_extra=_MASKS,
    )
    weights: Annotated[str, OneOf(LAWS)] = Field(
        "signed-constant", description="Law of the frozen random weights.", json_schema_extra=_MASKS
    )
    weight_gain: float | None = Field(
        None, gt=0, description="Gain of the weights; the law's own if not given.", json_schema_extra=_MASKS
    )
    fan: Literal["in", "out"] = Field("in", description="Fan that scales the weights.", json_schema_extra=_MASKS)
    scale_by_density: bool = Field(False, description="Count only the kept edges in the fan.", json_schema_extra=_MASKS)
    bn: NormPolicy = Field(
        "frozen", description="Whether batch norm's scale and shift are trained.", json_schema_extra=_MASKS
    )
    binary: BinaryParts = Field("none", description="What is ±1: a multi-prize ticket.", json_schema_extra=_BINARY)
    gain: Gain | None = Field(
        None, description="What shares a gain if weights are binary; the layer if not given.", json_schema_extra=_BINARY
    )
    activations: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (),
        description="Pattern of names of activation modules to make binary, repeatable; all if not given.",
        json_schema_extra=_BINARY,
    )
    activation_gradient: Annotated[str, OneOf(tuple(GRADIENTS))] | None = Field(
        None, description="Gradient of binary activations; bi-real if not given.", json_schema_extra=_BINARY
    )

    seed: int = Field(
        0, ge=0, lt=2**64, description="Seed of weights, scores, split and order.", json_schema_extra=_RUN
    )
    control_seeds: int = Field(
        3,
        ge=0,
        description="How many seeds each control has that a search ends with; 0 for no controls.",
        json_schema_extra=_RUN,
    )
    out: Annotated[Path | None, Field(strict=False)] = Field(
        None, description="Folder for the run; a new one under runs/ if not given.", json_schema_extra=_RUN
    )
    coder: Annotated[str, OneOf(CODERS)] = Field(
        "zstd",
        description="Coder of the masks in the ticket file; ans comes nearer to their entropy and needs an extra.",
        json_schema_extra=_RUN,
    )
    track: str = Field(
        "none",
        min_length=1,
        description="Tracker that also gets the metrics: tensorboard, wandb, mlflow or another that accelerate knows.",
        json_schema_extra=_RUN,
    )

    @property
    def search_config(self) -> SearchConfig:
        """The options that ``search`` takes."""
        return SearchConfig(**{name: getattr(self, name) for name in SearchConfig.model_fields})

    @property
    def built_activation(self) -> str | None:
        """The activation that the network is built with; None is its own, which masks may replace by name."""
        built_binary = ":" not in self.model and self.binary == "weights+activations" and not self.activations
        return "binary" if built_binary else self.activation

    @property
    def chosen_rule(self) -> Rule:
        """The rule as ``attach`` takes it; ConfigError for options that it does not have, or values it cannot use."""
        return as_rule(self.rule, **{option: getattr(self, option) for option in RULE_OPTIONS})

    @property
    def density_by_name(self) -> Density:
        """The density as ``attach`` takes it: one number, or ``densities`` with ``density`` for all other tensors."""
        return (
            {**self.densities, **({} if "*" in self.densities else {"*": self.density})}
            if self.densities
            else self.density
        )

    @property
    def law(self) -> WeightLaw:
        """The law of the weights as ``attach`` takes it."""
        return WeightLaw(self.weights, gain=self.weight_gain, fan=self.fan, scale_by_density=self.scale_by_density)


def load_config(config: str | None = None, flags: Mapping[str, Any] | None = None) -> RunConfig:
    """Return the options of a run: defaults, then those of ``config``, then ``flags``.

    ``config`` is the path of a YAML file or the name of a shipped one; ``flags`` is {field name: value}.
    Raises ConfigError, in one line, for a file that is missing or damaged, an unknown key, or a value
    that cannot be used.
    """
    flags = dict(flags or {})
    source = str(config)
    values: dict[str, Any] = {}
    if config is not None:
        values = _fields_in(parse_mapping(_read(find_config(config)), source), source)
    return _validated({**values, **flags}, flags, source)


def changed(config: RunConfig, values: Mapping[str, Any], source: str) -> RunConfig:
    """Return ``config`` with options changed to ``values``, which stand in ``source``.

    Raises ConfigError, in one line, for a value that cannot be used; the keys are fields.
    """
    return _validated({**config.model_dump(), **values}, {}, source)


def format_config(config: RunConfig) -> str:
    """Return all options as a YAML text that ``load_config`` reads back as the same options."""
    return format_mapping(config.model_dump(mode="json"))


def _validated(values: Mapping[str, Any], flags: Mapping[str, Any], source: str) -> RunConfig:
    try:
        config = RunConfig.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(part, flags, source) for part in error.errors())) from None
    _ = config.chosen_rule  # refuses options of another rule
    if config.activation is not None and config.built_activation != config.activation:
        raise ConfigError(
            f"activation {config.activation} was given, but binary weights+activations puts ±1 in its place; leave one "
            "of them out, or name the modules that become ±1 (activations)"
        )
    return config


def _read(file: Traversable) -> str:
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: is not a text file in UTF-8; expected YAML") from None


def _fields_in(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the values by field name; a key may be written with dashes like its flag."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in RunConfig.model_fields:
            path = _full_path(key, value)
            flat = name != path and path.rpartition(".")[2].replace("-", "_") in RunConfig.model_fields
            hint = (
                "; keys are not nested, write it at the top level"
                if flat
                else did_you_mean(name, RunConfig.model_fields)
            )
            raise ConfigError(f"{source}: the key {path!r} is unknown{hint}")
        if name in found:
            raise ConfigError(
                f"{source}: the key {name!r} is given twice, with a dash and with an underscore; keep one"
            )
        found[name] = value
    return found


def _full_path(key: str, value: Any) -> str:
    while isinstance(value, dict) and value:
        inner, value = next(iter(value.items()))
        key = f"{key}.{inner}"
    return key


_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a mapping from name patterns to densities",
    "string_too_short": "a text that is not empty",
    "string_type": "text",
    "tuple_type": "a list",
}
_BOUNDS = {"exclusiveMinimum": "above", "minimum": "at least", "exclusiveMaximum": "below", "maximum": "at most"}


def _explain(error: ErrorDetails, flags: Mapping[str, Any], source: str) -> str:
    """Say in one line which value was given, where, and what was expected."""
    name, *inner = (str(part) for part in error["loc"])
    typed = name in flags
    key = ".".join([flag_name(name) if typed else name, *inner])
    where = "" if typed else f" in {source}"
    if error["type"] == "value_error":
        return f"{key}{where}: {error['ctx']['error']}"
    message = error["msg"].removeprefix("Input should be ")
    expected = _EXPECTED.get(error["type"]) or _number(name, nested=bool(inner)) or message
    given = repr(error["input"])
    return f"{key}: {given if len(given) <= 60 else given[:57] + '…'} was given{where}; expected {expected}"


def _number(name: str, *, nested: bool) -> str | None:
    """Say which numbers a field takes, None if it takes other things."""
    schema = RunConfig.model_json_schema()["properties"][name]
    if nested:
        schema = schema.get("additionalProperties", {})
    schema = schema.get("anyOf", [schema])[0]  # a number, or nothing
    if schema.get("type") not in ("number", "integer"):
        return None
    limits = {word: schema[bound] for bound, word in _BOUNDS.items() if bound in schema}
    bounds = " and ".join(f"{word} {x:g}" if isinstance(x, float) else f"{word} {x}" for word, x in limits.items())
    return f"{'a number' if schema['type'] == 'number' else 'a whole number'} {bounds}".rstrip()
