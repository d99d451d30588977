"""What each tenant has used and whether it may have more: one book for all of its quotas.

The limits are ``default.yaml``'s (read again after a few seconds), under the installation's settings as maxima. What is
used is told by whoever sees it used: requests by the guard, CPU seconds by the sandbox manager, bytes by uploads and
sandboxes, and the disk by a walk over the tenant's files now and then. Nothing here waits but for those readings.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import anyio
import anyio.abc
import anyio.to_thread

from engine.disk_usage import DiskUsage, measure
from engine.quota_errors import RateQuotaError, SpaceQuotaError
from engine.tenant_directories import tenant_directory
from engine.windows import RollingSum
from policies import PolicyError, PolicyStore, Quotas, TenantId, built_in_quotas, format_bytes
from sandbox import Allowance, Share

FRESH_S: Final = 3.0
"""How old a reading of default.yaml may be."""
COST_BYTES: Final = 256 * 1024
"""A body of so many bytes counts as one request more."""
_WALK_S: Final = 60.0  # between two walks over one tenant's files
_WALK_SHARE: Final = 20  # and at least so many times as long as the last one took
_ACTIVE_S: Final = 600.0  # whose files are walked over: who did something within this time
_KEPT: Final = 10_000  # tenants that are remembered
_MOST_FILES: Final = 5_000_000
_AREAS: Final = ("input", "output", "temp", "user", "assets", "extensions")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Maxima:
    """What no tenant gets more of, whatever default.yaml says; None: nothing but that file says anything.

    ``sources`` names the setting of each.
    """

    prompts: int | None = None
    queued: int | None = None
    sandboxes: int | None = None
    shared_memory: int | None = None
    upload: int | None = None
    websockets: int | None = None
    sources: dict[str, str] = field(default_factory=dict)


_MAXIMA: Final = ("prompts", "queued", "sandboxes", "shared_memory", "upload", "websockets")


@dataclass(slots=True)
class _Account:
    quotas: Quotas
    read_at: float
    requests: Allowance | None = None
    rate: tuple[int, int] | None = None
    cpu: RollingSum = field(default_factory=RollingSum)
    gpu: RollingSum = field(default_factory=RollingSum)
    disk: DiskUsage | None = None
    added: int = 0
    """Bytes that came since the last walk."""
    walked_at: float = float("-inf")
    walk_took: float = 0.0
    used_at: float = 0.0
    refused: dict[str, int] = field(default_factory=dict)


class QuotaBook:
    """The quotas of all tenants. ``open`` keeps the disk figures current; all else works without it."""

    def __init__(
        self,
        policies: PolicyStore | None = None,
        data_dir: Path | None = None,
        maxima: Maxima | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policies = policies
        self._data_dir = data_dir
        self._maxima = maxima or Maxima()
        self._clock = clock
        self._accounts: dict[TenantId, _Account] = {}
        self._walking = anyio.Lock()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[QuotaBook]:
        """Walk over the files of whoever is active, until the end."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._walk_on)
            try:
                yield self
            finally:
                tasks.cancel_scope.cancel()

    # -- what holds --------------------------------------------------------------------------------------------------

    async def of(self, tenant: TenantId) -> Quotas:
        """What holds for a tenant, no older than a few seconds."""
        account = self._accounts.get(tenant)
        if account is not None and self._clock() - account.read_at < FRESH_S:
            return account.quotas
        quotas = await anyio.to_thread.run_sync(self._read, tenant)
        return self._keep(tenant, quotas).quotas

    def known(self, tenant: TenantId) -> Quotas:
        """What held for a tenant when it was last asked for; only the installation's settings before that."""
        account = self._accounts.get(tenant)
        return account.quotas if account is not None else self._capped(Quotas())

    def weight(self, tenant: TenantId) -> int:
        """A tenant's share beside others."""
        return self.known(tenant).weight

    def share(self, tenant: TenantId) -> Share:
        """What the sandbox manager asks: how many sandboxes, of how much memory, with which weight."""
        quotas = self.known(tenant)
        return Share(
            sandboxes=quotas.sandboxes,
            memory=quotas.memory,
            weight=quotas.weight,
            sandboxes_name=quotas.source("sandboxes"),
            memory_name=quotas.source("memory"),
        )

    def shared_memory(self, tenant: TenantId) -> int | None:
        """A tenant's cap in /dev/shm, when it has one of its own."""
        return self.known(tenant).shared_memory

    def history_bytes(self, tenant: TenantId) -> int | None:
        """How many bytes of history a tenant may keep."""
        return self.known(tenant).history

    def _read(self, tenant: TenantId) -> Quotas:
        if self._policies is None:
            return self._capped(Quotas())
        try:
            return self._capped(self._policies.quotas(tenant))
        except PolicyError as error:
            known = self._accounts.get(tenant)
            # An operator's slip of the pen must neither lift all limits nor stop the service.
            _log.warning("the quotas in default.yaml cannot be read; those from before hold: %s", error)
            return known.quotas if known is not None else self._capped(built_in_quotas())

    def _capped(self, quotas: Quotas) -> Quotas:
        changes: dict[str, Any] = {}
        sources = dict(quotas.sources)
        for key in _MAXIMA:
            most, own = getattr(self._maxima, key), getattr(quotas, key)
            if most is not None and (own is None or own > most):
                changes[key] = most
                sources[key] = self._maxima.sources.get(key, "the installation's setting")
        return replace(quotas, **changes, sources=MappingProxyType(sources)) if changes else quotas

    def _keep(self, tenant: TenantId, quotas: Quotas) -> _Account:
        account = self._accounts.get(tenant)
        if account is None:
            if len(self._accounts) >= _KEPT:
                del self._accounts[min(self._accounts, key=lambda each: self._accounts[each].used_at)]
            account = self._accounts[tenant] = _Account(quotas, 0.0)
            account.cpu, account.gpu = RollingSum(self._clock), RollingSum(self._clock)
        account.quotas, account.read_at = quotas, self._clock()
        return account

    async def _account(self, tenant: TenantId) -> _Account:
        now, account = self._clock(), self._accounts.get(tenant)
        if account is None or now - account.read_at >= FRESH_S:
            await self.of(tenant)
            account = self._accounts.get(tenant) or self._keep(tenant, self.known(tenant))
            now = self._clock()
        account.used_at = now
        return account

    # -- requests ----------------------------------------------------------------------------------------------------

    async def take_request(self, tenant: TenantId, nbytes: int = 0) -> None:
        """Count a request; one that announces a large body counts for several.

        Raises:
            RateQuotaError: there were too many.
        """
        account = await self._account(tenant)
        quotas = account.quotas
        if quotas.requests is None:
            return
        burst = max(quotas.burst or quotas.requests, 1)
        if account.requests is None or account.rate != (quotas.requests, burst):
            account.rate = (quotas.requests, burst)
            account.requests = Allowance(quotas.requests, burst)
        if not account.requests.take(min(1 + nbytes // COST_BYTES, burst)):
            raise self._refused(
                account,
                RateQuotaError(
                    tenant,
                    quotas,
                    "requests",
                    figure=f"{burst} at once and {quotas.requests} a second were made",
                    limit=f"{quotas.requests} a second",
                    hint="wait, and ask less often; events come over the WebSocket",
                    retry_after_s=1.0,
                ),
            )

    # -- CPU and GPU time ----------------------------------------------------------------------------------------------

    def charge_time(self, tenant: TenantId, cpu_s: float, gpu_s: float) -> str | None:
        """A sandbox used so much; the text of the refusal when the tenant is over one of the two quotas now."""
        account = self._accounts.get(tenant) or self._keep(tenant, self.known(tenant))
        window = account.quotas.window
        if cpu_s > 0:
            account.cpu.add(cpu_s, window)
        if gpu_s > 0:
            account.gpu.add(gpu_s, window)
        error = self.over_time(tenant)
        return None if error is None else error.message

    def is_timed(self, tenant: TenantId) -> bool:
        """Whether a tenant's CPU or GPU time has a limit."""
        account = self._accounts.get(tenant)
        quotas = self.known(tenant) if account is None else account.quotas
        return quotas.cpu_seconds is not None or quotas.gpu_seconds is not None

    def used_time(self) -> Iterator[tuple[TenantId, str, list[tuple[float, float]]]]:
        """What each tenant used within its window: ``cpu`` or ``gpu``, and the slots of its sum."""
        for tenant, account in list(self._accounts.items()):
            for kind, used in (("cpu", account.cpu), ("gpu", account.gpu)):
                if slots := used.slots():
                    yield tenant, kind, slots

    def restore_time(self, tenant: TenantId, kind: str, slots: Sequence[tuple[float, float]]) -> None:
        """What was used before a restart, as ``used_time`` told it."""
        account = self._accounts.get(tenant) or self._keep(tenant, self.known(tenant))
        account.used_at = self._clock()
        (account.cpu if kind == "cpu" else account.gpu).restore(slots)

    def over_time(self, tenant: TenantId) -> RateQuotaError | None:
        """Why a tenant may use no more CPU or GPU time now."""
        account = self._accounts.get(tenant)
        if account is None:
            return None
        quotas = account.quotas
        if quotas.cpu_seconds is None and quotas.gpu_seconds is None:
            return None
        for quota, used, limit in (
            ("cpu_seconds", account.cpu, quotas.cpu_seconds),
            ("gpu_seconds", account.gpu, quotas.gpu_seconds),
        ):
            if limit is not None and used.total(quotas.window) >= limit:
                what = "CPU" if quota == "cpu_seconds" else "GPU"
                return RateQuotaError(
                    tenant,
                    quotas,
                    quota,
                    figure=f"{used.total(quotas.window):.0f} {what} seconds within {quotas.window:.0f} s",
                    limit=str(limit),
                    hint=f"wait; whoever runs this server may raise '{quota}' in default.yaml",
                    retry_after_s=max(1.0, used.seconds_until_below(limit, quotas.window)),
                )
        return None

    # -- disk --------------------------------------------------------------------------------------------------------

    def charge_disk(self, tenant: TenantId, nbytes: int) -> str | None:
        """So many bytes were written (or, negative, went away); the text of the refusal when that is too much now."""
        account = self._accounts.get(tenant) or self._keep(tenant, self.known(tenant))
        account.added += nbytes
        account.used_at = self._clock()
        error = self._over_disk(account, tenant, 0)
        return None if error is None else error.message

    async def check_disk(self, tenant: TenantId, coming: int) -> None:
        """Whether ``coming`` more bytes fit.

        Raises:
            SpaceQuotaError: they do not.
        """
        account = await self._account(tenant)
        error = self._over_disk(account, tenant, coming)
        if error is not None:
            # Perhaps something was deleted since: look before refusing, but not more often than once in a while.
            await self._walk(tenant, account, at_least_s=1.0)
            error = self._over_disk(account, tenant, coming)
        if error is not None:
            raise self._refused(account, error)

    def _over_disk(self, account: _Account, tenant: TenantId, coming: int) -> SpaceQuotaError | None:
        quotas, disk = account.quotas, account.disk or DiskUsage()
        if quotas.disk is None and quotas.files is None:
            return None
        used = max(0, disk.bytes + account.added)
        hint = (
            "delete some files (output, temp, input); whoever runs this server may raise it in default.yaml"
        )
        if quotas.disk is not None and (used > quotas.disk or (coming and used + coming > quotas.disk)):
            figure = f"{format_bytes(used)} are used"
            more = f" and {format_bytes(coming)} more do not fit" if coming else ""
            return SpaceQuotaError(
                tenant, quotas, "disk", figure=figure + more, limit=format_bytes(quotas.disk), hint=hint
            )
        if quotas.files is not None and disk.files > quotas.files:
            figure = f"there are {'' if disk.is_whole else 'more than '}{disk.files} files"
            return SpaceQuotaError(tenant, quotas, "files", figure=figure, limit=str(quotas.files), hint=hint)
        return None

    async def _walk_on(self) -> None:
        while True:
            now = self._clock()
            for tenant, account in list(self._accounts.items()):
                if now - account.used_at < _ACTIVE_S:
                    await self._walk(tenant, account, at_least_s=_WALK_S)
            await anyio.sleep(5)

    async def _walk(self, tenant: TenantId, account: _Account, *, at_least_s: float) -> None:
        def is_due() -> bool:
            return self._clock() - account.walked_at >= max(at_least_s, _WALK_SHARE * account.walk_took)

        if self._data_dir is None or not is_due():
            return
        async with self._walking:  # one at a time: nobody's million files take all threads
            if not is_due():
                return
            roots = _roots(self._data_dir, tenant)
            most = min(account.quotas.files or _MOST_FILES, _MOST_FILES)
            before, began = account.added, self._clock()
            account.disk = await anyio.to_thread.run_sync(lambda: measure(roots, most_files=most))
            account.added -= before  # what came meanwhile may be counted twice, until the next walk
            account.walked_at = self._clock()
            account.walk_took = account.walked_at - began

    # -- before a prompt ---------------------------------------------------------------------------------------------

    async def check_prompt(self, tenant: TenantId) -> Quotas:
        """Whether a tenant may queue a prompt, and what holds for it.

        Raises:
            RateQuotaError, SpaceQuotaError
        """
        account = await self._account(tenant)
        late = self.over_time(tenant)
        if late is not None:
            raise self._refused(account, late)
        if self._over_disk(account, tenant, 0) is not None:
            await self.check_disk(tenant, 0)
        return account.quotas

    # -- for people --------------------------------------------------------------------------------------------------

    async def measured(self, tenant: TenantId) -> dict[str, float | int | None]:
        """What this book knows to be used, by quota; the disk walked over if that is due."""
        account = await self._account(tenant)
        await self._walk(tenant, account, at_least_s=5.0)
        window = account.quotas.window
        disk = account.disk
        return {
            "cpu_seconds": round(account.cpu.total(window), 3),
            "gpu_seconds": round(account.gpu.total(window), 3),
            "disk": None if disk is None else max(0, disk.bytes + account.added),
            "files": None if disk is None else disk.files,
        }

    def refusals(self) -> Sequence[tuple[TenantId, str, int]]:
        """How often which tenant was refused for which quota."""
        return [
            (tenant, quota, count)
            for tenant, account in self._accounts.items()
            for quota, count in account.refused.items()
        ]

    def note_refusal(self, tenant: TenantId, quota: str) -> None:
        """Somebody else refused something because of a quota."""
        account = self._accounts.get(tenant) or self._keep(tenant, self.known(tenant))
        account.refused[quota] = account.refused.get(quota, 0) + 1

    def _refused(
        self, account: _Account, error: RateQuotaError | SpaceQuotaError
    ) -> RateQuotaError | SpaceQuotaError:
        account.refused[error.quota] = account.refused.get(error.quota, 0) + 1
        return error


def _roots(data_dir: Path, tenant: TenantId) -> list[Path]:
    own = tenant_directory(data_dir, tenant)
    return [*(own / area for area in _AREAS), data_dir / "uploads" / tenant]
