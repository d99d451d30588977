"""What the gates of all sandboxes of a host have in common: secrets, limits, the way out, and each tenant's account."""

from __future__ import annotations

import ssl

from sandbox.egress.attempts import AttemptSink, log_attempt
from sandbox.egress.connect import Connector, DirectConnector, Resolver, SystemResolver
from sandbox.egress.limits import EgressLimits, EgressUsed, Meter, TenantMeter
from sandbox.egress.vault import Vault
from sandbox.places import Places


class EgressOffice:
    """Belongs to the host; a gate lives as long as its sandbox."""

    def __init__(
        self,
        places: Places,
        *,
        vault: Vault | None = None,
        limits: EgressLimits | None = None,
        resolver: Resolver | None = None,
        connector: Connector | None = None,
        tls: ssl.SSLContext | None = None,
        sink: AttemptSink = log_attempt,
    ) -> None:
        self.places = places
        self.vault = vault or Vault(None)
        self.limits = limits or EgressLimits()
        self.resolver = resolver or SystemResolver()
        self.connector = connector or DirectConnector()
        self.sink = sink
        self._tls = tls
        self._tenants: dict[str, TenantMeter] = {}

    def meter(self, tenant: str) -> Meter:
        """A fresh meter of one sandbox."""
        return Meter(self.limits, self._meter_of(tenant))

    def used(self) -> dict[str, EgressUsed]:
        """What each tenant's sandboxes sent and fetched within its day; nothing of those that did neither."""
        found = {tenant: meter.bytes.used() for tenant, meter in self._tenants.items()}
        return {tenant: used for tenant, used in found.items() if used.up or used.down}

    def restore(self, tenant: str, used: EgressUsed) -> None:
        """What was counted before a restart of the host."""
        self._meter_of(tenant).bytes.restore(used)

    def _meter_of(self, tenant: str) -> TenantMeter:
        if tenant not in self._tenants:
            self._tenants[tenant] = TenantMeter(tenant, self.limits)
        return self._tenants[tenant]

    def client_tls(self) -> ssl.SSLContext:
        """How we look at other people's certificates: the machine's trust, the name checked. Blocking."""
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls
