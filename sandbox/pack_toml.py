"""A pack's TOML, read so that it cannot hold up the host: the time of the parser grows with the square of a key."""

from __future__ import annotations

import tomllib
from typing import Any, Final

MAX_DOTS: Final = 500
"""In one line, where a key with all of its parts stands: reading it takes some milliseconds."""


def parse_toml(text: str) -> dict[str, Any]:
    """The document.

    Raises:
        ValueError: it is none, or one that nobody writes.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > MAX_DOTS:
            raise ValueError(f"line {number} has more than {MAX_DOTS} dots")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
