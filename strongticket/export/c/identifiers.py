"""Names of layers as names of C."""

from __future__ import annotations

import re

from .runtime_text import identifiers

_LONGEST = 40  # C99 tells names apart by their first 63 characters, and more is put behind these


class Names:
    """Gives every layer a name of its own."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, name: str) -> str:
        """Return a name in C that begins like ``name``: _ for what C does not allow, a number behind it if it is taken.

        No word of the C source is that name, or begins with it and _.

        >>> names = Names()
        >>> names.take("layer1.0.conv1"), names.take("layer1_0.conv1"), names.take("0"), names.take("real")
        ('layer1_0_conv1', 'layer1_0_conv1_2', 'layer_0', 'real_2')
        """
        plain = re.sub(r"\W", "_", name, flags=re.ASCII)[:_LONGEST]
        if not plain[:1].isalpha():
            plain = f"layer_{plain}"
        found, number = plain, 1
        while found in self._taken or any(word == found or word.startswith(f"{found}_") for word in identifiers()):
            number += 1
            found = f"{plain}_{number}"
        self._taken.add(found)
        return found
