"""The target ``c``: the network as one C99 source file and its header, compiled and compared with torch."""

from .writing import ACTIVATIONS, Memory, read_memory, table_bytes, write

__all__ = ["ACTIVATIONS", "Memory", "read_memory", "table_bytes", "write"]
