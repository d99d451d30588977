"""Dead outputs that their maker fills again: only its own, only what nobody else could see, never for long."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from policies import SandboxId
from sandbox import (
    FastPath,
    ProtocolViolationError,
    QuotaError,
    StoreLimits,
    TensorStore,
    Value,
    shm,
    take_fast_paths,
)
from sandbox.kept_outputs import MOST_FILES, SMALLEST, KeptOutput, KeptOutputs
from sandbox.tensors import dead_outputs
from tests.unit.sandbox.test_tensors import MIB, ONE, TWO, A, B, is_leased, kept, made, opened, out

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("every_fast_path")]

DATA = b"x" * MIB


async def dead(store: TensorStore, data: bytes = DATA) -> int:
    """The inode of an output of A that nobody wants any more."""
    name = await made(store, data)
    inode = kept(store, name).stat().st_ino
    store.release(Value(None, (name,)))
    return inode


async def test_a_dead_output_is_filled_again_by_the_sandbox_that_made_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        inode = await dead(store)
        name = await store.allocate(A, MIB)
        assert out(store, name).stat().st_ino == inode
        assert store.usage(ONE).bytes == store.sandbox_bytes(A) == MIB
        fd = os.open(out(store, name), os.O_RDWR)
        os.pwrite(fd, b"y" * MIB, 0)
        os.close(fd)
        await store.adopt(A, [(name, MIB)])
        assert is_leased(store, name)
        assert kept(store, name).read_bytes() == b"y" * MIB
        assert kept(store, name).stat().st_mode & 0o777 == 0o444


async def test_no_other_sandbox_gets_the_pages(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        inode = await dead(store)
        name = await store.allocate(B, MIB)
        assert (store._places.outbox(B) / name).stat().st_ino != inode


async def test_what_another_sandbox_was_shown_is_never_filled_again(tmp_path: Path) -> None:
    """It may have kept a descriptor that no lease sees (O_PATH), and would read what is written next."""
    async with opened(tmp_path) as store:
        name = await made(store, DATA)
        store.grant(B, [name])
        path_only = os.open(store._places.inbox(B) / name, os.O_PATH)
        inode = kept(store, name).stat().st_ino
        store.revoke(B, [name])
        store.release(Value(None, (name,)))
        again = await store.allocate(A, MIB)
        assert out(store, again).stat().st_ino != inode
        os.close(path_only)


async def test_what_was_shown_to_its_maker_alone_is_filled_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        name = await made(store, DATA)
        inode = kept(store, name).stat().st_ino
        store.grant(A, [name])
        store.revoke(A, [name])
        store.release(Value(None, (name,)))
        assert out(store, await store.allocate(A, MIB)).stat().st_ino == inode


@pytest.mark.parametrize("when", ["when it dies", "before it is filled again"])
async def test_what_its_maker_has_mapped_is_not_written_over(tmp_path: Path, when: str) -> None:
    async with opened(tmp_path) as store:
        name = await made(store, DATA)
        fd = os.open(kept(store, name), os.O_RDONLY)
        mapping = mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ) if when == "when it dies" else None
        path_only = os.open(kept(store, name), os.O_PATH)
        os.close(fd)
        inode = kept(store, name).stat().st_ino
        store.release(Value(None, (name,)))
        if mapping is None:
            fd = os.open(f"/proc/self/fd/{path_only}", os.O_RDONLY)
            mapping = mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
            os.close(fd)
        again = await store.allocate(A, MIB)
        assert out(store, again).stat().st_ino != inode
        assert store.usage(ONE).bytes == 2 * MIB  # what is still mapped goes on being counted
        mapping.close()
        os.close(path_only)
        store._reaper.ask_again()
        assert store.usage(ONE).bytes == MIB


async def test_another_size_is_made_anew(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        inode = await dead(store)
        name = await store.allocate(A, MIB + 4096)
        assert out(store, name).stat().st_ino != inode
        assert out(store, name).stat().st_size == MIB + 4096


async def test_a_dead_output_gives_way_before_a_quota_refuses_and_before_a_cache_is_asked(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, quota=3 * MIB) as store:
        store.on_pressure = lambda *_: pytest.fail("a cache was asked")
        await dead(store)
        await store.allocate(A, 3 * MIB)
        store.on_pressure = lambda *_: None
        with pytest.raises(QuotaError):
            await store.allocate(A, 4096)


async def test_a_dead_output_gives_way_to_another_sandbox_of_the_tenant(tmp_path: Path) -> None:
    async with opened(tmp_path, StoreLimits(tenant_bytes=3 * MIB)) as store:
        await dead(store)
        await store.allocate(B, 3 * MIB)
        assert store.usage(ONE).bytes == 3 * MIB


async def test_a_dead_output_gives_way_when_shared_memory_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as store:
        await dead(store)
        real, full = os.posix_fallocate, [OSError(errno.ENOSPC, "full")]

        def fallocate(fd: int, at: int, nbytes: int) -> None:
            if full:
                raise full.pop()
            real(fd, at, nbytes)

        monkeypatch.setattr(os, "posix_fallocate", fallocate)
        await store.allocate(B, 2 * MIB)
        assert store.usage(ONE).bytes == 2 * MIB


async def test_a_dead_output_gives_way_when_descriptors_are_used_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as store:
        await dead(store)
        real, none_left = shm.create, [OSError(errno.EMFILE, "none left")]

        def create(path: Path, nbytes: int) -> shm.Made:
            if none_left:
                raise none_left.pop()
            return real(path, nbytes)

        monkeypatch.setattr(shm, "create", create)
        await store.allocate(B, 2 * MIB)
        assert not list(store._places.store.iterdir())


async def test_a_tenant_that_frees_memory_has_all_of_its_own_back_at_once(tmp_path: Path) -> None:
    other = SandboxId("c")
    async with opened(tmp_path) as store:
        await store.register(other, TWO, quota=1 << 30, quota_name="shared_memory")
        await dead(store, b"x" * 2 * MIB)
        theirs = await store.allocate(other, MIB)
        await store.adopt(other, [(theirs, MIB)])
        store.drop_unreferenced([theirs])
        held = await made(store, DATA)
        fd = os.open(kept(store, held), os.O_RDONLY)
        store.release(Value(None, (held,)))
        os.close(fd)  # let go of after it died: the store has not asked since
        await store.give_back(ONE)
        assert store.sandbox_bytes(A) == store.usage(ONE).bytes == 0
        assert [path.name for path in store._places.store.iterdir()] == [theirs]
        assert not store._reaper._work  # closed, too: the memory is there


@pytest.mark.parametrize("is_out", [False, True], ids=["in the store", "laid out"])
async def test_a_dead_output_is_not_kept_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_out: bool
) -> None:
    monkeypatch.setattr(dead_outputs, "OUTPUTS_KEPT_S", 0.02)
    async with opened(tmp_path) as store:
        await dead(store)
        if is_out:
            store.lay_out(A, [MIB])
        with anyio.fail_after(30):
            while list(store._places.store.iterdir()) or outbox(store):  # noqa: ASYNC110  (nothing tells)
                await anyio.sleep(0.01)
        assert store.sandbox_bytes(A) == 0


def outbox(store: TensorStore) -> list[Path]:
    return list(store._places.outbox(A).iterdir())


async def test_one_that_is_laid_out_is_what_the_next_request_gets(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        names = [await made(store, DATA) for _ in range(3)]
        for name in names:
            store.release(Value(None, (name,)))
        store.lay_out(A, [MIB, MIB, 2 * MIB])
        (file,) = outbox(store)
        assert file.name not in names
        assert file.stat().st_mode & 0o777 == 0o666
        assert store.sandbox_bytes(A) == 3 * MIB
        assert store.usage(ONE).bytes == store.usage().objects == 0
        store.lay_out(A, [MIB])
        assert outbox(store) == [file]
        assert await store.allocate(A, MIB) == file.name
        assert store.usage(ONE).bytes == MIB
        await store.adopt(A, [(file.name, MIB)])
        assert is_leased(store, file.name)
        assert await store.allocate(A, MIB) not in {file.name, *names}


async def test_one_that_is_laid_out_cannot_be_named_before_it_is_asked_for(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await dead(store)
        store.lay_out(A, [MIB])
        (file,) = outbox(store)
        with pytest.raises(ProtocolViolationError, match="not given"):
            await store.adopt(A, [(file.name, MIB)])
        with pytest.raises(ProtocolViolationError, match="not given"):
            store.discard(A, file.name)


async def test_one_that_is_laid_out_gives_way_and_is_emptied_whoever_has_it_open(tmp_path: Path) -> None:
    async with opened(tmp_path, quota=3 * MIB) as store:
        await dead(store)
        store.lay_out(A, [MIB])
        (file,) = outbox(store)
        fd = os.open(file, os.O_RDWR)
        name = await store.allocate(A, 3 * MIB)
        assert [path.name for path in outbox(store)] == [name]
        assert os.fstat(fd).st_size == 0
        assert store.sandbox_bytes(A) == 3 * MIB
        os.close(fd)


@pytest.mark.parametrize("is_out", [False, True], ids=["asked for", "laid out"])
async def test_it_is_heard_when_somebody_writes_to_what_was_filled_again(
    tmp_path: Path, *, is_out: bool
) -> None:
    async with opened(tmp_path) as store:
        told = anyio.Event()
        store.on_lease_break = lambda _: told.set()
        inode = await dead(store)
        if is_out:
            store.lay_out(A, [MIB])
        name = await store.allocate(A, MIB)
        await store.adopt(A, [(name, MIB)])
        assert kept(store, name).stat().st_ino == inode
        with pytest.raises(BlockingIOError):
            os.open(kept(store, name), os.O_RDWR | os.O_NONBLOCK)
        with anyio.fail_after(60):
            await told.wait()


async def test_nothing_is_laid_out_for_a_sandbox_that_has_ended_or_made_none(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        inode = await dead(store)
        store.lay_out(B, [MIB])
        assert not list(store._places.outbox(B).iterdir())
        store.lay_out(A, [MIB])
        assert outbox(store)[0].stat().st_ino == inode
        await store.unregister(A)
        store.lay_out(A, [MIB])
        assert store.usage(ONE).bytes == 0
        assert store._ledger.usage(ONE).objects == 0


async def test_one_that_its_maker_has_open_is_not_laid_out(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        name = await made(store, DATA)
        path_only = os.open(kept(store, name), os.O_PATH)
        store.release(Value(None, (name,)))
        fd = os.open(f"/proc/self/fd/{path_only}", os.O_RDONLY)
        store.lay_out(A, [MIB])
        assert not outbox(store)
        os.close(fd)
        os.close(path_only)


async def test_a_sandbox_that_ends_leaves_no_spare(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await dead(store)
        await store.unregister(A)
        assert store.usage(ONE).bytes == 0
        assert not list(store._places.store.iterdir())


async def test_none_is_kept_where_none_may_be(tmp_path: Path) -> None:
    async with opened(tmp_path, StoreLimits(kept_bytes=0)) as store:
        await dead(store)
        assert store.sandbox_bytes(A) == 0
        assert not list(store._places.store.iterdir())


async def test_none_is_kept_where_it_is_switched_off(tmp_path: Path) -> None:
    take_fast_paths(set(FastPath) - {FastPath.KEPT_OUTPUTS})
    async with opened(tmp_path) as store:
        await dead(store)
        assert store.sandbox_bytes(A) == 0
        assert not list(store._places.store.iterdir())


async def test_what_waits_is_charged_to_its_maker_and_is_no_usage_of_the_tenant(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        await dead(store)
        assert store.sandbox_bytes(A) == MIB
        assert store.usage(ONE).bytes == store.usage().objects == 0


async def test_a_copied_output_is_not_filled_again(tmp_path: Path) -> None:
    """Its maker may have the original mapped, or the kernel may not be able to tell."""
    async with opened(tmp_path) as store:
        name = await store.allocate(A, MIB)
        fd = os.open(out(store, name), os.O_RDWR)
        await store.adopt(A, [(name, MIB)])
        os.close(fd)
        store.retain_objects([name])
        store.release(Value(None, (name,)))
        assert store.usage(ONE).bytes == 0


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda path: os.truncate(path, 100), "it holds 100 bytes"),
        (lambda path: os.link(path, path.with_name("second")), "one name"),
    ],
)
def test_a_file_that_changed_is_not_filled_again(
    tmp_path: Path, change: Callable[[Path], None], match: str
) -> None:
    path = tmp_path / "old"
    fd, _ = shm.create(path, 8192)
    change(path)
    with pytest.raises(shm.FileRefusedError, match=match):
        shm.create_again(fd, 8192, path, tmp_path / "new")
    os.close(fd)


def test_what_may_be_kept_is_bounded_by_bytes_files_and_all_together() -> None:
    def output(sandbox: SandboxId, nbytes: int) -> KeptOutput:
        return KeptOutput(sandbox, ONE, "name", -1, nbytes, 0.0)

    kept = KeptOutputs(16 * MIB)
    assert not kept.wants(A, SMALLEST - 1)
    assert not kept.wants(A, 17 * MIB)
    kept.keep(output(A, 16 * MIB))
    assert not kept.wants(A, MIB)
    assert kept.wants(B, MIB)
    for number in range(3):
        kept.keep(output(SandboxId(f"c{number}"), 16 * MIB))
    assert not kept.wants(B, MIB)
    many = KeptOutputs(1 << 40)
    for _ in range(MOST_FILES):
        many.keep(output(A, SMALLEST))
    assert not many.wants(A, SMALLEST)
