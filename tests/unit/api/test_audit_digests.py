"""Which policies a prompt's record names, when prompts follow each other closely."""

from __future__ import annotations

from typing import Any, cast

import pytest

from api import audit_trail
from api.audit_trail import Trail
from policies import ExtensionName, PolicyStore, TenantId

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("every_fast_path")]

A, B = TenantId("a"), TenantId("b")


class Policies:
    """Counts how often it is asked; a policy's digest is the number of the question."""

    def __init__(self) -> None:
        self.asked = 0

    def effective(self, extension: ExtensionName, tenant: TenantId) -> Any:
        self.asked += 1
        return self

    def digest(self) -> str:
        return str(self.asked)


async def test_a_quarter_of_a_second_later_the_policies_are_read_anew() -> None:
    now = [100.0]
    trail, policies = Trail(clock=lambda: now[0]), Policies()
    store, pack = cast("PolicyStore", policies), ExtensionName("pack")
    assert await trail.digests(store, A, [pack]) == {"pack": "1"}
    now[0] += 0.2
    assert await trail.digests(store, A, [pack]) == {"pack": "1"}
    assert await trail.digests(store, B, [pack]) == {"pack": "2"}, "another tenant's policies are its own"
    assert await trail.digests(store, A, [pack, ExtensionName("other")]) == {"pack": "3", "other": "4"}
    now[0] += 0.1
    assert await trail.digests(store, A, [pack]) == {"pack": "5"}


async def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_trail, "_DIGESTS_KEPT", 3)
    trail, store = Trail(), cast("PolicyStore", Policies())
    for number in range(10):
        await trail.digests(store, TenantId(f"t{number}"), [])
    assert len(trail._digests) <= 3
