"""Where an extension's files are, as the sandbox room needs to know it.

The engine's extension registry implements ``ExtensionSource``; nothing here reads manifests or builds anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from policies import ExtensionName, TenantId


@dataclass(frozen=True, slots=True)
class ExtensionFiles:
    """One extension on disk, ready to be mounted."""

    name: ExtensionName
    source: Path
    """Host directory, mounted read-only at /ringfence/code/<name>."""
    environment: Path | None
    """Host directory of site-packages, mounted read-only at /ringfence/env; None for the image's own packages."""
    content_hash: str
    """Of everything in ``source``; another hash means another sandbox."""
    core: bool = False
    """Ringfence's own nodes: object_info calls their module ``nodes``, not ``custom_nodes.<name>``."""


class ExtensionSource(Protocol):
    """Says where extensions are."""

    async def files(self, tenant: TenantId, extension: ExtensionName) -> ExtensionFiles:
        """Where one extension is.

        Raises:
            StartError: there is no such extension for this tenant, or it is not ready to run.
        """

    async def members(self, tenant: TenantId, group: str) -> tuple[ExtensionName, ...]:
        """All ready extensions of the tenant whose policy names ``group``, in a stable order."""
