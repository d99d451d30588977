"""What a tenant is told when one of its quotas is used up.

EngineError
└─ QuotaExceededError     ``quota``, ``limit``, ``figure``, ``retry_after_s``
   ├─ RateQuotaError      too much at a time: it is there again after a while
   ├─ SizeQuotaError      this one thing is too large
   └─ SpaceQuotaError     no room left: something has to go first
"""

from __future__ import annotations

from engine.errors import EngineError
from policies import Quotas, TenantId


class QuotaExceededError(EngineError):
    """A quota of the tenant is used up."""

    code = "quota-exceeded"

    def __init__(
        self,
        tenant: TenantId,
        quotas: Quotas,
        quota: str,
        *,
        figure: str,
        limit: str,
        hint: str,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(
            f"tenant '{tenant}' has used up its quota '{quota}': {figure}, at most {limit} ({quotas.source(quota)})",
            hint=hint,
        )
        self.quota = quota
        self.figure = figure
        self.limit = limit
        self.retry_after_s = retry_after_s


class RateQuotaError(QuotaExceededError):
    """Requests, CPU or GPU seconds."""

    code = "quota-rate"


class SizeQuotaError(QuotaExceededError):
    """An upload."""

    code = "quota-size"


class SpaceQuotaError(QuotaExceededError):
    """Disk or shared memory."""

    code = "quota-space"
