"""Who is told what the sandboxes of a tenant use up. The counting of quotas is the engine's; this is its seam."""

from __future__ import annotations

from typing import Protocol

from policies import TenantId


class Metering(Protocol):
    """Counts what tenants use, never waiting. What charges returns why the tenant may use no more, when that is so."""

    def charge_time(self, tenant: TenantId, cpu_s: float, gpu_s: float) -> str | None:
        """A sandbox used so many seconds of CPU, and held GPUs for so many (times their number)."""

    def is_timed(self, tenant: TenantId) -> bool:
        """Whether a tenant's CPU or GPU time has a limit: it is then counted every second, whatever it does."""

    def charge_disk(self, tenant: TenantId, nbytes: int) -> str | None:
        """A sandbox's files grew by so much (or, negative, shrank)."""
