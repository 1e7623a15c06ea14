"""The text of a C program: ``ticket.h`` and ``ticket.c``."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass

from ...errors import ExportError
from ..text import shape_text
from .memory import layout
from .plan import Program, Value
from .runtime_text import in_order, section

_HEADER = """\
{comment}
#ifndef TICKET_H
#define TICKET_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

#define TICKET_INPUTS {inputs}
#define TICKET_OUTPUTS {outputs}
#define TICKET_BUFFER_WORDS {words}
#define TICKET_BUFFER_BYTES {buffer_bytes}
#define TICKET_TABLE_BYTES {table_bytes}

/* Write the TICKET_OUTPUTS outputs for one example of TICKET_INPUTS numbers. `buffer` has TICKET_BUFFER_WORDS words;
 * what is in it before and after does not matter. Nothing else is written, so calls with different buffers may run
 * at the same time. */
void ticket_predict(const float *input, float *output, uint32_t *buffer);

#ifdef __cplusplus
}}
#endif

#endif
"""

_SOURCE = """\
{comment}
#include "ticket.h"

#include <string.h>

{macros}{runtime}
{tables}
void ticket_predict(const float *input, float *output, uint32_t *buffer)
{{
{body}
}}
"""


_MOST_WORDS = 2**29  # C counts in 32 bits, in bytes too


@dataclass(frozen=True)
class Sources:
    """The text of a program, and the words that its buffer has."""

    header: str
    source: str
    buffer_words: int


def sources_of(program: Program, *, weights_digest: str) -> Sources:
    """Return the text of a program; it names the digest of the weights that its network was drawn with.

    Raises ExportError for a network that is too large to be indexed.
    """
    places = layout(program.steps)
    words = max(places.words, 1)
    if words > _MOST_WORDS:
        raise ExportError(
            f"a C program of this network needs a buffer of {4 * words} bytes; it can have {4 * _MOST_WORDS}"
        )

    def at(value: Value) -> str:
        return value.place if value.kind == "input" else _pointer(places.values[value.place])

    body = [
        f"    {line}"
        for step, scratch in zip(program.steps, places.scratch, strict=True)
        for line in step.calls(at, _pointer(scratch))
    ]
    sections = in_order(name for step in program.steps for name in step.sections)
    macros = {"INT8": "real_int8" in sections, "HAS_VALUES": "weighted" in sections} if "real" in sections else {}
    declarations: list[str] = []
    for step in program.steps:
        declarations += [table.declaration() for table in step.tables()]
        declarations += [struct.declaration() for struct in step.structs()]
    header = _HEADER.format(
        comment=_comment(program, words, weights_digest),
        inputs=math.prod(program.input_shape),
        outputs=program.outputs,
        words=words,
        buffer_bytes=4 * words,
        table_bytes=program.table_bytes,
    )
    source = _SOURCE.format(
        comment="/* See ticket.h. */",
        macros="".join(f"#define {name} {int(value)}\n" for name, value in macros.items()) + ("\n" if macros else ""),
        runtime="\n".join(section(name) for name in sections),
        tables="\n".join(declarations),
        body="\n".join(body),
    )
    return Sources(header, source, words)


def _pointer(offset: int) -> str:
    return f"buffer + {offset}" if offset else "buffer"


def _comment(program: Program, words: int, weights_digest: str) -> str:
    """Return the comment that a header begins with."""
    floats = 4 * program.weights
    share = f", {program.table_bytes / floats:.4f} of the {floats} of the weights as floats" if floats else ""
    order = "channels, rows, columns" if len(program.input_shape) == 3 else "in order"
    lines = [
        "A strong lottery ticket: a network of random weights and a mask, as C99 that needs no library.",
        f"Weights: {program.edges} kept edges of {program.weights}; SHA-256 of the frozen weights {weights_digest}.",
        f"Input: {shape_text(program.input_shape)} floats ({order}), as the network in torch gets them: what was "
        "done to the data before (scaling to [0, 1], subtracting a mean) is not part of this.",
        f"Output: {shape_text(program.output_shape)} floats.",
        f"Constant tables: {program.table_bytes} bytes{share}. Buffer: {4 * words} bytes.",
    ]
    wrapped = [part for line in lines for part in textwrap.wrap(line, 116)]
    return "/* " + "\n * ".join(wrapped) + " */"
