"""Who holds how many bytes of /dev/shm, and whether they may have more. Pure book-keeping, no files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from policies import TenantId
from sandbox.errors import QuotaError
from sandbox.figures import human_bytes

PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """Caps that no policy lifts."""

    tenant_bytes: int = 8 << 30
    """Per tenant: everything it has in /dev/shm, cached values included."""
    total_bytes: int = 64 << 30
    """All tenants together; the size of /dev/shm ends it earlier."""
    tenant_objects: int = 65_536
    """Files per tenant; each costs an inode and, while its maker lives, one of our descriptors."""
    bytes_of: Callable[[TenantId], int | None] = lambda _tenant: None
    """A tenant's own cap, where it has one; it may be lower than ``tenant_bytes``, never higher."""
    kept_bytes: int = 512 << 20
    """Dead outputs that a sandbox keeps for a moment to fill them again (``kept_outputs.py``); 0 keeps none."""
    sandbox_files: int = 1_024
    """Files a sandbox has asked for and not yet published or discarded; each holds one of our descriptors."""


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """What somebody holds."""

    bytes: int
    objects: int


@dataclass(slots=True)
class Account:
    """A sandbox's own cap on live outputs; ``cap_name`` says in an error which line sets it."""

    cap: int
    cap_name: str
    used: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why somebody may not have more."""

    error: QuotaError
    by_sandbox: bool
    """The sandbox's own cap is in the way, not one of the tenant or the machine."""
    by_host: bool = False
    """All tenants together hold too much."""


def charge(nbytes: int) -> int:
    """What a file of ``nbytes`` costs: whole pages, and never nothing."""
    return max(1, -(-nbytes // PAGE)) * PAGE


class Ledger:
    """Bytes and files by tenant, and by sandbox where one made them."""

    def __init__(self, limits: StoreLimits) -> None:
        self._limits = limits
        self._bytes: Counter[TenantId] = Counter()
        self._objects: Counter[TenantId] = Counter()

    def add(self, tenant: TenantId, account: Account | None, nbytes: int) -> None:
        """Book one file."""
        self._bytes[tenant] += charge(nbytes)
        self._objects[tenant] += 1
        if account is not None:
            account.used += charge(nbytes)

    def subtract(self, tenant: TenantId, account: Account | None, nbytes: int) -> None:
        """Take one file off the books."""
        self._bytes[tenant] -= charge(nbytes)
        self._objects[tenant] -= 1
        if account is not None:
            account.used -= charge(nbytes)

    def usage(self, tenant: TenantId | None) -> StoreUsage:
        """What a tenant, or everybody, holds."""
        if tenant is None:
            return StoreUsage(self._bytes.total(), self._objects.total())
        return StoreUsage(self._bytes[tenant], self._objects[tenant])

    def refusal(self, tenant: TenantId, account: Account | None, nbytes: int) -> Refusal | None:
        """Why a file of ``nbytes`` may not be made; None when it may."""
        limits, asked = self._limits, charge(nbytes)
        if account is not None and account.used + asked > account.cap:
            text = _over(
                f"shared memory cap {human_bytes(account.cap)} ({account.cap_name})", asked, account.used
            )
            return Refusal(QuotaError(text, "raise 'shared_memory' or return less"), by_sandbox=True)
        used = self._bytes[tenant]
        own = limits.bytes_of(tenant)
        most = limits.tenant_bytes if own is None else min(own, limits.tenant_bytes)
        if used + asked > most:
            text = _over(f"tenant '{tenant}': shared memory quota {human_bytes(most)}", asked, used)
            return Refusal(QuotaError(text, "free the cache (POST /free) or raise the tenant's quota"), False)
        if self._objects[tenant] >= limits.tenant_objects:
            text = f"tenant '{tenant}' holds {limits.tenant_objects} objects in /dev/shm, the most allowed"
            return Refusal(QuotaError(text, "free the cache (POST /free)"), False)
        total = self._bytes.total()
        if total + asked > limits.total_bytes:
            text = _over(f"shared memory of this host {human_bytes(limits.total_bytes)}", asked, total)
            return Refusal(
                QuotaError(text, "run fewer prompts at once or raise the host's total"), False, True
            )
        return None


def _over(limit: str, asked: int, used: int) -> str:
    return f"{limit}: asked {human_bytes(asked)}, {human_bytes(used)} in use"
