"""What routes and error answers add about one request, for its record in the audit log (api/audit_trail.py)."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.types import Scope

from policies import RingfenceError


@dataclass(slots=True)
class Remarks:
    """What routes add about one request, for its record."""

    error: RingfenceError | None = None
    extension: str = ""
    is_route: bool = False
    details: dict[str, str] = field(default_factory=dict)


def remarks_of(scope: Scope) -> Remarks:
    """Those of this request; made on first use."""
    found = scope.get("ringfence_audit")
    if not isinstance(found, Remarks):
        found = scope["ringfence_audit"] = Remarks()
    return found
