"""What a watch makes of what it is told, and that a watched sandbox has the same walls as any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from policies import ExtensionName, SandboxId, TenantId
from runtime import wire
from sandbox import Attempt, ProtocolViolationError, QuotaError, Session, Verdict, Watch
from sandbox.launcher.verbs import Usage
from sandbox.messages import Seen
from sandbox.testing import HELLO, FakeLauncher, FakeWorker, Script
from sandbox.watching import CLAIMS_KEPT
from tests.contract.kit import TENANT, call, ignore, world

BOX = SandboxId("box")
MIB = 2**20


def watch() -> Watch:
    made = Watch(TENANT, [ExtensionName("pack")])
    made.began(BOX)
    return made


def claim(at: Watch, kind: str, name: str = "", value: int = 1) -> None:
    at.claimed(Seen.model_validate({"kind": kind, "name": name, "value": value}))


def test_file_cache_that_the_kernel_would_have_dropped_is_not_counted_as_needed() -> None:
    at = watch()
    at.used(BOX, Usage(memory_peak=50 * MIB, file_cache=20 * MIB))
    at.used(BOX, Usage(memory_peak=300 * MIB, file_cache=120 * MIB))  # 20 to 120 MiB of cache at the peak
    at.used(BOX, Usage(memory_peak=300 * MIB, file_cache=500 * MIB))
    assert at.seen.memory == 280 * MIB
    assert at.seen.memory_peak == 300 * MIB


def test_without_a_peak_of_the_kernels_own_the_highest_reading_counts_and_is_marked() -> None:
    at = watch()
    for pids, memory in ((3, 10), (9, 30), (4, 20)):
        at.used(BOX, Usage(memory=memory, pids=pids))
    assert (at.seen.memory, at.seen.pids, at.seen.pids_sampled) == (30, 9, True)
    at.used(BOX, Usage())
    assert at.seen.pids == 9


def test_claims_have_a_form_and_a_bound_and_what_is_over_is_counted() -> None:
    at = watch()
    for number in range(CLAIMS_KEPT + 10):
        claim(at, "read", f"/x/{number}")
    for kind, name in (
        ("connect", "no port"),
        ("connect", "-x.example.com:443"),
        ("connect", "a b:1"),
        ("read", "relative"),
        ("write", "/nul\0"),
        ("variable", "lower"),
        ("variable", "A=1"),
    ):
        claim(at, kind, name)
    claims = at.seen.claims
    assert len(claims.reads) == CLAIMS_KEPT
    assert (len(claims.hosts), len(claims.writes), len(claims.variables)) == (0, 0, 0)
    assert claims.left_out == 17
    for _ in range(5000):
        claim(at, "tmp", value=1)
    assert claims.left_out > 17, "a flood is only counted"


def test_what_the_proxy_decided_is_measured() -> None:
    at = watch()
    attempt = Attempt(TENANT, (), BOX, "api.example.com:443", Verdict.ALLOWED, "", secret="KEY", up=5, down=7)
    at.reached(attempt)
    at.reached(replace(attempt, verdict=Verdict.REFUSED, target="evil.example.com:443"))
    at.reached(replace(attempt, target="what\never"))
    (reached,) = at.seen.reached.values()
    assert (reached.count, reached.up, reached.down, reached.secrets) == (1, 5, 7, {"KEY"})
    assert dict(at.seen.refused) == {"evil.example.com:443": 1}


def test_a_limit_that_refused_something_is_known_by_its_key() -> None:
    at = watch()
    at.refused(QuotaError("the node returned 5 values, the policy allows 4", "raise 'limits.outputs'"))
    at.refused(QuotaError("something else"))
    assert list(at.seen.met) == ["limits.outputs"]


# -- over the manager ------------------------------------------------------------------------------------------------


def keeping(hellos: list[dict[str, Any]], *notifications: dict[str, Any]) -> Script:
    async def script(worker: FakeWorker) -> None:
        def hello(params: dict[str, Any]) -> dict[str, Any]:
            hellos.append(params)
            return HELLO

        async def execute(_: Any) -> dict[str, Any]:
            for params in notifications:
                await worker.send({"method": wire.SEEN, "params": params})
            return {"slots": [], "ui": None, "calls": None, "blocked": []}

        await worker.serve({wire.HELLO: hello, wire.EXECUTE: execute})

    return script


async def twice(session: Session) -> None:
    """What was said in the first call has been read when the second has its answer."""
    for _ in range(2):
        await session.execute(call("Any"), ignore)


@pytest.mark.anyio
async def test_the_launcher_is_asked_for_the_same_sandbox_whether_it_is_watched_or_not(
    tmp_path: Path,
) -> None:
    hellos: list[dict[str, Any]] = []
    async with world(tmp_path, lambda places, _: FakeLauncher(places, keeping(hellos))) as at:
        at.shelf.write("pack", "")
        await at.session("pack")
        async with at.manager.watch(TENANT, ExtensionName("pack")):
            await at.session("pack")
            await at.session("pack", TenantId(TENANT))
        plain, watched = at.launcher.requests
        assert replace(plain, sandbox=watched.sandbox) == watched
        assert ["watch" in hello for hello in hellos] == [False, True]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "params",
    [
        {"kind": "whatever", "name": "", "value": 1},
        {"kind": "read", "name": "x" * 2000, "value": 1},
        {"kind": "read", "name": "/x", "value": 0},
        {"kind": "read", "name": "/x", "value": True},
        {"kind": "read", "name": "/x", "value": 1, "more": 1},
        {"kind": "read"},
    ],
)
async def test_a_claim_of_another_form_breaks_the_protocol(tmp_path: Path, params: dict[str, Any]) -> None:
    async with world(tmp_path, lambda places, _: FakeLauncher(places, keeping([], params))) as at:
        at.shelf.write("pack", "")
        async with at.manager.watch(TENANT, ExtensionName("pack")):
            session = await at.session("pack")
            with pytest.raises(ProtocolViolationError):
                await twice(session)


@pytest.mark.anyio
async def test_a_claim_of_a_worker_that_nobody_watches_breaks_the_protocol(tmp_path: Path) -> None:
    good = {"kind": "read", "name": "/x", "value": 1}
    async with world(tmp_path, lambda places, _: FakeLauncher(places, keeping([], good))) as at:
        at.shelf.write("pack", "")
        session = await at.session("pack")
        with pytest.raises(ProtocolViolationError, match="watch/seen"):
            await twice(session)
