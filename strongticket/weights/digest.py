"""One fingerprint of many tensors."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["digest"]


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256, in hexadecimal, of names, dtypes, shapes and every bit of every value.

    Hashed is, for each tensor in the order of the names' code points: the name in UTF-8, the dtype
    ("float32", …), the shape, and the values in C order, little-endian. Name, dtype, each size and the
    values are preceded by their length or stand as 8 bytes, little-endian, so that no two mappings read
    alike. Memory format, device and the mapping's order play no part; 0.0 and −0.0 differ. Takes dense
    tensors of any dtype.
    """
    hasher = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        _framed(hasher, name.encode())
        _framed(hasher, str(tensor.dtype).removeprefix("torch.").encode())
        _framed(hasher, b"".join(size.to_bytes(8, "little") for size in tensor.shape))
        _framed(hasher, _little_endian_bytes(tensor).numpy().data)
    return hasher.hexdigest()


def _framed(hasher: hashlib._Hash, data: bytes | memoryview) -> None:
    hasher.update(len(data).to_bytes(8, "little"))
    hasher.update(data)


def _little_endian_bytes(tensor: Tensor) -> Tensor:
    """Return the values in C order as a flat uint8 tensor on the CPU."""
    plain = tensor.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    if plain.is_complex():
        plain = torch.view_as_real(plain).reshape(-1)
    raw = plain.view(torch.uint8)
    if sys.byteorder == "big":
        raw = raw.reshape(-1, plain.element_size()).flip(1).reshape(-1)
    return raw
