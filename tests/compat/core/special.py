"""Inputs for the nodes whose declarations do not say enough: file names, lists, dynamic inputs, small sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SPECIAL: dict[str, Callable[[Any], dict[str, Any] | None]] = {}
