"""Where the files of one running Ringfence lie on this machine, and nothing else about them.

Launcher and host compute the same paths from the same settings, so neither has to be told a path by the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from policies import SandboxId, TenantId

SHM_ROOT = Path("/dev/shm/ringfence")  # noqa: S108  (the shared memory file system, not a temporary directory)
RUN_ROOT = Path("/run/ringfence")


@dataclass(frozen=True, slots=True)
class Places:
    """Directories of one instance. Instances on one machine never share any of them."""

    instance: str
    """Name of this Ringfence on this machine; part of paths, container names and labels."""
    data: Path
    """What outlives a restart: tenants' files, environments."""
    shm_root: Path = SHM_ROOT
    run_root: Path = RUN_ROOT

    @property
    def shm(self) -> Path:
        """The instance's part of /dev/shm."""
        return self.shm_root / self.instance

    @property
    def store(self) -> Path:
        """Adopted objects; no sandbox mounts it."""
        return self.shm / "store"

    @property
    def run(self) -> Path:
        """The instance's lock file and socket directories."""
        return self.run_root / self.instance

    @property
    def environments(self) -> Path:
        """Built environments by key."""
        return self.data / "environments"

    @property
    def launcher_data(self) -> Path:
        """What is the launcher's alone and outlives a restart: uids, caches of builds. The host does not see it."""
        return self.data / "launcher"

    def audit(self, writer: str) -> Path:
        """The audit log of ``host`` or ``launcher``. Not in a directory of both: the host could rename that one."""
        return self.data / f"audit-{writer}"

    @property
    def launcher_socket(self) -> Path:
        """Where the launcher listens for its host; not below ``run``, which each start of a host makes anew."""
        return self.run_root / f"{self.instance}.launcher" / "launcher.sock"

    def inbox(self, sandbox: SandboxId) -> Path:
        """What the host grants the sandbox: mounted read-only."""
        return self.shm / "sandboxes" / sandbox / "in"

    def outbox(self, sandbox: SandboxId) -> Path:
        """Files the host made for the sandbox to fill; the directory itself is not the sandbox's to change."""
        return self.shm / "sandboxes" / sandbox / "out"

    def socket_directory(self, sandbox: SandboxId) -> Path:
        """Holds the one socket of the sandbox."""
        return self.run / "sockets" / sandbox

    def egress_directory(self, sandbox: SandboxId) -> Path:
        """Holds the socket of the sandbox's proxy, and the certificates it shall trust; mounted read-only."""
        return self.run / "egress" / sandbox

    def tenant(self, tenant: TenantId) -> Path:
        """The tenant's own tree: input, output, temp, user, models, extensions."""
        return self.data / "tenants" / tenant
