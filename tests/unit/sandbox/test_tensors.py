"""The object store on a real /dev/shm: what is adopted cannot change, what is refused leaves nothing behind."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from policies import SandboxId, TenantId
from sandbox import (
    FastPath,
    ProtocolViolationError,
    QuotaError,
    SandboxError,
    StartError,
    StoreLimits,
    TensorStore,
    Value,
    shm,
    take_fast_paths,
)
from sandbox.places import Places
from sandbox.tensors import room
from tests.contract.kit import CHECKOUT, places

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("every_fast_path")]

A, B = SandboxId("a"), SandboxId("b")
ONE, TWO = TenantId("one"), TenantId("two")
MIB = 1 << 20
libc = ctypes.CDLL(None, use_errno=True)


@asynccontextmanager
async def opened(
    tmp_path: Path, limits: StoreLimits | None = None, quota: int = 64 * MIB
) -> AsyncIterator[TensorStore]:
    async with TensorStore(places(tmp_path), limits) as store:
        await store.register(A, ONE, quota=quota, quota_name="policies/a.yaml:3")
        await store.register(B, ONE, quota=quota, quota_name="policies/b.yaml:3")
        yield store


def out(store: TensorStore, name: str) -> Path:
    return store._places.outbox(A) / name


def kept(store: TensorStore, name: str) -> Path:
    return store._places.store / name


async def made(store: TensorStore, data: bytes = b"x" * 8192) -> str:
    """An adopted object as a well-behaved worker makes one."""
    name = await store.allocate(A, len(data))
    out(store, name).write_bytes(data) if not data else _fill(out(store, name), data)
    await store.adopt(A, [(name, len(data))])
    store.retain_objects([name])
    return name


def _fill(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        os.pwrite(fd, data, 0)
    finally:
        os.close(fd)


def is_leased(store: TensorStore, name: str) -> bool:
    return store._held.objects[name].leased


# -- adoption ------------------------------------------------------------------------------------------------


async def test_a_closed_output_is_adopted_without_a_copy(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        name = await store.allocate(A, 8192)
        inode = out(store, name).stat().st_ino
        _fill(out(store, name), b"y" * 8192)
        await store.adopt(A, [(name, 8192)])
        assert kept(store, name).stat().st_ino == inode
        assert is_leased(store, name)
        assert kept(store, name).read_bytes() == b"y" * 8192
        assert not out(store, name).exists()


async def test_with_adoption_switched_off_it_is_a_copy_that_holds_the_same(tmp_path: Path) -> None:
    take_fast_paths(set(FastPath) - {FastPath.ADOPTED_OUTPUTS})
    async with opened(tmp_path) as store:
        name = await store.allocate(A, 8192)
        inode = out(store, name).stat().st_ino
        _fill(out(store, name), b"y" * 8192)
        await store.adopt(A, [(name, 8192)])
        assert kept(store, name).stat().st_ino != inode
        assert not is_leased(store, name)
        assert kept(store, name).read_bytes() == b"y" * 8192
        assert not out(store, name).exists()


@pytest.mark.parametrize(
    "hold", ["descriptor", "shared mapping", "read-only mapping of a writable descriptor"]
)
async def test_an_output_that_somebody_can_still_write_is_copied(tmp_path: Path, hold: str) -> None:
    async with opened(tmp_path) as store:
        name = await store.allocate(A, 8192)
        path = out(store, name)
        _fill(path, b"a" * 8192)
        fd = os.open(path, os.O_RDWR)
        protection = mmap.PROT_READ if hold.startswith("read-only") else mmap.PROT_READ | mmap.PROT_WRITE
        mapping = mmap.mmap(fd, 8192, mmap.MAP_SHARED, protection) if "mapping" in hold else None
        if mapping is not None:
            os.close(fd)
        inode = path.stat().st_ino
        await store.adopt(A, [(name, 8192)])
        assert kept(store, name).stat().st_ino != inode
        assert not is_leased(store, name)
        if mapping is None:
            os.pwrite(fd, b"EVIL", 0)
            os.close(fd)
        # A write through the mapping would be the maker's own SIGBUS: its pages have been taken away.
        assert kept(store, name).read_bytes() == b"a" * 8192
        if mapping is not None:
            mapping.close()


async def test_a_sandbox_that_may_pin_pages_is_always_copied(tmp_path: Path) -> None:
    async with TensorStore(places(tmp_path)) as store:
        await store.register(A, ONE, quota=MIB, quota_name="p", zero_copy=False)
        name = await store.allocate(A, 4096)
        inode = out(store, name).stat().st_ino
        await store.adopt(A, [(name, 4096)])
        assert kept(store, name).stat().st_ino != inode


def _truncate(path: Path) -> None:
    os.truncate(path, 100)


def _extend(path: Path) -> None:
    os.truncate(path, 1 << 30)


def _punch(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    zero = ctypes.c_long(0)
    assert libc.fallocate(fd, 3, zero, ctypes.c_long(4096)) == 0, errno.errorcode[ctypes.get_errno()]
    os.close(fd)


def _link(path: Path) -> None:
    os.link(path, path.with_name("other"))


@pytest.mark.parametrize(
    ("attack", "says"),
    [
        (_truncate, "holds 100 bytes"),
        (_extend, "announced were 8192"),
        (_punch, "holes"),
        (_link, "one name"),
    ],
)
@pytest.mark.parametrize("zero_copy", [True, False])
async def test_an_output_that_was_tampered_with_is_refused_and_gone(
    tmp_path: Path, attack: object, says: str, zero_copy: bool
) -> None:
    async with TensorStore(places(tmp_path)) as store:
        await store.register(A, ONE, quota=MIB, quota_name="p", zero_copy=zero_copy)
        name = await store.allocate(A, 8192)
        attack(out(store, name))  # type: ignore[operator]
        began = time.monotonic()
        with pytest.raises(ProtocolViolationError, match=says):
            await store.adopt(A, [(name, 8192)])
        # Our own lease must not hold us up when the file is emptied: the kernel would wait 45 s.
        assert time.monotonic() - began < 30
        assert not out(store, name).exists()
        assert not kept(store, name).exists()
        assert store.usage().bytes == 0


async def test_a_file_truncated_while_it_is_copied_is_refused_and_does_not_hurt_the_host(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as store:
        name = await store.allocate(A, 8192)
        fd = os.open(out(store, name), os.O_RDONLY)
        os.truncate(out(store, name), 4096)
        with pytest.raises(shm.FileRefusedError, match="ended at 4096"):
            await anyio.to_thread.run_sync(shm.copy, fd, kept(store, "copy"), 8192)
        os.close(fd)
        assert not kept(store, "copy").exists()


@pytest.mark.parametrize("name", ["0" * 32, "../x", "", "store"])
async def test_only_files_that_the_host_gave_can_be_published(tmp_path: Path, name: str) -> None:
    async with opened(tmp_path) as store:
        with pytest.raises(ProtocolViolationError, match="not given"):
            await store.adopt(A, [(name, 1)])


async def test_a_file_of_another_sandbox_cannot_be_published(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        name = await store.allocate(B, 10)
        with pytest.raises(ProtocolViolationError, match="not given"):
            await store.adopt(A, [(name, 10)])


async def test_a_size_other_than_the_allocated_one_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        name = await store.allocate(A, 4096)
        with pytest.raises(ProtocolViolationError, match="4096 bytes were allocated, announced were 100"):
            await store.adopt(A, [(name, 100)])


async def test_when_one_of_several_files_is_refused_none_is_kept(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        good, bad = await store.allocate(A, 4096), await store.allocate(A, 4096)
        os.truncate(out(store, bad), 1)
        with pytest.raises(ProtocolViolationError):
            await store.adopt(A, [(good, 4096), (bad, 4096)])
        assert store.usage().objects == 0
        assert not list(store._places.store.iterdir())


async def test_after_adoption_nobody_without_our_uid_can_open_it_for_writing(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        name = await made(store)
        store.grant(B, [name])
        code = (
            "import os,sys\nos.setgid(234567); os.setuid(234567)\n"
            "fd=os.open(sys.argv[1], os.O_RDONLY)\n"
            "for path in (sys.argv[1], f'/proc/self/fd/{fd}'):\n"
            "    try: os.open(path, os.O_RDWR); sys.exit(1)\n"
            "    except PermissionError: pass\n"
            "try: os.fchmod(fd, 0o666); sys.exit(2)\n"
            "except PermissionError: pass\n"
        )
        path = store._places.inbox(B) / name
        for directory in (store._places.shm_root, store._places.shm, path.parents[2], path.parents[1]):
            directory.chmod(0o755)  # what the mount does inside a container
        done = await anyio.run_process([sys.executable, "-I", "-c", code, str(path)], check=False)
        assert done.returncode == 0


async def test_a_lease_break_ends_its_sandbox_and_not_the_host(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        broken: list[SandboxId] = []
        told = anyio.Event()

        def on_break(sandbox: SandboxId) -> None:
            broken.append(sandbox)
            told.set()

        store.on_lease_break = on_break
        name = await made(store)
        with pytest.raises(BlockingIOError):  # root may, so this is an open that slipped past the chmod
            os.open(kept(store, name), os.O_RDWR | os.O_NONBLOCK)
        with anyio.fail_after(60):
            await told.wait()
        assert broken == [A]
        with pytest.raises(SandboxError, match="gone"):
            store.grant(B, [name])
        await store.unregister(A)
        assert store.usage().objects == 0


async def test_the_signal_of_a_lease_break_kills_nobody_even_without_a_handler() -> None:
    code = (
        "import os,fcntl,sys; sys.path.insert(0, sys.argv[1]); from sandbox import shm; from pathlib import Path\n"
        "p=Path(f'/dev/shm/rf-lease-{os.getpid()}'); fd,_=shm.create(p,4096); assert shm.freeze(fd)\n"
        "try: os.open(p, os.O_RDWR|os.O_NONBLOCK)\n"
        "except BlockingIOError: pass\n"
        "finally: p.unlink()\n"
        "assert not shm.lease_holds(fd)\n"
    )
    root = str(CHECKOUT)
    done = await anyio.run_process([sys.executable, "-c", code, root], check=False, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr.decode()


async def test_without_leases_everything_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, command: int, *rest: int) -> int:
        if command == shm.F_SETLEASE:
            raise OSError(errno.EINVAL, "no leases here")
        return fcntl.fcntl(fd, command, *rest)

    class Fake:
        F_RDLCK, F_WRLCK, F_UNLCK, F_SETOWN = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK, fcntl.F_SETOWN

    Fake.fcntl = staticmethod(refuse)  # type: ignore[attr-defined]
    async with opened(tmp_path) as store:
        monkeypatch.setattr(shm, "fcntl", Fake)
        name = await store.allocate(A, 4096)
        inode = out(store, name).stat().st_ino
        await store.adopt(A, [(name, 4096)])
        assert kept(store, name).stat().st_ino != inode


# -- grants --------------------------------------------------------------------------------------------------


async def test_a_granted_object_is_the_same_inode_and_goes_with_the_last_grant(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        name = await made(store)
        store.grant(B, [name])
        store.grant(B, [name])
        inside = store._places.inbox(B) / name
        assert inside.stat().st_ino == kept(store, name).stat().st_ino
        store.revoke(B, [name])
        assert inside.exists()
        store.revoke(B, [name])
        assert not inside.exists()


async def test_another_tenants_object_cannot_be_granted(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        name = await made(store)
        other = SandboxId("c")
        await store.register(other, TWO, quota=MIB, quota_name="p")
        with pytest.raises(SandboxError, match="another tenant"):
            store.grant(other, [name])
        assert not list(store._places.inbox(other).iterdir())


async def test_a_grant_keeps_an_object_that_its_last_holder_lets_go(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        name = await made(store)
        store.grant(B, [name])
        store.release(Value(None, (name,)))
        assert kept(store, name).exists()
        store.revoke(B, [name])
        assert not kept(store, name).exists()
        assert store.usage().bytes == 0


async def test_a_consumer_that_keeps_its_mapping_goes_on_being_counted(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        name = await made(store)
        store.grant(B, [name])
        fd = os.open(store._places.inbox(B) / name, os.O_RDONLY)
        mapping = mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        os.close(fd)
        store.release(Value(None, (name,)))
        store.revoke(B, [name])
        assert store.usage(ONE).bytes == 8192
        mapping.close()
        store._reaper.ask_again()
        assert store.usage(ONE).bytes == 0


async def test_a_maker_that_keeps_its_output_mapped_keeps_no_memory_of_ours(tmp_path: Path) -> None:
    """It was copied because it is still writable; the original is emptied, whoever has it mapped."""
    async with opened(tmp_path) as store:
        name = await store.allocate(A, 8192)
        fd = os.open(out(store, name), os.O_RDWR)
        await store.adopt(A, [(name, 8192)])
        assert os.fstat(fd).st_blocks == 0
        assert store.usage(ONE).bytes == 8192
        discarded = await store.allocate(A, 3 * MIB)
        other = os.open(out(store, discarded), os.O_RDWR)
        store.discard(A, discarded)
        with anyio.fail_after(60):
            while os.fstat(other).st_blocks:  # noqa: ASYNC110  (a thread empties it; nothing tells)
                await anyio.sleep(0.01)
        os.close(fd)
        os.close(other)


async def test_a_maker_that_keeps_an_adopted_output_open_goes_on_being_counted(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        name = await store.allocate(A, 8192)
        fd = os.open(out(store, name), os.O_RDONLY)
        await store.adopt(A, [(name, 8192)])
        assert is_leased(store, name)
        store.retain_objects([name])
        store.release(Value(None, (name,)))
        assert store.sandbox_bytes(A) == store.usage(ONE).bytes == 8192
        os.close(fd)
        store._reaper.ask_again()
        assert store.sandbox_bytes(A) == store.usage(ONE).bytes == 0


async def test_objects_outlive_their_producer(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        name = await made(store, b"z" * 5000)
        await store.unregister(A)
        store.grant(B, [name])
        assert (store._places.inbox(B) / name).read_bytes() == b"z" * 5000
        store.revoke(B, [name])
        store.release(Value(None, (name,)))
        assert store.usage() == store.usage(TWO)


async def test_an_input_that_comes_back_stays_the_object_it_is(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        name = await store.put(ONE, b"z" * 5000)
        store.grant(A, [name])
        await store.adopt(A, [(name, 5000)])
        store.retain_objects([name])
        store.revoke(A, [name])
        store.release(Value(None, (name,)))
        assert await store.read(name, 5000) == b"z" * 5000
        assert store.usage(ONE).bytes == 8192
        store.release(Value(None, (name,)))
        assert store.usage(ONE).bytes == 0


@pytest.mark.parametrize("lie", ["never granted", "granted to another", "granted no longer"])
async def test_an_object_that_a_sandbox_is_not_shown_is_not_its_to_name(tmp_path: Path, lie: str) -> None:
    async with opened(tmp_path) as store:
        name = await store.put(ONE, b"secret")
        if lie != "never granted":
            store.grant(B if lie == "granted to another" else A, [name])
        if lie == "granted no longer":
            store.revoke(A, [name])
        with pytest.raises(ProtocolViolationError, match="a file that it was not given"):
            await store.adopt(A, [(name, 6)])
        assert await store.read(name, 6) == b"secret"


@pytest.mark.parametrize("announced", [5, 7])
async def test_an_input_that_comes_back_with_another_size_is_refused(tmp_path: Path, announced: int) -> None:
    async with opened(tmp_path) as store:
        name = await store.put(ONE, b"secret")
        store.grant(A, [name])
        with pytest.raises(ProtocolViolationError, match="holds 6 bytes"):
            await store.adopt(A, [(name, announced)])


async def test_a_refused_answer_costs_nobody_the_input_that_it_named(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        name = await store.put(ONE, b"z" * 5000)
        store.grant(A, [name])
        with pytest.raises(ProtocolViolationError):
            await store.adopt(A, [(name, 5000), ("f" * 32, 1)])
        store.revoke(A, [name])
        assert await store.read(name, 5000) == b"z" * 5000


# -- quotas --------------------------------------------------------------------------------------------------


async def test_a_sandbox_over_its_cap_is_refused_with_limit_asked_and_used(tmp_path: Path) -> None:
    async with opened(tmp_path, quota=10 * MIB) as store:
        await store.allocate(A, 6 * MIB)
        with pytest.raises(
            QuotaError, match=r"cap 10 MiB \(policies/a.yaml:3\): asked 6 MiB, 6 MiB in use"
        ) as caught:
            await store.allocate(A, 6 * MIB)
        assert "raise 'shared_memory'" in str(caught.value)
        assert store.usage().bytes == 6 * MIB


async def test_an_impossible_size_is_refused_before_memory_is_touched(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        with pytest.raises(QuotaError):
            await store.allocate(A, 1 << 46)
        assert not list(store._places.outbox(A).iterdir())


async def test_a_tenants_quota_counts_all_its_sandboxes(tmp_path: Path) -> None:
    async with opened(tmp_path, StoreLimits(tenant_bytes=10 * MIB)) as store:
        await store.allocate(A, 6 * MIB)
        with pytest.raises(QuotaError, match="tenant 'one': shared memory quota 10 MiB"):
            await store.allocate(B, 6 * MIB)


async def test_a_cache_is_asked_to_let_go_before_a_quota_refuses(tmp_path: Path) -> None:
    async with opened(tmp_path, StoreLimits(tenant_bytes=10 * MIB)) as store:
        name = await made(store, b"c" * (8 * MIB))
        asked: list[tuple[TenantId, SandboxId | None, int]] = []

        def on_pressure(tenant: TenantId, sandbox: SandboxId | None, nbytes: int) -> None:
            asked.append((tenant, sandbox, nbytes))
            store.release(Value(None, (name,)))

        store.on_pressure = on_pressure
        await store.allocate(B, 6 * MIB)
        assert asked == [(ONE, None, 6 * MIB)]


async def test_the_number_of_open_outputs_is_bounded(tmp_path: Path) -> None:
    async with opened(tmp_path, StoreLimits(sandbox_files=3)) as store:
        for _ in range(3):
            await store.allocate(A, 0)
        with pytest.raises(QuotaError, match="at most 3"):
            await store.allocate(A, 0)


async def test_a_full_file_system_is_a_quota_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    async with opened(tmp_path) as store:
        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(QuotaError, match="full"):
            await store.allocate(A, 4096)
        assert store.usage().bytes == 0
        assert not list(store._places.outbox(A).iterdir())


async def test_published_and_discarded_files_are_counted_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        name = await store.allocate(A, 4096)
        store.discard(A, name)
        with pytest.raises(ProtocolViolationError):
            store.discard(A, name)
        kept_name = await made(store)
        assert store.usage().bytes == store.sandbox_bytes(A) == 8192
        store.release(Value(None, (kept_name,)))
        assert store.usage().bytes == store.sandbox_bytes(A) == 0


async def test_an_object_of_the_hosts_own_is_read_only_and_counted(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        name = await store.put(ONE, b'{"a": 1}')
        assert await store.read(name, 100) == b'{"a": 1}'
        assert kept(store, name).stat().st_mode & 0o777 == 0o444
        with pytest.raises(QuotaError):
            await store.read(name, 4)
        store.release(Value(None, (name,)))
        assert store.usage(ONE).bytes == 0


# -- life ----------------------------------------------------------------------------------------------------


async def test_one_instance_runs_once(tmp_path: Path) -> None:
    ours = places(tmp_path)
    async with TensorStore(ours):
        with pytest.raises(StartError, match="already runs"):
            async with TensorStore(ours):
                pass


async def test_what_a_killed_host_left_is_swept_at_the_next_start(tmp_path: Path) -> None:
    # A root of its own: any other test that starts at that moment would sweep the dead instance first.
    root_of_its_own = Path(tempfile.mkdtemp(prefix="ringfence-test-", dir="/dev/shm"))
    ours = replace(places(tmp_path), shm_root=root_of_its_own)
    code = (
        "import sys,os,anyio; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; from sandbox import TensorStore, Places\n"
        "async def main():\n"
        "    async with TensorStore(Places(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))) as s:\n"
        "        await s.put('one', b'x' * 3000000); os.kill(os.getpid(), 9)\n"
        "anyio.run(main)\n"
    )
    root = str(CHECKOUT)
    command = [sys.executable, "-c", code, root, ours.instance, str(tmp_path), str(root_of_its_own)]
    done = await anyio.run_process(command, check=False)
    assert done.returncode == -9
    assert list(ours.store.iterdir())
    async with TensorStore(ours) as store:
        assert not list(ours.store.iterdir())
        assert store.usage().bytes == 0
    assert not ours.shm.exists()
    await anyio.to_thread.run_sync(root_of_its_own.rmdir)


async def test_a_dead_instance_of_another_name_is_swept_and_a_live_one_is_not(tmp_path: Path) -> None:
    dead, live, ours = places(tmp_path), places(tmp_path), places(tmp_path)
    dead.store.mkdir(parents=True)
    (dead.shm_root / f"{dead.instance}.lock").touch()
    async with TensorStore(live), TensorStore(ours):
        assert not dead.shm.exists()
        assert live.store.exists()


async def test_leaving_closes_every_descriptor(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    async with opened(tmp_path) as store:
        await made(store)
        await store.allocate(A, 100)
        name = await made(store)
        store.grant(B, [name])
    assert len(os.listdir("/proc/self/fd")) <= before


def test_places_of_two_instances_do_not_meet(tmp_path: Path) -> None:
    one, two = Places("a", tmp_path), Places("b", tmp_path)
    assert one.shm != two.shm
    assert not one.store.is_relative_to(two.shm)


async def test_others_get_their_turn_while_many_small_files_are_adopted(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        names = [await store.allocate(A, 4096) for _ in range(200)]
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as group:
            group.start_soon(count)
            await anyio.lowlevel.checkpoint()
            before = turns
            await store.adopt(A, [(name, 4096) for name in names])
            assert turns - before >= 2
            group.cancel_scope.cancel()
        store.drop_unreferenced(names)
        assert store.usage(ONE).objects == 0


async def test_adopting_that_is_cancelled_between_files_leaves_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        names = [await store.allocate(A, 4096) for _ in range(200)]
        with anyio.CancelScope() as scope:
            scope.cancel()
            await store.adopt(A, [(name, 4096) for name in names])
        assert scope.cancelled_caught
        for name in names[64:]:
            store.discard(A, name)
        assert store.usage(ONE).objects == 0


async def test_a_refusal_waits_for_a_sandbox_that_is_about_to_let_go_of_what_it_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LETTING_GO_S", 30.0)
    async with opened(tmp_path, quota=3 * MIB) as store:
        name = await made(store, b"x" * 2 * MIB)
        store.grant(B, [name])
        fd = os.open(store._places.inbox(B) / name, os.O_RDONLY)
        store.revoke(B, [name])
        store.release(Value(None, (name,)))
        # When all else was tried: the moment in which the worker is still to be asked by its thread.
        store.on_pressure = lambda *_: asyncio.get_running_loop().call_soon(os.close, fd)  # type: ignore[assignment]
        assert await store.allocate(A, 2 * MIB)
        assert store.usage(ONE).bytes == 2 * MIB


async def test_a_refusal_waits_for_nobody_where_nothing_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room.anyio, "sleep", lambda _: pytest.fail("it waited"))
    async with opened(tmp_path, quota=3 * MIB) as store:
        await made(store, b"x" * 2 * MIB)
        with pytest.raises(QuotaError):
            await store.allocate(A, 2 * MIB)


async def test_a_sandbox_that_ends_while_its_refusal_waits_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, quota=3 * MIB) as store:
        name = await made(store, b"x" * 2 * MIB)
        store.grant(B, [name])
        fd = os.open(store._places.inbox(B) / name, os.O_RDONLY)
        store.revoke(B, [name])
        store.release(Value(None, (name,)))

        async def ended(_: float) -> None:
            await store.unregister(A)

        monkeypatch.setattr(room.anyio, "sleep", ended)
        with pytest.raises(SandboxError, match="has ended"):
            await store.allocate(A, 2 * MIB)
        os.close(fd)
