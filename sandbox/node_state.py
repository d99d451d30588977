"""What node instances keep on the host: the seam to whoever stores it.

A worker never says whose state it means: it names one of its running calls, and the host knows tenant, extension,
node and class of that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from policies import ExtensionName, TenantId
from runtime import wire

MAX_STATE: Final = wire.MAX_STATE
MAX_STATE_NAMES: Final = wire.MAX_STATE_NAMES
JSON = Any


@dataclass(frozen=True, slots=True)
class StateHolder:
    """One node instance."""

    tenant: TenantId
    extension: ExtensionName
    node_id: str
    class_type: str


class NodeStates(Protocol):
    """Keeps named plain data per node instance; ``engine.NodeStateStore`` fulfils it."""

    async def read(self, holder: StateHolder) -> Mapping[str, JSON]:
        """Everything the node keeps."""

    async def write(self, holder: StateHolder, values: Mapping[str, JSON]) -> None:
        """Keep values, beside those of other names.

        Raises:
            QuotaError: the node, or its tenant, would keep too much.
        """

    async def delete(self, holder: StateHolder, names: Sequence[str]) -> None:
        """Forget names; unknown ones too."""
