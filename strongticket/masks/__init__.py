"""Which edges live: scores become masks, and masks become part of a network."""

from .activations import BinaryParts, binary_activations, can_be_activation, choose_activations
from .attachment import (
    Attachment,
    attach,
    attachment_of,
    concluded,
    concluded_masks,
    drawn_digest,
    edges,
    fix,
    freeze,
    frozen_weights,
    is_attached,
    open_slots,
    put_fixed,
    redraw,
    refresh,
    weights_digest,
)
from .bake import bake
from .levels import MOST_LEVELS, Levels, draws_in, mask_dtype
from .rules import RULE_OPTIONS, RULES, Edges, Moment, Rule, as_rule
from .schedule import DensitySchedule, scheduled_density
from .selection import Density, Scope, Selection, edge_count, select
from .slots import NormPolicy, Slot, Where, find_slots, resettable
from .straight_through import MagnitudeMask, ProbabilityMask
from .supermask import FixedMask, Supermask

__all__ = [
    "MOST_LEVELS",
    "RULES",
    "RULE_OPTIONS",
    "Attachment",
    "BinaryParts",
    "Density",
    "DensitySchedule",
    "Edges",
    "FixedMask",
    "Levels",
    "MagnitudeMask",
    "Moment",
    "NormPolicy",
    "ProbabilityMask",
    "Rule",
    "Scope",
    "Selection",
    "Slot",
    "Supermask",
    "Where",
    "as_rule",
    "attach",
    "attachment_of",
    "bake",
    "binary_activations",
    "can_be_activation",
    "choose_activations",
    "concluded",
    "concluded_masks",
    "drawn_digest",
    "draws_in",
    "edge_count",
    "edges",
    "find_slots",
    "fix",
    "freeze",
    "frozen_weights",
    "is_attached",
    "mask_dtype",
    "open_slots",
    "put_fixed",
    "redraw",
    "refresh",
    "resettable",
    "scheduled_density",
    "select",
    "weights_digest",
]
