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

    async def group_files(
        self, tenant: TenantId, group: str, extension: ExtensionName
    ) -> tuple[ExtensionFiles, ...]:
        """All ready extensions of the tenant whose policy names ``group``, by name, with one environment for all.

        ``extension`` is the member that is asked for: it is among them, or the reason why not is raised.

        Raises:
            StartError: it is not ready to run.
            EnvironmentFailedError: the members' requirements exclude each other, or the environment failed.
        """
