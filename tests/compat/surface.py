"""The table of names that packs use (``surface.toml``), and how a pack gets at each of them."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_suffix(".toml")


def table() -> dict[str, dict[str, int]]:
    """``provided`` and ``by_name``: the full name -> how many packs use it."""
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


def resolve(name: str) -> Any:
    """What ``name`` is for a pack: attributes first, a submodule where there is no such attribute.

    Raises:
        ImportError, AttributeError: there is no such name.
    """
    first, *rest = name.split(".")
    found: Any = importlib.import_module(first)
    place = first
    for part in rest:
        place = f"{place}.{part}"
        try:
            found = getattr(found, part)
        except AttributeError:
            if not hasattr(found, "__path__"):
                raise
            found = importlib.import_module(place)
    return found
