"""Data that nobody changes, of which there is one for every node, event or message."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

C = TypeVar("C")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[C]) -> type[C]:
    """A dataclass with slots, equality and a hash, which the type checker sees nobody change.

    One that sees to that itself (``frozen=True``) takes several times as long to make.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
