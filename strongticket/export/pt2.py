"""The target ``pt2``: the network as a program of ``torch.export``, which runs without its Python code."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from ..errors import ExportError
from .source import Source
from .text import core_reason, quiet
from .trace import trace
from .verify import Comparison, check_batches, compare, require_equal, run_torch


def write(source: Source, path: Path) -> Comparison:
    """Write a network to ``path`` as an exported program and compare it, read back, with torch.

    The program takes batches of any size and consists of torch's own operators: ``torch.export.load(path).module()``
    needs neither this library nor the network's code. Weights keep their dtype; the example is not in the
    file. Raises ExportError if torch cannot trace the network, or if the outputs differ.
    """
    example = source.require_example("pt2")
    try:
        program = trace(source.plain, example)
    except Exception as error:  # torch.export raises whatever its tracer met
        raise ExportError(f"torch cannot export this network as a program: {core_reason(error)}") from error
    try:
        with quiet():
            torch.export.save(program, path)
            loaded = torch.export.load(path).module()
    except OSError:
        raise
    except Exception as error:  # the errors of its serialisation have no common class
        raise ExportError(f"torch cannot write or read back the exported program: {core_reason(error)}") from error
    comparison = compare(partial(run_torch, source.reference), partial(run_torch, loaded), check_batches(example))
    require_equal(comparison, binary_activations=bool(source.ticket.binary.activations))
    return comparison
