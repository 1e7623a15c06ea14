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
from .early import EARLY, EarlyNetwork, build_early
from .factory import call_factory
from .networks import NETWORKS, Network, build_network
from .resnets import RESNETS, ResidualNetwork, build_resnet
from .text import first_line, shape_text
from .width import parse_width

TORCHVISION = "torchvision:"
OWN: Mapping[str, Network | ResidualNetwork | EarlyNetwork] = MappingProxyType({**NETWORKS, **EARLY, **RESNETS})
# In training these two return a tuple with auxiliary outputs, which a loss cannot take; their own slow initialisation
# is of no use to weights that are redrawn.
_WITHOUT_AUXILIARY: Mapping[str, Mapping[str, bool]] = MappingProxyType(
    {name: {"aux_logits": False, "init_weights": False} for name in ("googlenet", "inception_v3")}
)


def available() -> dict[str, str]:
    """Return every kind of model name with a line that describes it."""
    return {
        **{name: network.description for name, network in OWN.items()},
        "torchvision:NAME": "an image classifier of torchvision, such as torchvision:resnet18",
        "package.module:factory": "your own factory, from an installed package or the working directory",
    }


def is_factory(name: str) -> bool:
    """Say whether a model name is ``package.module:factory``: code that is imported and called to build it."""
    return ":" in name and not name.startswith(TORCHVISION)


def build(
    name: str,
    *,
    input_shape: tuple[int, int, int],
    classes: int,
    width: float | None = None,
    norm: str | None = None,
    activation: str | None = None,
) -> nn.Module:
    """Build a network with fresh weights.

    Parameters
    ----------
    name
        A network of this library (fully connected, VGG-like or residual, as `available` lists them),
        ``torchvision:NAME`` or ``package.module:factory``. A factory gets those of ``num_classes``, ``input_shape``,
        ``width`` and ``norm`` that its signature names.
    input_shape
        ``(channels, height, width)`` of one image.
    classes
        The number of outputs.
    width
        Multiplies every hidden layer; None is the network's own width. Only for networks that have a width.
    norm
        ``"none"`` or ``"batch"``; None is the network's own. Only for networks that have the choice.
    activation
        ``"relu"``, ``"silu"``, or ``"binary"``, which gives ±1 wherever ReLU stands; None is ``"relu"``. Only for
        networks of this library: those of others get binary activations from the masks that are attached to them.

    Raises
    ------
    ConfigError
        If width, norm or activation cannot be used, with this network or at all.
    ModelError
        If the name is unknown or the network cannot be built for these images.
    """
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise ModelError(f"input shape is {tuple(input_shape)}; it must be (channels, height, width), each at least 1")
    if classes < 1:
        raise ModelError(f"the model is asked for {classes} classes; it must have at least 1")
    if width is not None:
        width = parse_width(width)
    if name in OWN:
        return _build_own(name, input_shape, classes=classes, width=width or 1.0, norm=norm, activation=activation)
    if ":" in name and activation is not None:
        way = (
            "and replace its activations when masks are attached (--activations PATTERN)"
            if activation == "binary"
            else f"or use one of {', '.join(OWN)}"
        )
        raise ConfigError(
            f"{name} has no activation to choose, but activation {activation} was asked for; leave it out, {way}"
        )
    if name.startswith(TORCHVISION):
        for option, value in (("width", width), ("norm", norm)):
            if value is not None:
                raise ConfigError(
                    f"{name} has no {option}, but {option} {value} was asked for; "
                    f"leave it out, or use one of {', '.join(OWN)}"
                )
        return _build_torchvision(name, input_shape, classes=classes)
    if is_factory(name):
        return call_factory(name, input_shape, classes=classes, width=width, norm=norm)
    others = [other for other in _torchvision_names() if other not in OWN]
    close = difflib.get_close_matches(name.lower(), [*OWN, *others], n=3)
    hint = " or ".join(match if match in OWN else TORCHVISION + match for match in close)
    raise ModelError(
        f"unknown model {name!r}; {f'did you mean {hint}? ' if hint else ''}There are {', '.join(available())}"
    )


def _build_own(
    name: str,
    input_shape: tuple[int, int, int],
    *,
    classes: int,
    width: float,
    norm: str | None,
    activation: str | None,
) -> nn.Sequential:
    """Build a network of this library; one too large for the machine is an error with its width."""
    build_kind = build_network if name in NETWORKS else build_early if name in EARLY else build_resnet
    try:
        return build_kind(name, input_shape, classes=classes, width=width, norm=norm, activation=activation)
    except (RuntimeError, MemoryError, OverflowError, TypeError) as error:  # torch refuses huge sizes in many ways
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
            f"use one of {', '.join(OWN)}, or colour images"
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
