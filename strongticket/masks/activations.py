"""What of a network becomes binary: the choices, and the activation modules that they replace by ±1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from inspect import isroutine, unwrap
from types import CodeType
from typing import Literal, get_args

from torch import nn

from ..errors import ConfigError, ModelError
from ..weights import BinaryActivation, Gain, check_gain, check_gradient

BinaryParts = Literal["none", "weights", "weights+activations"]

_ACTIVATIONS = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardshrink,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.PReLU,
    nn.RReLU,
    nn.ReLU,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softshrink,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
    nn.Threshold,
)
# What torch, F and tensors call them, but for underscores.
_FUNCTIONS = frozenset([*(kind.__name__.lower() for kind in _ACTIVATIONS), "relu6"])


def check_binary(
    binary: str, gain: Gain | None, activations: str | Sequence[str] | None, gradient: str | None
) -> Gain | None:
    """Return how gains are shared, None for real weights; ConfigError for choices that do not go together."""
    if binary not in get_args(BinaryParts):
        raise ConfigError(f"binary {binary!r} is not known; choose one of {', '.join(get_args(BinaryParts))}")
    if gain is not None:
        check_gain(gain)
    if binary == "none" and gain is not None:
        raise ConfigError(f"gain {gain!r} was given, but weights are not binary; add binary 'weights', or leave it out")
    if binary != "weights+activations":
        for option, value in (("activations", activations), ("activation_gradient", gradient)):
            if value is not None:
                raise ConfigError(
                    f"{option} {value!r} was given, but activations are not binary; add binary 'weights+activations', "
                    "or leave it out"
                )
    if gradient is not None:
        check_gradient(gradient)
    return None if binary == "none" else gain or "layer"


def binary_activations(model: nn.Module) -> dict[str, BinaryActivation]:
    """Return the activations of ``model`` that are ±1, by module name."""
    return {name: module for name, module in _modules(model).items() if isinstance(module, BinaryActivation)}


def choose_activations(model: nn.Module, patterns: str | Sequence[str] | None) -> list[str]:
    """Return the names of the modules that are to become ±1.

    None chooses every activation module of torch, and those that are ±1 already; otherwise a pattern or
    several (shell style, against the module's name) choose among them. A name written out may also be
    that of an activation class of the user's own. Raises ConfigError for a pattern that matches nothing and
    for no pattern, ModelError for a network whose activations are calls of functions, which nothing can replace.
    """
    modules = _modules(model)
    known = [name for name, module in modules.items() if isinstance(module, (*_ACTIVATIONS, BinaryActivation))]
    called = _functional_calls(model)
    advice = (
        f"{'; '.join(called[:3])}: activations that are calls of functions cannot become ±1; make them modules "
        "(self.relu = nn.ReLU(), called in forward)"
    )
    if patterns is None:
        if called:
            raise ModelError(f"{advice}, or name the activation modules that are to become ±1")
        if not known:
            raise ModelError(
                "binary activations were asked for, but this model has no activation module such as nn.ReLU; add some, "
                "or name modules of your own class"
            )
        return known
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    if not patterns:
        raise ConfigError("activations [] names no module; give patterns, or leave it out for all activation modules")
    own = [name for name, module in modules.items() if name in patterns and _is_of_the_user(module)]
    for pattern in patterns:
        if pattern not in own and not any(fnmatchcase(name, pattern) for name in known):
            if called and not known:
                raise ModelError(advice)
            listing = ", ".join(known[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")
            raise ConfigError(f"no activation matched {pattern!r}; this model has {listing or 'no activation module'}")
    return [name for name in modules if name in own or (name in known and _matches(name, patterns))]


def put_binary_activations(model: nn.Module, gradients: Mapping[str, str]) -> None:
    """Replace the named modules of ``model`` by activations of ±1, in place: {module name: gradient}."""
    for name, gradient in gradients.items():
        prefix, _, attribute = name.rpartition(".")
        activation = BinaryActivation(gradient)
        activation.train(model.training)
        setattr(model.get_submodule(prefix), attribute, activation)
    _keep_from_fused_kernels(model)


def _keep_from_fused_kernels(model: nn.Module) -> None:
    # torch evaluates a transformer layer in one kernel, which computes the activation noted when it was built.
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and isinstance(module.activation, BinaryActivation):
            module.activation_relu_or_gelu = 0
        if isinstance(module, nn.TransformerEncoder) and any(
            isinstance(part, BinaryActivation) for part in module.modules()
        ):
            module.use_nested_tensor = False


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    # One module may stand under two names (torchvision calls one ReLU twice); each name is one to replace.
    return {name: module for name, module in model.named_modules(remove_duplicate=False) if name}


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def can_be_activation(module: nn.Module) -> bool:
    """Say whether ±1 may take the place of this module: a known activation, or one without parameters and parts."""
    return isinstance(module, _ACTIVATIONS) or _is_bare(module)


def _is_of_the_user(module: nn.Module) -> bool:
    """Say whether the module can be an activation that is not torch's: no parts and no parameters."""
    return _is_bare(module) and not _is_of_torch(type(module))


def _is_bare(module: nn.Module) -> bool:
    return next(module.children(), None) is None and next(module.parameters(), None) is None


def _is_of_torch(kind: type) -> bool:
    return kind.__module__.startswith("torch.nn.")


def _functional_calls(model: nn.Module) -> list[str]:
    """Return sentences such as "Block calls relu", one for each class whose forward pass calls an activation."""
    found = {}
    for module in model.modules():
        if isinstance(module, (*_ACTIVATIONS, BinaryActivation)):
            continue  # replaced whole, whatever it calls
        kind = type(module)
        held = [value.__name__ for value in vars(module).values() if isroutine(value)]
        called = [name for name in _names_called(kind) if not hasattr(module, name)]
        for name in [name for name in (*called, *held) if _is_activation(name)][:1]:
            found[kind.__name__] = f"{kind.__name__} calls {name}"
    return list(found.values())


def _is_activation(name: str) -> bool:
    return name.replace("_", "") in _FUNCTIONS


def _names_called(kind: type[nn.Module]) -> list[str]:
    """Return the names that the forward method of a class looks up, and the methods that it calls; torch's left out."""
    methods = [vars(cls) for cls in kind.__mro__ if not _is_of_torch(cls)]
    names, position = ["forward"], 0
    while position < len(names):
        for found in methods:
            if names[position] in found:
                method = found[names[position]]
                looked_up = _names_in(getattr(unwrap(getattr(method, "__func__", method)), "__code__", None))
                names += [name for name in looked_up if name not in names]
                if "super" not in looked_up:
                    break
        position += 1
    return names


def _names_in(code: object) -> list[str]:
    """Return the names that a function's code looks up, those of the functions inside it too."""
    if not isinstance(code, CodeType):
        return []
    return [*code.co_names, *(name for inner in code.co_consts for name in _names_in(inner))]
