"""The base of every model of what a worker says: no unknown key, no conversion, no change afterwards."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class Strict(BaseModel):
    """Says exactly what it declares."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
