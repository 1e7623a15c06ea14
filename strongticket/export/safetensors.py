"""The target ``safetensors``: the network's weights under their ordinary names, dropped edges at +0.

The file loads into the plain network with ``load_state_dict``, without this library. Binary activations are no
tensors: the metadata name the modules that must give ±1.
"""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path

import safetensors.torch
from torch import Tensor

from ..errors import ExportError
from ..weights import digest
from .source import Source
from .verify import Comparison, check_batches, compare, require_equal, run_torch


def write(source: Source, path: Path) -> Comparison:
    """Write the state_dict of the baked network, whole, to ``path`` and check it bit for bit by reading it back.

    Tensors that share memory are written once for each name. The metadata carry ``format``, the
    ticket's ``weights_digest`` and, if there are any, ``binary_activations`` (a JSON list of module names, each
    sign(x) with sign(0) = +1); equal tickets give equal bytes. With an ``example``, a network loaded from
    the file is run beside it too. Raises ExportError if an entry is no tensor or the check fails.
    """
    plain, ticket, example = source.reference, source.ticket, source.example
    tensors = {}
    for name, value in plain.state_dict().items():
        if not isinstance(value, Tensor):
            raise ExportError(
                f"{name} in the state_dict is of type {type(value).__name__}; safetensors holds tensors only"
            )
        tensors[name] = value.detach().cpu().contiguous().clone()
    metadata = {"format": "pt", "weights_digest": ticket.weights_digest}
    if ticket.binary.activations:
        metadata["binary_activations"] = json.dumps(list(ticket.binary.activations))
    path.write_bytes(_ordered(safetensors.torch.save(tensors, metadata)))

    read = safetensors.torch.load(path.read_bytes())
    if digest(read) != digest(tensors):
        raise ExportError("the safetensors file does not read back as it was written; nothing was written")
    if example is None:
        return Comparison()
    loaded = copy.deepcopy(plain)
    loaded.load_state_dict(read, strict=True)
    comparison = compare(partial(run_torch, plain), partial(run_torch, loaded), check_batches(example, any_size=False))
    require_equal(comparison)
    return comparison


def _ordered(data: bytes) -> bytes:
    """Return a safetensors file with its metadata in sorted order; the library writes them in a random one."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin on a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text + data[8 + size :]
