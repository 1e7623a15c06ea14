"""The command line; it installs as ``strongticket.cli``. It parses and draws, it decides nothing."""

from .main import main

__all__ = ["main"]
