"""The target ``c``: the network as one C99 source file and its header, compiled and compared with torch."""

from .writing import ACTIVATIONS, Sizes, read_sizes, table_bytes, write

__all__ = ["ACTIVATIONS", "Sizes", "read_sizes", "table_bytes", "write"]
