"""Where the maskable tensors of a network are, found without changing it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from ..errors import ConfigError, ModelError
from ..weights import Fans, WeightLaw, draw, fans_of

NormPolicy = Literal["frozen", "learned"]
Where = str | Sequence[str] | Callable[[str, nn.Module], bool] | None

_WEIGHT_MODULES = (nn.Linear, nn.Bilinear, _ConvNd, nn.Embedding, nn.EmbeddingBag)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Slot:
    """One parameter that can be masked: ``getattr(module, attribute)``, called ``name`` in the state_dict."""

    name: str
    module: nn.Module
    attribute: str

    @property
    def parameter(self) -> Tensor:
        """The parameter itself; after masking, the frozen weight behind the mask."""
        if parametrize.is_parametrized(self.module, self.attribute):
            original: Tensor = parametrizations_of(self.module)[self.attribute].original
            return original
        parameter: Tensor = getattr(self.module, self.attribute)
        return parameter

    @property
    def by_default(self) -> bool:
        """Whether the tensor is masked when the user names nothing; a bare parameter is not."""
        return is_weight(self.module, self.attribute)

    @property
    def fans(self) -> Fans:
        """How many edges meet in one output and leave one input of this tensor."""
        return fans_of(self.module, self.attribute, tuple(self.parameter.shape))

    def drawn(self, law: WeightLaw, seed: int, scale: float, draws: Tensor | None = None) -> Tensor:
        """Return this tensor's random weights in its own dtype, on the CPU, contiguous.

        ``draws`` (uint8, its shape) says how often each weight was drawn anew: number k > 0 is of the stream
        ``NAME:draw:k``, 0 of the stream ``NAME``. The padding row of an embedding is zero, as the module promises.
        """
        shape = tuple(self.parameter.shape)
        weight = draw(law, seed, self.name, shape, scale=scale)
        if draws is not None:
            draws = draws.cpu()
            for number in torch.bincount(draws.flatten()).nonzero().flatten().tolist():
                if number:
                    again = draw(law, seed, f"{self.name}:draw:{number}", shape, scale=scale)
                    weight = torch.where(draws == number, again, weight)
        if isinstance(self.module, nn.Embedding | nn.EmbeddingBag) and self.module.padding_idx is not None:
            weight[self.module.padding_idx] = 0
        return weight.to(self.parameter.dtype)


def parametrizations_of(module: nn.Module) -> Any:
    """Return what torch keeps for a parametrized module: {attribute: list of parametrizations}."""
    return module.parametrizations


def is_weight(module: nn.Module, attribute: str) -> bool:
    """Say whether this parameter of this module is a weight matrix or kernel that is masked by default."""
    if isinstance(module, _WEIGHT_MODULES):
        return attribute == "weight"
    if isinstance(module, _RECURRENT):
        return attribute.startswith("weight_")
    return isinstance(module, nn.MultiheadAttention) and attribute in _ATTENTION


def is_bias(module: nn.Module, attribute: str) -> bool:
    """Say whether this parameter is a bias of a layer with weights; such a bias is zero and frozen."""
    return isinstance(module, (*_WEIGHT_MODULES, *_RECURRENT, nn.MultiheadAttention)) and attribute.startswith(
        ("bias", "in_proj_bias")
    )


def is_norm(module: nn.Module, attribute: str) -> bool:
    """Say whether this parameter is the affine scale or shift of a normalisation layer."""
    return isinstance(module, _NORMS) and attribute in ("weight", "bias")


def is_batch_norm(module: nn.Module) -> bool:
    """Say whether the module is a batch norm, whose affine parameters may be learned."""
    return isinstance(module, _BatchNorm)


def resettable(model: nn.Module, bn: NormPolicy) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the parameters every ticket resets, and of those among them that learn under ``bn``."""
    reset, trained = [], []
    for prefix, module in model.named_modules():
        for attribute, _ in module.named_parameters(recurse=False):
            name = f"{prefix}.{attribute}" if prefix else attribute
            if is_bias(module, attribute) or is_norm(module, attribute):
                reset.append(name)
                if bn == "learned" and is_batch_norm(module):
                    trained.append(name)
    return tuple(reset), tuple(trained)


def find_slots(model: nn.Module) -> dict[str, Slot]:
    """Return every parameter of ``model`` that can be masked, by its state_dict name and in its order.

    These are the weights of known layers and any other floating parameter of at least two dimensions
    that belongs to no normalisation layer. Raises ModelError for a parameter that has no shape yet.
    """
    slots = {}
    for prefix, module in model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{attribute}" if prefix else attribute
            if is_lazy(parameter):
                raise ModelError(f"{name} has no shape yet (a lazy module); run one batch through the model first")
            if parameter.is_meta:
                raise ModelError(
                    f"{name} is on the meta device and holds no values; move the model with to_empty() first"
                )
            if not parameter.is_floating_point() or is_bias(module, attribute) or is_norm(module, attribute):
                continue
            if is_weight(module, attribute) or parameter.dim() >= 2:
                slots[name] = Slot(name, module, attribute)
    return slots


def choose_slots(slots: dict[str, Slot], where: Where) -> list[str]:
    """Return the names of the slots that ``where`` chooses.

    None chooses the weights of known layers. A pattern or several (shell style, against the tensor's
    name) and a callable ``(tensor name, module) → bool`` choose among all slots, bare parameters
    included. Raises ConfigError for a pattern that matches nothing and ModelError if nothing is chosen.
    """
    if not slots:
        raise ModelError("this model has no weight to mask: no layer with weights, no matrix parameter")
    listing = _listing(slots)
    if where is None:
        chosen = [name for name, slot in slots.items() if slot.by_default]
    elif callable(where):
        chosen = [name for name, slot in slots.items() if where(name, slot.module)]
    else:
        patterns = [where] if isinstance(where, str) else list(where)
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in slots):
                raise ConfigError(f"no tensor matched {pattern!r}; this model has {listing}")
        chosen = [name for name in slots if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not chosen:
        raise ModelError(f"no tensor of this model was chosen for masking; it has {listing}")
    return chosen


def refuse_tied(model: nn.Module, chosen: Sequence[str]) -> None:
    """Raise ModelError if a chosen tensor is reachable under a second name.

    Masking one of two names would leave the other dense.
    """
    owners: dict[tuple[torch.device, int], list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.numel():
            owners[parameter.device, parameter.data_ptr()].append(name)
    for names in owners.values():
        if len(names) > 1 and not set(names).isdisjoint(chosen):
            raise ModelError(f"{' and '.join(names)} are one tied tensor, which cannot be masked; untie them first")


def refuse_parametrized(model: nn.Module) -> None:
    """Raise ModelError if some tensor is parametrized already (weight norm, spectral norm, pruning)."""
    for prefix, module in model.named_modules():
        if parametrize.is_parametrized(module):
            taken = ", ".join(parametrizations_of(module))
            raise ModelError(f"{prefix or type(module).__name__}: {taken} is parametrized already; remove that first")
        # Weight norm and pruning of the older kind leave a plain tensor where the parameter was.
        if isinstance(module, _WEIGHT_MODULES) and "weight" not in module._parameters:
            raise ModelError(f"{prefix or type(module).__name__}: weight is recomputed by a hook; remove that first")


def _listing(slots: dict[str, Slot], most: int = 12) -> str:
    names = list(slots)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
