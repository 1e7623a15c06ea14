"""What a search ends with, and the file it is kept in."""

from .binding import apply, drawn_weights, extract, store
from .coding import CODECS, CODERS, CodedMask, CodedMasks, check_coder, decode_masks, encode_masks, entropy_bits
from .levels import bound_bits
from .storage import coded_masks, coder_of, from_bytes, load, mask_bits, save, to_bytes
from .ticket import DrawnTensor, Ticket

__all__ = [
    "CODECS",
    "CODERS",
    "CodedMask",
    "CodedMasks",
    "DrawnTensor",
    "Ticket",
    "apply",
    "bound_bits",
    "check_coder",
    "coded_masks",
    "coder_of",
    "decode_masks",
    "drawn_weights",
    "encode_masks",
    "entropy_bits",
    "extract",
    "from_bytes",
    "load",
    "mask_bits",
    "save",
    "store",
    "to_bytes",
]
