"""How small a network could be: dense, with one bit a weight, and with no more bits than its masks carry."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from ..ticket import Ticket, bound_bits


@dataclass(frozen=True)
class Sizes:
    """Sizes in bytes that an export stands beside.

    ``dense`` is what all parameters and buffers of the dense network take in float32. The others are of the masked
    weights alone: ``one_bit`` is a bit for each, ``entropy_bound`` the sum of n·H(d) over tensors, which no code of
    the masks undercuts that knows their densities alone.
    """

    dense: int
    one_bit: int
    entropy_bound: int


def sizes_of(ticket: Ticket, network: nn.Module) -> Sizes:
    """Return the sizes of the network of a ticket."""
    # Shared tensors once. The counters of batch norm are whole numbers, and nothing that inference reads.
    tensors = {id(value): value for value in network.state_dict(keep_vars=True).values() if isinstance(value, Tensor)}
    values = sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point())
    bits = sum(bound_bits(mask) for mask in ticket.masks.values())
    return Sizes(4 * values, math.ceil(ticket.total / 8), math.ceil(bits / 8))
