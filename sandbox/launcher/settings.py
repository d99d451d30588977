"""What an operator may set about launching; built once, handed down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sandbox.patience import HOLDING_UID


@dataclass(frozen=True, slots=True)
class LaunchSettings:
    """Launching, apart from what policies say."""

    image: str = "ringfence-node:cpu"
    """The node image; every sandbox without GPUs runs it."""
    gpu_image: str | None = None
    """Image for sandboxes with GPUs; None for the same one."""
    first_uid: int = 200_000
    """Sandboxes run as this uid and the following; no account of the machine may lie in the range."""
    uids: int = 65_536
    """How many uids there are."""
    holding_uid: int = HOLDING_UID
    """Whose the directories are that are being mounted; nobody runs as it."""
    trusted_sources: tuple[Path, ...] = ()
    """Roots of extensions that belong to no tenant (the built-in nodes)."""
    engine_paths: tuple[tuple[Path, Path], ...] = ()
    """``(here, there)``: how directories of ours are called where the engine runs; empty when names agree."""
    tenant_cgroups: bool = True
    """Each tenant's sandboxes below a cgroup of the tenant's (``parents.py``); False leaves them where the engine puts
    every container."""
    start_timeout_s: float = 60.0
    """For creating and starting a container, not for loading the extension."""
    concurrent_starts: int | None = None
    """How many containers may be starting at once; None for the number of cores (a start is CPU work)."""

    def engine_path(self, path: Path) -> Path:
        """``path`` as the engine calls it."""
        for here, there in self.engine_paths:
            if path.is_relative_to(here):
                return there / path.relative_to(here)
        return path

    def own_path(self, path: Path) -> Path:
        """``path`` of the engine as it is called here."""
        for here, there in self.engine_paths:
            if path.is_relative_to(there):
                return here / path.relative_to(there)
        return path

    self_test_at_start: bool = False
    """Prove each runtime's walls in the background at once; without it, before the first sandbox that needs one."""


@dataclass(frozen=True, slots=True)
class TestOverride:
    """What tests may change about a container. No setting, flag or request can make one of these."""

    __test__ = False

    runtime_source: Path | None = None
    """Mounted over the image's own runtime package, read-only."""
