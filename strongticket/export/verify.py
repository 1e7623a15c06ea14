"""Whether an exported file computes what the network computes.

Two runtimes add in different orders, so their outputs differ by rounding. A file passes if no output
differs by more than ``RELATIVE_TOLERANCE`` times the largest output of the same batch. In a network with
binary activations rounding can carry a value across the threshold of a sign, and the outputs of that input then
differ by more: a share ``FLIPPED_SHARE`` of the inputs may.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import ExportError
from .text import core_reason, shape_text

RELATIVE_TOLERANCE = 1e-4
"""Largest accepted difference, as a share of the largest output magnitude of the batch."""

FLIPPED_SHARE = 0.25
"""Largest accepted share of inputs beyond the tolerance if a network has binary activations."""

RANDOM_INPUTS = 16
"""How many random inputs are checked in one batch."""

Run = Callable[[Tensor], Sequence[Tensor]]
"""A network in some runtime: a batch of inputs → its outputs."""


@dataclass(frozen=True)
class Comparison:
    """How far two runs of a network lie apart.

    ``inputs`` counts the single inputs that went through both. ``max_difference`` is the largest
    absolute difference of two outputs, ``max_relative`` the largest such difference over the largest
    output of its batch. ``equal_decisions`` in [0, 1] is the share of equal decisions (arg max over
    dimension 1, as in classification; the sign where there is one output an input). ``beyond`` counts the
    inputs with an output that differs by more than ``RELATIVE_TOLERANCE`` of that.
    """

    inputs: int = 0
    max_difference: float = 0.0
    max_relative: float = 0.0
    equal_decisions: float = 1.0
    beyond: int = 0


def compare(reference: Run, other: Run, batches: Iterable[Tensor]) -> Comparison:
    """Send the same batches through two runs of a network and return how far their outputs lie apart.

    Equal infinities do not differ; NaN differs from everything. Raises ExportError if the outputs are
    not alike in number and shape.
    """
    inputs, decisions, equal, beyond = 0, 0, 0, 0
    differences, relatives = [torch.zeros((), dtype=torch.float64)], [torch.zeros((), dtype=torch.float64)]
    for batch in batches:
        expected, found = reference(batch), other(batch)
        shapes, other_shapes = ([shape_text(t.shape) for t in outputs] for outputs in (expected, found))
        if shapes != other_shapes:
            raise ExportError(
                f"the exported network gives outputs of shape {', '.join(other_shapes)} for a batch of {len(batch)}; "
                f"expected {', '.join(shapes)}, as the network gives; nothing was written"
            )
        apart = torch.zeros(len(batch), dtype=torch.bool)
        for a, b in zip(expected, found, strict=True):
            if a.numel() == 0:
                continue
            single, scale = _difference(a.double(), b.double())
            difference = single.max()
            # An output without a batch dimension stands for all inputs.
            rows = single.reshape(len(batch), -1).amax(1) if single.shape[:1] == batch.shape[:1] else difference
            apart |= ~(rows <= RELATIVE_TOLERANCE * scale)
            differences.append(difference)
            relatives.append(difference / scale if difference != 0 else difference)
            same = _decisions(a) == _decisions(b)
            decisions, equal = decisions + same.numel(), equal + int(same.sum())
        inputs += len(batch)
        beyond += int(apart.sum())
    return Comparison(
        inputs,
        # torch's maximum hands NaN on, Python's may lose it.
        max_difference=float(torch.stack(differences).max()),
        max_relative=float(torch.stack(relatives).max()),
        equal_decisions=equal / decisions if decisions else 1.0,
        beyond=beyond,
    )


def require_equal(
    comparison: Comparison, *, tolerance: float = RELATIVE_TOLERANCE, binary_activations: bool = False
) -> None:
    """Raise ExportError with the figures unless the largest relative difference is at most ``tolerance``.

    With ``binary_activations``, a share ``FLIPPED_SHARE`` of the inputs may differ by more.
    """
    flipped = binary_activations and comparison.beyond <= FLIPPED_SHARE * comparison.inputs
    if not (comparison.max_relative <= tolerance or flipped):
        raise ExportError(
            f"the exported network does not compute what the network computes: largest difference "
            f"{comparison.max_difference:.3g}, that is {comparison.max_relative:.3g} of the largest output "
            f"(allowed {tolerance:g}), "
            f"{comparison.equal_decisions:.2%} equal decisions over {comparison.inputs} inputs; nothing was written"
        )


def check_batches(example: Tensor, *, any_size: bool = True, seed: int = 0) -> list[Tensor]:
    """Return what a file is checked on: random inputs and the example, each as a batch and as a batch of one.

    Without ``any_size`` there are two batches, both of the example's size. Random floating inputs are
    standard normal. Others (token ids, flags) are drawn from the values of the example, since no other
    value is known to be valid.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (RANDOM_INPUTS if any_size else len(example), *example.shape[1:])
    if example.is_floating_point():
        random = torch.randn(shape, generator=generator).to(example.dtype)
    else:
        random = example.flatten()[torch.randint(example.numel(), shape, generator=generator)]
    batches = [random, random[:1], example, example[:1]] if any_size else [random, example]
    return batches if len(example) > 1 or not any_size else batches[:-1]


def run_torch(model: nn.Module, batch: Tensor) -> list[Tensor]:
    """Return the tensors that ``model`` gives for a batch, in a fixed order, whatever they come in.

    Raises ExportError if the network does not take the batch.
    """
    try:
        with torch.no_grad():
            return [leaf for leaf in pytree.tree_leaves(model(batch)) if isinstance(leaf, Tensor)]
    except Exception as error:  # whatever a stranger's network raises
        raise ExportError(
            f"the network does not take inputs of shape {shape_text(batch.shape)} ({core_reason(error)}); "
            "pass an example batch of inputs as the search had them"
        ) from error


def reference_run(network: nn.Module, *, binary_activations: bool) -> Run:
    """Return a run of a network for a file to be compared with that counts where the network adds.

    With binary activations it is in float64, in which sums of ± one gain are exact. In float32 they are not, and a sum
    that is 0 gets the sign of a rounding error. All else is in float32.
    """
    dtype = torch.float64 if binary_activations else torch.float32
    network = copy.deepcopy(network).to(dtype)
    return lambda batch: run_torch(network, batch.to(dtype))


def read_example(example: object, model: nn.Module) -> Tensor:
    """Return the inputs of an example on the CPU, after running them through ``model`` once.

    ``example`` is a tensor of inputs (batch, …) or an (inputs, targets) batch. Floating inputs are
    converted to the network's dtype. Raises ExportError if the network does not take them.
    """
    inputs = example[0] if isinstance(example, tuple | list) and example else example
    if not isinstance(inputs, Tensor):
        raise ExportError(f"example is of type {type(inputs).__name__}; expected a tensor of inputs, (batch, ...)")
    if inputs.dim() == 0 or inputs.numel() == 0:
        raise ExportError(f"example has shape {shape_text(inputs.shape)}; expected at least one input, (batch, ...)")
    inputs = inputs.detach().cpu()
    if inputs.is_floating_point():
        dtypes = [p.dtype for p in model.parameters() if p.is_floating_point()]
        inputs = inputs.to(dtypes[0] if dtypes else inputs.dtype)
    if not run_torch(model, inputs):
        raise ExportError("the network gives no tensor for this example; expected a tensor or a structure of tensors")
    return inputs


def _difference(expected: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far two outputs lie apart, value by value, and the largest finite magnitude of the first."""
    difference = torch.where(expected == found, 0.0, (expected - found).abs())
    return difference, torch.where(expected.isfinite(), expected.abs(), 0.0).max()


def _decisions(output: Tensor) -> Tensor:
    if output.dim() < 2 or output.shape[1] == 1:
        return output > 0
    return output.argmax(1)
