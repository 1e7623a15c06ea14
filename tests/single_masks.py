"""One mask coded by itself, with its data: what tests of a codec speak of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from strongticket.ticket.coding import STREAM_OF, CodedMask, CodedMasks, check_masks, decode_masks, encode_masks


@dataclass(frozen=True)
class EncodedMask:
    codec: str
    count: int
    sha256: str
    data: bytes

    @property
    def alone(self) -> CodedMasks:
        coded = CodedMask(self.codec, self.count)
        return CodedMasks({"m": coded}, self.sha256, {STREAM_OF.get(self.codec, "bits"): self.data})


def encode_mask(mask: Tensor, *, coder: str = "zstd") -> EncodedMask:
    found = encode_masks({"m": mask}, coder=coder)
    (data,) = found.streams.values()
    return EncodedMask(found.masks["m"].codec, found.masks["m"].count, found.sha256, data)


def decode_mask(encoded: EncodedMask, shape: Sequence[int]) -> Tensor:
    return decode_masks(encoded.alone, {"m": shape})["m"]


def check_mask(encoded: EncodedMask, total: int) -> None:
    check_masks(encoded.alone, {"m": (total,)})
