"""Putting a ticket beside its controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor, nn

from ..errors import ConfigError
from ..search import Event, Placement, SearchConfig, place, seeded, train_dense
from ..search.loop import Batches
from ..ticket import Ticket, apply, mask_bits, to_bytes
from .accuracy import TTA, Measurement, check_tta, measure, paired_bootstrap
from .controls import DETERMINISTIC, check_controls, control_ticket
from .layers import layers_of, outputs_of
from .report import ControlResult, Report
from .statistics import has_running_statistics, reestimate


def evaluate(
    ticket: Ticket,
    build_model: Callable[[], nn.Module],
    batches: Batches,
    *,
    controls: Sequence[str] = ("random", "shuffled", "redrawn"),
    seeds: Sequence[int] = (0, 1, 2),
    train: Batches | None = None,
    config: SearchConfig | None = None,
    build_dense: Callable[[], nn.Module] | None = None,
    dataset: str | None = None,
    coder: str = "zstd",
    tta: TTA = "none",
    on_control: Callable[[str, int], None] | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Report:
    """Measure a ticket and its controls on the same labelled ``batches`` and return a ``Report``.

    ``build_model`` returns a fresh plain network each time; ``batches`` can be read again and again in
    the same order. ``controls`` are names of ``CONTROLS``, each run once for every seed (once in all
    where nothing is random). The ticket keeps the batch-norm statistics it was found with; those of a
    control are estimated anew, on ``train`` or, without it, on the inputs of ``batches`` (no labels are
    read), and the report says which. "trained" trains the dense network on ``train`` with the budget of
    ``config``; ``build_dense`` returns it fresh where it is not the plain network itself, as for a network
    built with binary activations. ``coder`` is the one that the ticket is saved with, on which its size depends.
    ``tta`` is how all of them are measured; what each of them sees of an example is said by ``measure``.
    ``on_control`` hears (control, seed) before each run, ``on_event`` the steps and epochs of "trained". Arithmetic is
    fp32.

    Raises ConfigError for an unknown control or ``tta``, no seeds, or "trained" without ``train`` and ``config``.
    """
    check_controls(tuple(controls))
    check_tta(tta)
    if not seeds and controls:
        raise ConfigError("no seed was given; expected at least one, such as seeds=(0, 1, 2)")
    if "trained" in controls and (train is None or config is None):
        raise ConfigError("control 'trained' needs train= batches and config= (the budget of the search)")
    exact = (config or SearchConfig()).model_copy(update={"precision": "fp32"})

    def run(control: str, seed: int) -> tuple[Measurement, float]:
        if on_control is not None:
            on_control(control, seed)
        if control == "trained" and train is not None and config is not None:
            with seeded(seed):
                model = train_dense((build_dense or build_model)(), train, config, on_event=on_event)
            return measure(model, batches, placement=place(model, exact), tta=tta), 1.0
        model = build_model()
        variant = control_ticket(control, ticket, model, seed)
        apply(variant, model)
        placement = place(model, exact)
        reestimate(model, batches if train is None else train, placement=placement)
        return measure(model, batches, placement=placement, tta=tta), variant.density

    model = apply(ticket, build_model())
    placement = place(model, exact)
    measurement = measure(model, batches, placement=placement, tta=tta)
    few = _first_inputs(batches, placement)
    results: dict[str, ControlResult] = {}
    for control in controls:
        runs = [run(control, seed) for seed in (seeds[:1] if control in DETERMINISTIC else seeds)]
        results[control] = ControlResult(control, tuple(m for m, _ in runs), runs[0][1])
    against = None
    if "trained" in results:
        share = np.mean([m.correct for m in results["trained"].measurements], axis=0)
        against = paired_bootstrap(measurement.correct, share)
    return Report(
        measurement=measurement,
        density=ticket.density,
        bits_per_weight=mask_bits(ticket, coder=coder) / ticket.total,
        file_bytes=len(to_bytes(ticket, coder=coder)),
        weights_digest=ticket.weights_digest,
        trained=ticket.trained,
        levels=ticket.levels,
        controls=results,
        seeds=tuple(seeds),
        batch_norm=_batch_norm_note(model, train is not None),
        layers=tuple(layers_of(model, few)),
        outputs=outputs_of(model, few),
        dataset=dataset,
        tta=tta,
        against_trained=against,
    )


def _first_inputs(batches: Batches, placement: Placement) -> Tensor:
    inputs, _ = next(iter(batches))
    return placement.inputs(inputs[:2])


def _batch_norm_note(model: nn.Module, on_training_data: bool) -> str:
    if not has_running_statistics(model):
        return "the network keeps no batch-norm statistics"
    source = "training inputs" if on_training_data else "the evaluation inputs, without their labels"
    return (
        f"statistics re-estimated on {source} for every control; those of the ticket and of the trained network are "
        "the ones they were found with"
    )
