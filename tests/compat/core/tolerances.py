"""By how much a number may differ, and why. Everything that is not here is the same to the last bit."""

from __future__ import annotations

_ORDER = "the same sums of 32-bit floats in another order"
_TOLERANCES: dict[str, tuple[float, str]] = {}


def of(node: str) -> float:
    return _TOLERANCES.get(node, (0.0, ""))[0]


def reason(node: str) -> str:
    return _TOLERANCES.get(node, (0.0, ""))[1]
