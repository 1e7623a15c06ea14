"""A network from its name: built in, from torchvision, or from a factory of the user's own."""

from __future__ import annotations

import difflib
import importlib
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from ..errors import ConfigError, ModelError
from .factory import call_factory
from .networks import NETWORKS, build_network
from .text import first_line, shape_text
from .width import parse_width

TORCHVISION = "torchvision:"
# In training these two return a tuple with auxiliary outputs, which a loss cannot take; their own slow initialisation
# is of no use to weights that are redrawn.
_WITHOUT_AUXILIARY: Mapping[str, Mapping[str, bool]] = MappingProxyType(
    {name: {"aux_logits": False, "init_weights": False} for name in ("googlenet", "inception_v3")}
)


def available() -> dict[str, str]:
    """Return every kind of model name with a line that describes it."""
    return {
        **{name: network.description for name, network in NETWORKS.items()},
        "torchvision:NAME": "an image classifier of torchvision, such as torchvision:resnet18",
        "package.module:factory": "your own factory, from an installed package or the working directory",
    }


def build(
    name: str,
    *,
    input_shape: tuple[int, int, int],
    classes: int,
    width: float | None = None,
    norm: str | None = None,
) -> nn.Module:
    """Build a network with fresh weights.

    Parameters
    ----------
    name
        ``mlp``, ``conv2``, ``conv4``, ``conv6``, ``conv8``, ``torchvision:NAME`` or ``package.module:factory``. A
        factory gets those of ``num_classes``, ``input_shape``, ``width`` and ``norm`` that its signature names.
    input_shape
        ``(channels, height, width)`` of one image.
    classes
        The number of outputs.
    width
        Multiplies every hidden layer; None is the network's own width. Only for networks that have a width.
    norm
        ``"none"`` or ``"batch"``; None is the network's own. Only for networks that have the choice.

    Raises
    ------
    ConfigError
        If width or norm cannot be used, with this network or at all.
    ModelError
        If the name is unknown or the network cannot be built for these images.
    """
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise ModelError(f"input shape is {tuple(input_shape)}; it must be (channels, height, width), each at least 1")
    if classes < 1:
        raise ModelError(f"the model is asked for {classes} classes; it must have at least 1")
    if width is not None:
        width = parse_width(width)
    if name in NETWORKS:
        return _build_own(name, input_shape, classes=classes, width=width or 1.0, norm=norm or "none")
    if name.startswith(TORCHVISION):
        for option, value in (("width", width), ("norm", norm)):
            if value is not None:
                raise ConfigError(
                    f"{name} has no {option}, but {option} {value} was asked for; "
                    f"leave it out, or use one of {', '.join(NETWORKS)}"
                )
        return _build_torchvision(name, input_shape, classes=classes)
    if ":" in name:
        return call_factory(name, input_shape, classes=classes, width=width, norm=norm)
    close = difflib.get_close_matches(name.lower(), [*NETWORKS, *_torchvision_names()], n=3)
    hint = " or ".join(match if match in NETWORKS else TORCHVISION + match for match in close)
    raise ModelError(
        f"unknown model {name!r}; {f'did you mean {hint}? ' if hint else ''}There are {', '.join(available())}"
    )


def _build_own(name: str, input_shape: tuple[int, int, int], *, classes: int, width: float, norm: str) -> nn.Sequential:
    """Build a network of this library; one too large for the machine is an error with its width."""
    try:
        return build_network(name, input_shape, classes=classes, width=width, norm=norm)
    except (RuntimeError, MemoryError, OverflowError) as error:
        raise ModelError(
            f"{name} at width {width:g} cannot be built for images of {shape_text(input_shape)}: {first_line(error)}; "
            f"try a smaller width"
        ) from error


def _torchvision_names() -> list[str]:
    """Return the names of torchvision's image classifiers; those for detection or video live in other modules."""
    # Importing torchvision takes a second, which no other command or model should wait for.
    models = importlib.import_module("torchvision.models")
    return list(models.list_models(module=models))


def _build_torchvision(name: str, input_shape: tuple[int, int, int], *, classes: int) -> nn.Module:
    """Build an image classifier of torchvision, without trained weights."""
    base = name.removeprefix(TORCHVISION)
    known = _torchvision_names()
    if base not in known:
        close = difflib.get_close_matches(base.lower(), known, n=5)
        hint = f"close names are {', '.join(close)}" if close else f"there are {', '.join(known)}"
        raise ModelError(f"torchvision has no image classifier {base!r}; {hint}")
    channels, height, across = input_shape
    if channels != 3:
        raise ModelError(
            f"{name} takes images of 3 channels, these have {channels} ({shape_text(input_shape)}); "
            f"use one of {', '.join(NETWORKS)}, or colour images"
        )
    options: dict[str, Any] = dict(_WITHOUT_AUXILIARY.get(base, {}))
    if base.startswith("vit_") and height == across:
        options["image_size"] = height  # its position embedding is made for one size, 224 unless told
    models = importlib.import_module("torchvision.models")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model = models.get_model(base, weights=None, num_classes=classes, **options)
    except Exception as error:  # each network has its own checks, with asserts among them
        raise ModelError(
            f"{name} cannot be built for images of {shape_text(input_shape)}: {first_line(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} is a {type(model).__name__}, not a torch.nn.Module")
    return model
