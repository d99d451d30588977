"""The command ``ringfence``, one module per group of commands. Importing it imports neither server nor engine."""

from __future__ import annotations

from api.cli.main import main

__all__ = ["main"]
