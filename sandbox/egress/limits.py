"""How much a sandbox, and all sandboxes of a tenant, may send and fetch. Pure but for the clock."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from policies import format_bytes
from sandbox.egress.decision import FailedError
from sandbox.rates import Allowance

_MIB: Final = 1024 * 1024
_DAY_S: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class EgressLimits:
    """The operator's limits; each ends a connection with an error that names it."""

    connections: int = 32
    """Open at a time, per sandbox."""
    tenant_connections: int = 128
    """Open at a time, per tenant."""
    attempts_per_s: float = 20.0
    """New connections, per sandbox."""
    attempts_burst: int = 100
    """New connections at once, per sandbox."""
    sandbox_up: int = 1024 * _MIB
    """Bytes that one sandbox sends in its life."""
    sandbox_down: int = 16 * 1024 * _MIB
    """Bytes that one sandbox fetches in its life."""
    bytes_per_s: int = 64 * _MIB
    """Both ways together, per sandbox: what the host's own loop has to carry."""
    tenant_up: int = 8 * 1024 * _MIB
    """Bytes that a tenant's sandboxes send in a day."""
    tenant_down: int = 64 * 1024 * _MIB
    """Bytes that a tenant's sandboxes fetch in a day."""
    head_bytes: int = 32 * 1024
    """The head of a request, or of an answer."""
    head_s: float = 10.0
    """From a connection to the end of its request's head; from there to the end of the TLS hello; a TLS handshake."""
    resolve_s: float = 5.0
    """To look up a name."""
    connect_s: float = 10.0
    """To connect to one address."""
    idle_s: float = 300.0
    """Without a byte in either direction."""
    life_s: float = 6 * 3600.0
    """The longest life of a connection."""


@dataclass(frozen=True, slots=True)
class EgressUsed:
    """What a tenant's sandboxes sent and fetched within a day that began ``age_s`` ago."""

    age_s: float
    up: int
    down: int


class Count:
    """Bytes up and down against two caps."""

    def __init__(self, whose: str, up: int, down: int, window_s: float | None = None) -> None:
        self.whose = whose
        self.up = 0
        self.down = 0
        self._caps = {"up": up, "down": down}
        self._window_s = window_s
        self._began = time.monotonic()

    def add(self, *, up: int = 0, down: int = 0) -> None:
        """Count.

        Raises:
            FailedError: a cap is reached.
        """
        if self._window_s is not None and time.monotonic() - self._began >= self._window_s:
            self.up = self.down = 0
            self._began = time.monotonic()
        self.up += up
        self.down += down
        self.check()

    def used(self) -> EgressUsed:
        """What was counted, and since when."""
        return EgressUsed(time.monotonic() - self._began, self.up, self.down)

    def restore(self, used: EgressUsed) -> None:
        """What was counted before a restart."""
        self.up += used.up
        self.down += used.down
        self._began = time.monotonic() - used.age_s

    def check(self) -> None:
        """Raises: FailedError when a cap is reached."""
        for word, used in (("up", self.up), ("down", self.down)):
            if used > self._caps[word]:
                verb = "sent" if word == "up" else "fetched"
                span = " in a day" if self._window_s else ""
                raise FailedError(
                    f"{self.whose} has {verb} {format_bytes(self._caps[word])}{span}, the most it may",
                    status=429,
                )


class TenantMeter:
    """What all sandboxes of one tenant use together."""

    def __init__(self, tenant: str, limits: EgressLimits) -> None:
        self.bytes = Count(f"tenant '{tenant}'", limits.tenant_up, limits.tenant_down, _DAY_S)
        self.connections = 0


class Meter:
    """What one sandbox uses; counts for its tenant as well."""

    def __init__(self, limits: EgressLimits, tenant: TenantMeter) -> None:
        self._limits = limits
        self._tenant = tenant
        self._attempts = Allowance(limits.attempts_per_s, limits.attempts_burst)
        self._pace = Allowance(limits.bytes_per_s, limits.bytes_per_s)
        self.bytes = Count("this sandbox", limits.sandbox_up, limits.sandbox_down)
        self.connections = 0

    def enter(self) -> None:
        """Begin a connection; call ``leave`` when it has ended.

        Raises:
            FailedError: too many at a time, too many per second, or no bytes are left.
        """
        if not self._attempts.take():
            raise FailedError(f"more than {self._limits.attempts_per_s:g} connections per second", status=429)
        if self.connections >= self._limits.connections:
            raise FailedError(f"{self._limits.connections} connections of this sandbox are open", status=429)
        if self._tenant.connections >= self._limits.tenant_connections:
            raise FailedError(
                f"{self._limits.tenant_connections} connections of this tenant are open", status=429
            )
        self.add()
        self.connections += 1
        self._tenant.connections += 1

    def leave(self) -> None:
        """End a connection that ``enter`` let in."""
        self.connections -= 1
        self._tenant.connections -= 1

    def add(self, *, up: int = 0, down: int = 0) -> float:
        """Count bytes; the seconds to wait before the next ones.

        Raises:
            FailedError: a cap is reached.
        """
        self.bytes.add(up=up, down=down)
        self._tenant.bytes.add(up=up, down=down)
        return self._pace.borrow(up + down)
