"""``comfy_api.internal.api_registry``: which versions of the API are on offer."""

from __future__ import annotations

from typing import Any, NamedTuple

from . import ComfyAPIBase, get_all_versions, register_versions

__all__ = ["ComfyAPIBase", "ComfyAPIWithVersion", "get_all_versions", "parse_version", "register_versions"]


class ComfyAPIWithVersion(NamedTuple):
    """A version and the class that stands for it."""

    version: str
    api_class: Any


def parse_version(version_str: str) -> tuple[int, ...]:
    """A version in a form that compares; ``latest`` is newer than all.

    Raises:
        ValueError: it is neither ``latest`` nor numbers between dots.
    """
    if version_str == "latest":
        return (2**31,)
    return tuple(int(part) for part in version_str.split("."))
