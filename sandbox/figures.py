"""Figures as people read them, for error messages and logs."""

from __future__ import annotations

_STEPS = ("B", "KiB", "MiB", "GiB", "TiB")


def human_bytes(count: int) -> str:
    """``536870912`` -> ``512 MiB``; at most one decimal."""
    size, step = float(count), 0
    while abs(size) >= 1024 and step < len(_STEPS) - 1:
        size /= 1024
        step += 1
    text = f"{size:.1f}".removesuffix(".0")
    return f"{text} {_STEPS[step]}"


def human_seconds(seconds: float) -> str:
    """``0.25`` -> ``250 ms``, ``600`` -> ``600 s``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f}".removesuffix(".0") + " s"
