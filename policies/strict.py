"""What every model of a policy has in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """No unknown key, no silent conversion, no change afterwards."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
    )


def listed(value: Any) -> Any:
    """A list of a file as the tuple that a frozen model holds."""
    return tuple(value) if isinstance(value, list) else value
