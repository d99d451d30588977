"""Spare sandboxes with scripted workers: what takes one, what ends one, and what never sees one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from policies import ExtensionName
from runtime import wire
from sandbox import EndedError, ManagerLimits, SandboxState, Share
from sandbox.testing import FakeLauncher, FakeWorker
from tests.contract.kit import ANSWER, TENANT, MakeLauncher, World, world

pytestmark = pytest.mark.anyio


def limits(spares: int = 1, **more: Any) -> ManagerLimits:
    return ManagerLimits(spares=spares, spare_settle_s=0.0, **more)


def fake(asked: list[str] | None = None) -> MakeLauncher:
    """Workers that do what they should, and what each was asked for after its hello."""

    async def script(worker: FakeWorker) -> None:
        def prepare(params: dict[str, Any]) -> dict[str, Any]:
            if asked is not None:
                asked.extend(params["modules"])
            return {"modules": ["numpy", "torch"]}

        await worker.serve(
            {
                wire.PREPARE: prepare,
                wire.EXECUTE: {"slots": [], "ui": None, "calls": None, "blocked": []},
            }
        )

    return lambda places, _policies: FakeLauncher(places, script)


async def filled(at: World, count: int = 1) -> None:
    with anyio.fail_after(60):
        await at.manager.pool_filled(count)


def states(at: World) -> list[str]:
    return sorted(str(info.state) for info in at.manager.list())


async def test_the_spare_of_a_sandbox_that_died_takes_its_place(tmp_path: Path) -> None:
    async with world(tmp_path, fake(), limits=limits()) as at:
        at.shelf.write("pack", ANSWER)
        first = await at.session("pack")
        await filled(at)
        assert states(at) == ["spare", "warm"]
        (spare,) = [info.id for info in at.manager.list() if info.state is SandboxState.SPARE]
        ended = at.manager._all[first.sandbox].sandbox
        at.launcher.die(first.sandbox)
        with anyio.fail_after(60):
            await ended.gone()
        assert (await at.session("pack")).sandbox == spare
        assert at.manager.pool.taken == 1
        await filled(at)
        assert len({request.sandbox for request in at.launcher.requests}) == 3


async def test_a_spare_imports_what_its_extension_was_seen_to_use(tmp_path: Path) -> None:
    asked: list[str] = []
    async with world(tmp_path, fake(asked), limits=limits()) as at:
        at.shelf.write("pack", ANSWER)
        await at.session("pack")
        await filled(at)
        assert asked == ["numpy", "torch"]


async def test_a_spare_is_the_same_request_but_for_its_id(tmp_path: Path) -> None:
    async with world(tmp_path, fake(), limits=limits()) as at:
        at.shelf.write("pack", ANSWER)
        await at.session("pack")
        await filled(at)
        first, spare = at.launcher.requests
        assert first.sandbox != spare.sandbox
        assert (first.tenant, first.extensions, first.policy_digest, first.group) == (
            spare.tenant, spare.extensions, spare.policy_digest, spare.group,
        )  # fmt: skip


async def test_a_spare_of_another_policy_or_content_is_never_taken(tmp_path: Path) -> None:
    async with world(tmp_path, fake(), limits=limits()) as at:
        at.shelf.write("pack", ANSWER)
        first = await at.session("pack")
        await filled(at)
        (spare,) = [info.id for info in at.manager.list() if info.state is SandboxState.SPARE]
        at.shelf.write("pack", ANSWER + "# changed\n")
        second = await at.session("pack")
        assert second.sandbox not in (first.sandbox, spare)
        with anyio.fail_after(60):
            while spare not in at.launcher.stopped:
                await anyio.lowlevel.checkpoint()


async def test_a_sandbox_that_needs_the_place_of_a_spare_gets_it(tmp_path: Path) -> None:
    async with world(tmp_path, fake(), limits=limits(max_sandboxes=2)) as at:
        at.shelf.write("pack", ANSWER)
        at.shelf.write("other", ANSWER)
        await at.session("pack")
        await filled(at)
        with anyio.fail_after(60):
            await at.session("other")
        assert states(at) == ["warm", "warm"]
        assert "RINGFENCE_MAX_SANDBOXES" in str(at.manager.pool.without) or at.manager.pool.ready == 0


async def test_spares_do_not_count_against_a_tenants_quota_until_they_are_used(tmp_path: Path) -> None:
    share = Share(sandboxes=1)
    async with world(tmp_path, fake(), limits=limits(share_of=lambda _: share)) as at:
        at.shelf.write("pack", ANSWER)
        at.shelf.write("other", ANSWER)
        await at.session("pack")
        await filled(at)
        with anyio.fail_after(60):
            await at.session("other")
        assert [str(info.state) for info in at.manager.list() if info.state is not SandboxState.SPARE] in (
            ["warm"], ["ending", "warm"],
        )  # fmt: skip


async def test_a_spare_that_dies_is_no_death_of_its_extension(tmp_path: Path) -> None:
    async with world(tmp_path, fake(), limits=limits(quarantine_after=1)) as at:
        at.shelf.write("pack", ANSWER)
        first = await at.session("pack")
        await filled(at)
        (spare,) = [info.id for info in at.manager.list() if info.state is SandboxState.SPARE]
        at.launcher.die(spare)
        with anyio.fail_after(60):
            while spare in {info.id for info in at.manager.list()}:
                await anyio.lowlevel.checkpoint()
        assert (await at.session("pack")).sandbox == first.sandbox
        ((tenant, name, why),) = at.manager.pool.without
        assert (tenant, name) == (TENANT, "pack")
        assert "ended" in why or "exited" in why or "died" in why


async def test_a_worker_that_answers_preparation_with_nonsense_is_ended(tmp_path: Path) -> None:
    async def script(worker: FakeWorker) -> None:
        await worker.serve({wire.PREPARE: {"modules": ["os"] * 1000}})

    async with world(tmp_path, lambda places, _: FakeLauncher(places, script), limits=limits()) as at:
        at.shelf.write("pack", ANSWER)
        session = await at.session("pack")
        sandbox = at.manager._all[session.sandbox].sandbox
        with anyio.fail_after(60):
            error = await sandbox.final_error()
        assert "broke the protocol" in error.message
        assert not isinstance(error, EndedError)


async def test_without_a_pool_nothing_is_started_ahead(tmp_path: Path) -> None:
    async with world(tmp_path, fake(), limits=limits(0)) as at:
        at.shelf.write("pack", ANSWER)
        await at.session("pack")
        await at.manager.stop(TENANT, (await at.session("pack")).sandbox)
        assert len(at.launcher.requests) == 1
        assert at.manager.pool.size == 0


async def test_no_spare_holds_a_gpu(tmp_path: Path) -> None:
    policies = {"pack": "gpus: ['GPU-00000000-0000-0000-0000-000000000001']\n"}
    async with world(tmp_path, fake(), limits=limits(), policies=policies) as at:
        at.shelf.write("pack", ANSWER)
        await at.session("pack")
        with anyio.fail_after(60):
            while "GPU" not in str(at.manager.pool.without):
                await anyio.lowlevel.checkpoint()
        assert len(at.launcher.requests) == 1


async def test_a_watched_start_takes_no_spare_and_no_spare_is_watched(tmp_path: Path) -> None:
    async with world(tmp_path, fake(), limits=limits()) as at:
        at.shelf.write("pack", ANSWER)
        await at.session("pack")
        await filled(at)
        (spare,) = [info.id for info in at.manager.list() if info.state is SandboxState.SPARE]
        async with at.manager.watch(TENANT, ExtensionName("pack")) as watch:
            watched = await at.session("pack")
            assert watched.sandbox != spare
            assert at.manager._all[watched.sandbox].sandbox.watch is watch
            at.manager._spares._end((TENANT, "extension:pack"), "the test wants one that starts meanwhile")
            with anyio.fail_after(60):
                while spare in at.manager._all:
                    await anyio.lowlevel.checkpoint()
            await filled(at)
            (later,) = [info.id for info in at.manager.list() if info.state is SandboxState.SPARE]
            assert at.manager._all[later].sandbox.watch is None
        assert (await at.session("pack")).sandbox == later
        assert at.manager._all[later].sandbox.watch is None


async def test_stopping_the_host_ends_its_spares(tmp_path: Path) -> None:
    async with world(tmp_path, fake(), limits=limits()) as at:
        at.shelf.write("pack", ANSWER)
        await at.session("pack")
        await filled(at)
        launcher = at.launcher
    assert sorted(launcher.stopped) == sorted(request.sandbox for request in launcher.requests)


async def test_the_spares_of_a_removed_tenant_end_and_none_is_started_again(tmp_path: Path) -> None:
    async with world(tmp_path, fake(), limits=limits()) as at:
        at.shelf.write("pack", ANSWER)
        used = await at.session("pack")
        await filled(at)
        (spare,) = [tenancy.sandbox for tenancy in at.manager._all.values() if tenancy.sandbox.is_spare]
        at.manager.forget(TENANT)
        with anyio.fail_after(60):
            await spare.gone()
        await at.manager.stop(TENANT, used.sandbox)
        assert at.manager._spares.plan.wishes == {}
        assert len(at.launcher.requests) == 2
        await at.session("pack")  # whoever has that name next is wished for again
        await filled(at)


async def test_a_spare_that_is_just_being_planned_when_its_tenant_is_removed_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planning, removed, planned, calls = anyio.Event(), anyio.Event(), anyio.Event(), 0
    async with world(tmp_path, fake(), limits=limits()) as at:
        plan = at.manager._planner.plan

        async def slowly(*given: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 2:  # the spare's; the first is that of the sandbox in use
                planning.set()
                await removed.wait()
            made = await plan(*given)
            if calls == 2:
                planned.set()
            return made

        monkeypatch.setattr(at.manager._planner, "plan", slowly)
        at.shelf.write("pack", ANSWER)
        used = await at.session("pack")
        with anyio.fail_after(60):
            await planning.wait()
        at.manager.forget(TENANT)
        await at.manager.stop(TENANT, used.sandbox)
        removed.set()
        with anyio.fail_after(60):
            await planned.wait()
        await anyio.wait_all_tasks_blocked()
        assert [request.sandbox for request in at.launcher.requests] == [used.sandbox]
        assert at.manager.list() == []
