"""Command-line flags out of a pydantic model, so that there is one list of options.

A field ``learning_rate: float = Field(0.1, gt=0, description="…")`` becomes ``--learning-rate FLOAT`` with
its description as help and its default shown. A flag says only how its text is read; whether the value
may be used is decided by the model, whatever way the value came.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import rich_click as click
from click import get_current_context
from click.core import ParameterSource
from pydantic import BaseModel, BeforeValidator, GetCoreSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

Function = Callable[..., Any]


@dataclass(frozen=True)
class OneOf:
    """Annotation of a text that is one of some names, known when the program runs: ``Annotated[str, OneOf(RULES)]``."""

    names: Sequence[str] | Mapping[str, object]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let pydantic refuse every other text as it does for a Literal."""
        return core_schema.chain_schema([handler(source), core_schema.literal_schema(list(self.names))])


def config_options(model: type[BaseModel], *, default_panel: str) -> Callable[[Function], Function]:
    """Return a decorator that gives a command one flag for each field of ``model``.

    The command receives the flags that were typed, and no others, as one argument ``flags``: {field name:
    value}. A field's panel in the help is its ``json_schema_extra={"panel": …}``, else ``default_panel``; panels
    stand in the order of the model's own ``json_schema_extra={"panels": […]}``, then as they come.
    """
    fields = model.model_fields

    def decorate(command: Function) -> Function:
        @functools.wraps(command)
        def with_flags(*args: Any, **values: Any) -> Any:
            source = get_current_context().get_parameter_source
            flags = {name: values.pop(name) for name in fields}
            typed = {name: flag for name, flag in flags.items() if source(name) is ParameterSource.COMMANDLINE}
            return command(*args, flags=typed, **values)

        result: Function = with_flags
        for name in reversed(fields):
            result = _option(name, fields[name], default_panel)(result)
        used = [_panel(field, default_panel) for field in fields.values()]
        ordered = [panel for panel in _extra(model.model_config).get("panels", []) if panel in used]
        for panel in reversed(list(dict.fromkeys([*ordered, *used]))):
            result = click.option_panel(panel)(result)
        return result

    return decorate


def flag_name(field: str) -> str:
    """Return the flag of a field: ``learning_rate`` → ``--learning-rate``."""
    return "--" + field.replace("_", "-")


@dataclass(frozen=True)
class _Kind:
    """How the text of a flag is read."""

    type: Any
    multiple: bool = False
    mapping: bool = False
    switch: bool = False


def _option(name: str, field: FieldInfo, default_panel: str) -> Callable[[Function], Function]:
    kind, flag = _kind(field), flag_name(name)
    return click.option(
        f"{flag}/--no-{flag[2:]}" if kind.switch else flag,
        name,
        type=None if kind.switch else kind.type,
        is_flag=kind.switch,
        multiple=kind.multiple,
        callback=_pairs if kind.mapping else None,
        metavar="PATTERN=DENSITY" if kind.mapping else None,
        default=_shown_default(field),
        show_default=True,
        help=field.description,
        panel=_panel(field, default_panel),
    )


def _pairs(ctx: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> dict[str, float]:
    """Read texts such as ``conv*=0.3``; the range of the number is the model's business."""
    pairs = {}
    for text in texts:
        pattern, _, number = text.rpartition("=")
        try:
            if not pattern:
                raise ValueError
            pairs[pattern] = float(number)
        except ValueError:
            raise click.BadParameter(f"{text!r} is not PATTERN=DENSITY, such as 'conv*=0.3'.", ctx, option) from None
    return pairs


def _panel(field: FieldInfo, default: str) -> str:
    return str(_extra({"json_schema_extra": field.json_schema_extra}).get("panel", default))


def _extra(holder: Mapping[str, Any]) -> Mapping[str, Any]:
    extra = holder.get("json_schema_extra")
    return extra if isinstance(extra, dict) else {}


def _shown_default(field: FieldInfo) -> Any:
    """Return the default for the help; an empty collection is shown as nothing, its description says what happens."""
    default = field.get_default(call_default_factory=True)
    return default if isinstance(default, bool | str | int | float | Path) else None


def _kind(field: FieldInfo) -> _Kind:
    core, metadata = _core_type(field.annotation, list(field.metadata))
    if any(isinstance(item, BeforeValidator) for item in metadata):
        return _Kind(str)  # the field reads its own text
    for item in metadata:
        if isinstance(item, OneOf):
            return _Kind(click.Choice(list(item.names)))
    if get_origin(core) is Literal:
        return _Kind(click.Choice([str(value) for value in get_args(core)]))
    if get_origin(core) is dict:
        return _Kind(str, multiple=True, mapping=True)
    if get_origin(core) is tuple:
        return _Kind(get_args(core)[0], multiple=True)
    if core is bool:
        return _Kind(bool, switch=True)
    if core is Path:
        return _Kind(click.Path(path_type=Path))
    if core in (str, int, float):
        return _Kind(core)
    raise TypeError(f"no flag can be made of a field of type {core!r}")


def _core_type(annotation: Any, metadata: list[Any]) -> tuple[Any, list[Any]]:
    """Strip ``Annotated`` and ``| None`` from an annotation; collect what was annotated."""
    if get_origin(annotation) is Annotated:
        inner, *notes = get_args(annotation)
        return _core_type(inner, metadata + notes)
    if get_origin(annotation) in (Union, UnionType):
        rest = [argument for argument in get_args(annotation) if argument is not NoneType]
        if len(rest) == 1:
            return _core_type(rest[0], metadata)
    return annotation, metadata
