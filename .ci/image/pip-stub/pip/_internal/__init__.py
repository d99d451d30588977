"""Where some packs call pip from inside."""

from pip import main

__all__ = ["main"]
