"""Networks of the user's own: ``package.module:factory``."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import ConfigError, ModelError
from .text import first_line


def call_factory(
    spec: str, input_shape: tuple[int, int, int], *, classes: int, width: float | None, norm: str | None
) -> nn.Module:
    """Import a factory from an installed package or the working directory, and call it.

    The factory gets, by keyword, those of ``num_classes``, ``input_shape``, ``width`` and ``norm`` that its signature
    names, the last two only if they were asked for. A factory with ``**options`` gets ``num_classes`` too, and a width
    or norm that was asked for, but not ``input_shape``: it mostly passes its options on to a network that has none.

    Raises
    ------
    ConfigError
        If a width or norm was asked for that the factory does not take.
    ModelError
        If the module or the factory does not exist, raises, or returns anything but a `torch.nn.Module`.
    """
    with _importing_from_working_directory():
        factory = _find(spec)
        arguments = _arguments(
            spec, factory, {"num_classes": classes, "input_shape": input_shape, "width": width, "norm": norm}
        )
        try:
            model = factory(**arguments)
        except (Exception, SystemExit) as error:  # it is the user's code, and may raise anything
            call = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
            raise ModelError(f"{spec}({call}) raised {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{spec} returned a {type(model).__name__}; a factory must return a torch.nn.Module")
    return model


@contextlib.contextmanager
def _importing_from_working_directory() -> Iterator[None]:
    """Put the working directory first on the import path for a while, as ``python -m`` does."""
    entry = str(Path.cwd())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


def _find(spec: str) -> Callable[..., Any]:
    """Import the module and return its factory."""
    module_name, _, factory_name = spec.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), factory_name]):
        raise ModelError(f"model {spec!r} is not of the form package.module:factory")
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # it is the user's code, and may raise anything
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{module_name}.".startswith(f"{missing}."):
            raise ModelError(
                f"model {spec!r}: there is no module {missing!r} among the installed packages or in {Path.cwd()}"
            ) from error
        raise ModelError(
            f"model {spec!r}: importing {module_name} raised {type(error).__name__}: {first_line(error)}"
        ) from error
    factory = getattr(module, factory_name, None)
    if callable(factory):
        found: Callable[..., Any] = factory
        return found
    names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
    close = difflib.get_close_matches(factory_name, names, n=3)
    problem = "has no" if factory is None else f"has a {type(factory).__name__}, not a function, called"
    raise ModelError(
        f"model {spec!r}: {module_name} {problem} {factory_name!r}"
        + (f"; did you mean {' or '.join(close)}?" if close else "")
    )


def _arguments(spec: str, factory: Callable[..., Any], offered: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments to call the factory with."""
    parameters: Mapping[str, inspect.Parameter] = {}
    with contextlib.suppress(ValueError):  # some callables written in C have no signature
        parameters = inspect.signature(factory).parameters
    named = {
        name
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        named |= {"num_classes", "width", "norm"}
    for option in ("width", "norm"):
        if offered[option] is not None and option not in named:
            raise ConfigError(
                f"{spec} has no {option}, but {option} {offered[option]} was asked for; "
                f"leave it out, or give the factory an argument {option}"
            )
    return {name: value for name, value in offered.items() if name in named and value is not None}
