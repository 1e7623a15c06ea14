"""What a search ends with, and the file it is kept in."""

from .binding import apply, extract, store
from .coding import CODECS, CODERS, EncodedMask, check_coder, decode_mask, encode_mask, entropy_bits
from .storage import coder_of, encoded_masks, from_bytes, load, mask_bits, save, to_bytes
from .ticket import DrawnTensor, Ticket

__all__ = [
    "CODECS",
    "CODERS",
    "DrawnTensor",
    "EncodedMask",
    "Ticket",
    "apply",
    "check_coder",
    "coder_of",
    "decode_mask",
    "encode_mask",
    "encoded_masks",
    "entropy_bits",
    "extract",
    "from_bytes",
    "load",
    "mask_bits",
    "save",
    "store",
    "to_bytes",
]
