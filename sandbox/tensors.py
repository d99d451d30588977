"""The object store in /dev/shm: who may hold how much, who may see what, and when bytes are given back.

An object is a file that nobody can write any more: a tensor, bytes, a long string or a large JSON value. It is born
in a sandbox's outbox (``allocate``), becomes the host's (``adopt``) and is seen by a sandbox only while granted. The
store never looks into an object and knows no dtype; what the kernel does for it stands in ``shm.py``.

Every method must be called on the event loop. Work that depends on a file's size runs in threads.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread

from policies import SandboxId, TenantId
from sandbox import shm
from sandbox.accounts import Account, Ledger, StoreLimits, StoreUsage, charge
from sandbox.calls import Value
from sandbox.errors import ProtocolViolationError, QuotaError, SandboxError
from sandbox.figures import human_bytes
from sandbox.instance import InstanceLock
from sandbox.kept_outputs import KeptOutput, KeptOutputs
from sandbox.patience import remove_tree
from sandbox.places import Places
from sandbox.reaper import INLINE_BYTES, Reaper

log = logging.getLogger(__name__)

ADOPTED_AT_ONCE: Final = 64
COPIED_AT_ONCE: Final = 4 * 1024 * 1024
"""Files, and bytes of copies, that ``adopt`` handles before others get a turn: 2 to 5 ms."""

OUTPUTS_KEPT_S: Final = 10.0
"""How long a dead output waits to be filled again."""

LETTING_GO_S: Final = 0.5
"""How long a refusal waits for sandboxes to let go of what they read: gVisor does so a moment later, when asked."""

_ASK_AGAIN_S: Final = 0.01

T = TypeVar("T")


@dataclass(slots=True)
class _Object:
    id: str
    tenant: TenantId
    producer: SandboxId | None
    nbytes: int
    fd: int
    leased: bool
    references: int = 0
    lost: bool = False
    seen_by_others: bool = False
    holders: set[SandboxId] = field(default_factory=set)
    # sandboxes that may have it open: whoever it was granted to, and its maker


@dataclass(slots=True)
class _Box:
    tenant: TenantId
    inbox: Path
    outbox: Path
    account: Account
    zero_copy: bool
    files: dict[str, tuple[int, int]] = field(default_factory=dict)  # name -> (descriptor, bytes)
    pending: int = 0
    grants: Counter[str] = field(default_factory=Counter)


class TensorStore:
    """All objects of one instance; async context manager.

    ``on_lease_break`` is called with a sandbox that opened a file of its own which the host had adopted: end it.
    ``on_pressure(tenant, sandbox, nbytes)`` is called before a quota refuses, so that a cache can let go of values
    (``sandbox`` is set when that sandbox's own cap is the one in the way). ``may_adopt`` off copies every output, for
    comparison (``benchmarks/tensor_trip.py``); results are the same.
    """

    def __init__(self, places: Places, limits: StoreLimits | None = None, *, may_adopt: bool = True) -> None:
        self._may_adopt = may_adopt
        self._places = places
        self._shelf = str(places.store)
        self._limits = limits or StoreLimits()
        self._objects: dict[str, _Object] = {}
        self._boxes: dict[SandboxId, _Box] = {}
        self._ledger = Ledger(self._limits)
        self._reaper = Reaper()
        self._kept = KeptOutputs(self._limits.kept_bytes)
        self._has_kept = anyio.Event()
        self._huge: dict[int, int] = {}
        """By the descriptor of a file that a sandbox may fill: bytes in huge pages. Said anew for each new file."""
        self._lock = InstanceLock(places)
        self._stack = AsyncExitStack()
        self.on_lease_break: Callable[[SandboxId], None] = lambda _sandbox: None
        self.on_pressure: Callable[[TenantId, SandboxId | None, int], None] = lambda *_: None

    # -- life ----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Take the instance lock and sweep what a dead host left.

        Raises:
            StartError: another process runs this instance.
        """
        await anyio.to_thread.run_sync(self._lock.acquire)
        try:
            group = await self._stack.enter_async_context(anyio.create_task_group())
            group.start_soon(self._watch_leases)
            group.start_soon(self._reaper.run)
            group.start_soon(self._age_kept)
        except BaseException:
            await anyio.to_thread.run_sync(self._lock.release)
            raise
        self._group = group
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._group.cancel_scope.cancel()
        await self._stack.__aexit__(None, None, None)
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._close)

    # -- sandboxes -----------------------------------------------------------------------------------------------

    async def register(
        self, sandbox: SandboxId, tenant: TenantId, *, quota: int, quota_name: str, zero_copy: bool = True
    ) -> None:
        """Make the sandbox's two directories.

        ``quota`` caps its live outputs; ``quota_name`` says in an error which line sets it. Without ``zero_copy``
        every output is copied: for sandboxes that could pin pages (GPU) or whose runtime keeps files open (gVisor).
        """
        inbox, outbox = self._places.inbox(sandbox), self._places.outbox(sandbox)

        def make() -> None:
            for directory in (inbox, outbox):
                directory.mkdir(parents=True, mode=0o755)
                directory.chmod(0o755)  # whatever our umask is: the sandbox reads it, and cannot change it

        await anyio.to_thread.run_sync(make)
        self._boxes[sandbox] = _Box(tenant, inbox, outbox, Account(quota, quota_name), zero_copy)

    async def unregister(self, sandbox: SandboxId) -> None:
        """Forget a sandbox that no longer runs: its unpublished files go, its objects stay with who holds them.

        Only call it when no process of the sandbox is left: its leases are given up here.
        """
        box = self._boxes.pop(sandbox, None)
        if box is None:
            return
        for name, (fd, nbytes) in box.files.items():
            self._ledger.subtract(box.tenant, None, nbytes)
            self._discard_file(box.outbox / name, fd, nbytes)
        self._drop_kept(lambda output: output.sandbox == sandbox)
        for known in list(self._objects.values()):
            known.holders.discard(sandbox)
            if known.producer == sandbox:
                known.producer = None
                if known.lost:
                    self._forget(known)
                elif known.leased:
                    # Nobody is left who could have an open in flight, so the lease has nothing more to say.
                    known.leased = False
                    os.close(known.fd)
                    known.fd = -1
        self._reaper.forget_sandbox(sandbox)
        await anyio.to_thread.run_sync(remove_tree, box.inbox.parent)

    # -- outputs: allocate, publish or discard --------------------------------------------------------------------

    async def allocate(self, sandbox: SandboxId, nbytes: int) -> str:
        """Make a file of ``nbytes`` in the sandbox's outbox and return its name.

        Raises:
            QuotaError: a cap refuses, before any memory is touched.
        """
        box = self._box(sandbox)
        if len(box.files) + box.pending >= self._limits.sandbox_files:
            raise QuotaError(
                f"{len(box.files)} output files are open; at most {self._limits.sandbox_files} may be",
                "publish or discard some before asking for more",
            )
        again = self.allocate_again(sandbox, nbytes)
        if again is not None:
            return again
        name = secrets.token_hex(16)
        await self._check_quota(box.tenant, sandbox, nbytes)
        self._ledger.add(box.tenant, box.account, nbytes)
        box.pending += 1
        fd = -1
        try:
            path = box.outbox / name
            fd, huge = await self._with_room(nbytes, lambda: shm.create(path, nbytes))
            self._huge[fd] = huge
            if self._boxes.get(sandbox) is not box:
                self._discard_file(path, fd, nbytes)
                raise QuotaError("the sandbox ended while it asked for memory")
        except BaseException as error:
            self._ledger.subtract(box.tenant, box.account, nbytes)
            if isinstance(error, OSError):
                raise self._full(error, nbytes) from error
            raise
        finally:
            box.pending -= 1
        box.files[name] = (fd, nbytes)
        return name

    def allocate_again(self, sandbox: SandboxId, nbytes: int) -> str | None:
        """``allocate`` where a dead output of this sandbox can be filled again, at once; None: there is none."""
        box = self._boxes.get(sandbox)
        if box is None or len(box.files) + box.pending >= self._limits.sandbox_files:
            return None
        name = secrets.token_hex(16)
        fd = self._kept_again(sandbox, f"{box.outbox}/{name}", nbytes)
        if fd is None:
            return None
        box.files[name] = (fd, nbytes)
        return name

    def offer(self, sandbox: SandboxId, nbytes: int) -> str | None:
        """``allocate_again`` where as much again could be had without it: an offered file gives way to nobody."""
        box = self._boxes.get(sandbox)
        if box is None or self._ledger.refusal(box.tenant, box.account, nbytes) is not None:
            return None
        return self.allocate_again(sandbox, nbytes)

    def has_allocated(self, sandbox: SandboxId, name: str) -> bool:
        """Whether a file of that name was allocated and is neither adopted nor discarded yet."""
        box = self._boxes.get(sandbox)
        return box is not None and name in box.files

    def huge_bytes(self, sandbox: SandboxId, name: str) -> int:
        """How many bytes of a file that was just allocated lie in huge pages, from the first on, as far as we know."""
        fd, _ = self._box(sandbox).files[name]
        return self._huge.get(fd, 0)

    def discard(self, sandbox: SandboxId, name: str) -> None:
        """Remove an allocated file that will not be published.

        Raises:
            ProtocolViolationError: there is no such file of this sandbox.
        """
        box = self._box(sandbox)
        fd, nbytes = self._take(box, name)
        self._ledger.subtract(box.tenant, box.account, nbytes)
        self._discard_file(box.outbox / name, fd, nbytes)

    async def take_bytes(self, sandbox: SandboxId, name: str, nbytes: int) -> bytes:
        """Read a small allocated file (a preview) and remove it.

        Raises:
            ProtocolViolationError: no such file, or it is shorter than ``nbytes``.
        """
        box = self._box(sandbox)
        fd, allocated = self._take(box, name)
        try:
            if nbytes > allocated:
                raise ProtocolViolationError(f"file {name} holds {allocated} bytes, announced were {nbytes}")
            return await _sized(nbytes, lambda: shm.read(fd, nbytes))
        except shm.FileRefusedError as error:
            raise ProtocolViolationError(f"file {name}: {error}") from error
        finally:
            self._ledger.subtract(box.tenant, box.account, allocated)
            self._discard_file(box.outbox / name, fd, allocated)

    async def adopt(self, sandbox: SandboxId, files: Iterable[tuple[str, int]]) -> None:
        """Take over published files ``(name, announced bytes)``; afterwards each is an object without a reference.

        A name of an object that the sandbox is granted at this moment stands for that object, which stays as it is.

        All or none: when one is refused, the others are dropped. Call ``retain`` before anything else is awaited.
        Others get a turn between many files, never after the last.

        Raises:
            ProtocolViolationError: a file was never allocated, or was resized, punched or linked elsewhere.
            QuotaError: a copy was needed and does not fit.
        """
        box = self._box(sandbox)
        adopted: list[_Object] = []
        files_at_once = bytes_at_once = 0
        try:
            for name, announced in files:
                if files_at_once >= ADOPTED_AT_ONCE or bytes_at_once > COPIED_AT_ONCE:
                    files_at_once = bytes_at_once = 0
                    await anyio.lowlevel.checkpoint()
                if name not in box.files and box.grants.get(name):
                    self._check_handed_on(name, announced)
                    continue
                fd, nbytes = self._take(box, name)
                try:
                    known = await self._adopt_one(sandbox, box, name, fd, nbytes, announced)
                except BaseException:
                    self._ledger.subtract(box.tenant, box.account, nbytes)
                    self._discard_file(box.outbox / name, fd, nbytes)
                    raise
                self._objects[known.id] = known
                adopted.append(known)
                files_at_once += 1
                bytes_at_once += 0 if known.leased else nbytes
        except BaseException:
            for known in adopted:
                self._forget(known)
            raise

    def _check_handed_on(self, name: str, announced: int) -> None:
        """An input that is granted right now came back: it is an object already, and nobody can write to it."""
        nbytes = self._known(name).nbytes
        if announced != nbytes:
            raise ProtocolViolationError(f"input {name} holds {nbytes} bytes, announced were {announced}")

    async def _adopt_one(
        self, sandbox: SandboxId, box: _Box, name: str, fd: int, nbytes: int, announced: int
    ) -> _Object:
        # As text: a path object costs more to make than any of what the kernel does here.
        source, target = f"{box.outbox}/{name}", f"{self._shelf}/{name}"
        try:
            if announced != nbytes:
                raise shm.FileRefusedError(f"{nbytes} bytes were allocated, announced were {announced}")
            if self._may_adopt and box.zero_copy and shm.freeze(fd):
                shm.check_extent(fd, nbytes)
                os.rename(source, target)  # noqa: PTH104  (one syscall on tmpfs, and blockbuster knows this place)
                return _Object(name, box.tenant, sandbox, nbytes, fd, leased=True, holders={sandbox})
            shm.check_extent(fd, nbytes)
            copied = await self._with_room(nbytes, lambda: shm.copy(fd, Path(target), nbytes))
        except shm.FileRefusedError as error:
            raise ProtocolViolationError(f"output file {name}: {error}") from error
        except OSError as error:
            raise self._full(error, nbytes) from error
        os.close(copied)
        self._discard_file(Path(source), fd, nbytes)
        return _Object(name, box.tenant, sandbox, nbytes, -1, leased=False)

    # -- objects ---------------------------------------------------------------------------------------------------

    async def put(self, tenant: TenantId, data: bytes) -> str:
        """Make an object of the host's own (a large JSON value, a long string); the caller holds one reference.

        Raises:
            QuotaError: the tenant's quota refuses.
        """
        nbytes = len(data)
        await self._check_quota(tenant, None, nbytes)
        self._ledger.add(tenant, None, nbytes)
        name = secrets.token_hex(16)
        path = self._places.store / name
        try:
            os.close(await self._with_room(nbytes, lambda: shm.write(path, data)))
        except BaseException as error:
            self._ledger.subtract(tenant, None, nbytes)
            if isinstance(error, OSError):
                raise self._full(error, nbytes) from error
            raise
        self._objects[name] = _Object(name, tenant, None, nbytes, -1, leased=False, references=1)
        return name

    async def put_file(self, tenant: TenantId, source: int, nbytes: int) -> str:
        """Make an object from the first ``nbytes`` bytes of an open file; the caller holds one reference.

        Raises:
            QuotaError: the tenant's quota refuses, before anything is copied.
            SandboxError: the file is shorter, or cannot be read.
        """
        await self._check_quota(tenant, None, nbytes)
        self._ledger.add(tenant, None, nbytes)
        name = secrets.token_hex(16)
        path = self._places.store / name
        try:
            os.close(await self._with_room(nbytes, lambda: shm.copy(source, path, nbytes)))
        except BaseException as error:
            self._ledger.subtract(tenant, None, nbytes)
            if isinstance(error, shm.FileRefusedError):
                raise SandboxError(f"the file changed while it was read: {error}", "try again") from error
            if isinstance(error, OSError):
                raise self._full(error, nbytes) from error
            raise
        self._objects[name] = _Object(name, tenant, None, nbytes, -1, leased=False, references=1)
        return name

    async def read(self, object_id: str, limit: int) -> bytes:
        """The bytes of an object.

        Raises:
            QuotaError: it is larger than ``limit``.
            SandboxError: there is no such object.
        """
        known = self._known(object_id)
        if known.nbytes > limit:
            raise QuotaError(f"a value of {human_bytes(known.nbytes)} is over {human_bytes(limit)}")
        path = self._places.store / object_id

        def load() -> bytes:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                return shm.read(fd, known.nbytes)
            finally:
                os.close(fd)

        return await _sized(known.nbytes, load)

    def retain(self, value: Value) -> None:
        """Take another reference to each object of ``value``."""
        self.retain_objects(value.objects)

    def retain_objects(self, objects: Iterable[str]) -> None:
        """Take another reference to each object."""
        for known in [self._known(object_id) for object_id in objects]:  # all or none
            known.references += 1

    def release(self, value: Value) -> None:
        """Give back one reference to each object of ``value``; what nobody holds any more is freed."""
        for object_id in value.objects:
            known = self._objects.get(object_id)
            if known is None:
                continue  # lost with its producer
            known.references -= 1
            if known.references <= 0:
                self._forget(known)

    def drop_unreferenced(self, objects: Iterable[str]) -> None:
        """Free adopted objects that turned out not to be wanted."""
        for object_id in objects:
            known = self._objects.get(object_id)
            if known is not None and known.references <= 0:
                self._forget(known)

    async def give_back(self, tenant: TenantId) -> None:
        """Free what of a tenant nobody refers to: dead outputs that wait to be filled again, and what sandboxes held
        on to and have let go of since. The memory is free when this returns."""
        self._drop_kept(lambda output: output.tenant == tenant)
        self._reaper.ask_again()
        await self._reaper.finish()

    def grant(self, sandbox: SandboxId, objects: Sequence[str]) -> None:
        """Let a sandbox read objects, by their id as file name, until each grant is revoked.

        Raises:
            SandboxError: an object is gone, or belongs to another tenant.
        """
        box = self._box(sandbox)
        granted: list[str] = []
        try:
            for object_id in objects:
                known = self._known(object_id)
                if known.tenant != box.tenant:
                    raise SandboxError(f"object {object_id} belongs to another tenant")
                if not box.grants[object_id]:
                    os.link(f"{self._shelf}/{object_id}", f"{box.inbox}/{object_id}")
                box.grants[object_id] += 1
                known.holders.add(sandbox)
                known.seen_by_others |= sandbox != known.producer
                known.references += 1  # a release while the node runs must not pull it away
                granted.append(object_id)
        except BaseException:
            self.revoke(sandbox, granted)
            raise

    def revoke(self, sandbox: SandboxId, objects: Iterable[str]) -> None:
        """Take grants back; the name goes with the last one. What the sandbox has mapped it may still read."""
        box = self._boxes.get(sandbox)
        for object_id in objects:
            if box is not None and box.grants[object_id] > 0:
                box.grants[object_id] -= 1
                if not box.grants[object_id]:
                    del box.grants[object_id]
                    with suppress(FileNotFoundError):
                        os.unlink(f"{box.inbox}/{object_id}")  # noqa: PTH108  (as in ``_adopt_one``)
            self.release(Value(None, (object_id,)))

    @property
    def limits(self) -> StoreLimits:
        """The caps that hold here."""
        return self._limits

    # -- figures ---------------------------------------------------------------------------------------------------

    def usage(self, tenant: TenantId | None = None) -> StoreUsage:
        """What a tenant (or, without one, everybody) holds, outputs in the making included.

        Without dead outputs that wait to be filled again: they give way to whoever asks.
        """
        booked, (nbytes, files) = self._ledger.usage(tenant), self._kept.held(tenant)
        return StoreUsage(booked.bytes - nbytes, booked.objects - files)

    def sandbox_bytes(self, sandbox: SandboxId) -> int:
        """Live outputs of a sandbox."""
        box = self._boxes.get(sandbox)
        return box.account.used if box else 0

    # -- inside ------------------------------------------------------------------------------------------------------

    def _box(self, sandbox: SandboxId) -> _Box:
        try:
            return self._boxes[sandbox]
        except KeyError:
            raise SandboxError(f"sandbox {sandbox} has ended") from None

    def _known(self, object_id: str) -> _Object:
        known = self._objects.get(object_id)
        if known is None or known.lost:
            raise SandboxError(f"object {object_id} is gone", "run the node that made it again")
        return known

    @staticmethod
    def _take(box: _Box, name: str) -> tuple[int, int]:
        try:
            return box.files.pop(name)
        except KeyError:
            raise ProtocolViolationError(f"it named a file that it was not given: {name!r:.80}") from None

    async def _check_quota(self, tenant: TenantId, sandbox: SandboxId | None, nbytes: int) -> None:
        """Nothing is awaited between the last look and the return: what was found free is free."""
        account = self._box(sandbox).account if sandbox is not None else None
        refusal = self._ledger.refusal(tenant, account, nbytes)
        if refusal and self._reaper.has_lingering:
            self._reaper.ask_again()
            refusal = self._ledger.refusal(tenant, account, nbytes)
        by_host = refusal is not None and refusal.by_host
        if refusal and self._drop_kept(lambda output: by_host or output.tenant == tenant):
            refusal = self._ledger.refusal(tenant, account, nbytes)
        if refusal:
            self.on_pressure(tenant, sandbox if refusal.by_sandbox else None, charge(nbytes))
            self._drop_kept(lambda output: output.tenant == tenant)  # what was let go just now
            refusal = self._ledger.refusal(tenant, account, nbytes)
        until = time.monotonic() + LETTING_GO_S
        while refusal and self._reaper.has_lingering and time.monotonic() < until:
            await anyio.sleep(_ASK_AGAIN_S)
            if sandbox is not None:
                self._box(sandbox)  # it may have ended meanwhile
            self._reaper.ask_again()
            refusal = self._ledger.refusal(tenant, account, nbytes)
        if refusal:
            raise refusal.error

    def _full(self, error: OSError, nbytes: int) -> SandboxError:
        if error.errno == errno.ENOSPC:
            return QuotaError(
                f"shared memory of this machine is full: asked {human_bytes(nbytes)}",
                "enlarge /dev/shm (mount -o remount,size=...) or lower the quotas",
            )
        if error.errno == errno.EMFILE:
            return QuotaError("this host has no file descriptors left", "raise its limit (ulimit -n)")
        return SandboxError(f"shared memory failed: {error.strerror}")

    def _forget(self, known: _Object) -> None:
        """The last reference is gone: free it, unless a sandbox still has it mapped."""
        if self._objects.pop(known.id, None) is None:
            return
        if self._keep(known):
            return
        path = self._places.store / known.id
        if known.fd < 0:
            known.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        path.unlink(missing_ok=True)
        known.leased = False
        box = self._boxes.get(known.producer) if known.producer else None
        account = box.account if box else None
        self._reaper.release(
            known.fd,
            known.nbytes,
            known.holders,
            lambda: self._ledger.subtract(known.tenant, account, known.nbytes),
        )

    # -- dead outputs that are filled again ----------------------------------------------------------------------

    def _keep(self, known: _Object) -> bool:
        """Keep a dead object for its maker to fill again: only what no other sandbox ever saw, and nobody has open."""
        sandbox = known.producer
        if (
            sandbox is None
            or not known.leased
            or known.lost
            or known.seen_by_others
            or sandbox not in self._boxes
            or not self._kept.wants(sandbox, known.nbytes)
            or shm.is_open_elsewhere(known.fd)
        ):
            return False
        known.leased = False  # the question ended it
        now = time.monotonic()
        self._kept.keep(KeptOutput(sandbox, known.tenant, known.id, known.fd, known.nbytes, now))
        self._has_kept.set()
        return True

    def _kept_again(self, sandbox: SandboxId, path: str, nbytes: int) -> int | None:
        """A dead output of this sandbox under a new name, to be filled again; it is on the books already."""
        while output := self._kept.take(sandbox, nbytes):
            try:
                shm.create_again(output.fd, nbytes, f"{self._shelf}/{output.name}", path)
            except (shm.FileRefusedError, OSError) as error:
                log.debug("an output of %s is not filled again: %s", sandbox, error)
                self._free_kept(output)
            else:
                return output.fd
        return None

    def _drop_kept(self, which: Callable[[KeptOutput], bool]) -> bool:
        """Whether there were any."""
        dropped = list(self._kept.drop(which))
        for output in dropped:
            self._free_kept(output)
        return bool(dropped)

    def _free_kept(self, output: KeptOutput) -> None:
        (self._places.store / output.name).unlink(missing_ok=True)
        box = self._boxes.get(output.sandbox)
        account = box.account if box else None
        self._reaper.release(
            output.fd,
            output.nbytes,
            {output.sandbox},
            lambda: self._ledger.subtract(output.tenant, account, output.nbytes),
        )

    async def _age_kept(self) -> None:
        while True:
            await self._has_kept.wait()
            self._has_kept = anyio.Event()
            while self._kept:
                await anyio.sleep(OUTPUTS_KEPT_S / 2)
                oldest = time.monotonic() - OUTPUTS_KEPT_S
                self._drop_kept(lambda output: output.since < oldest)  # noqa: B023  (asked at once)

    async def _with_room(self, nbytes: int, work: Callable[[], T]) -> T:
        """Run ``work``, which makes a file; once more without kept outputs, should memory or descriptors be used up."""
        try:
            return await _sized(nbytes, work)
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EMFILE} or not self._drop_kept(lambda _: True):
                raise
        await self._reaper.finish()
        return await _sized(nbytes, work)

    def _discard_file(self, path: Path, fd: int, nbytes: int) -> None:
        try:
            path.unlink(missing_ok=True)
        except (
            OSError
        ) as error:  # something else stands in its place, which no sandbox should be able to put there
            log.warning("what lies where an output was cannot be removed: %s", error.strerror)
        self._reaper.destroy(fd, nbytes)

    async def _watch_leases(self) -> None:
        with anyio.open_signal_receiver(shm.BREAK_SIGNAL) as signals:
            async for _ in signals:
                self._check_leases()

    def _check_leases(self) -> None:
        for known in list(self._objects.values()):
            if known.leased and not known.lost and not shm.lease_holds(known.fd):
                known.lost = True
                log.error("sandbox %s opened an adopted output for writing; it is ended", known.producer)
                if known.producer is not None:
                    self.on_lease_break(known.producer)

    def _close(self) -> None:
        for box in self._boxes.values():
            for fd, _ in box.files.values():
                os.close(fd)
        for known in self._objects.values():
            if known.fd >= 0:
                os.close(known.fd)
        for output in self._kept.drop(lambda _: True):
            (self._places.store / output.name).unlink(missing_ok=True)
            os.close(output.fd)
        self._reaper.close()
        self._objects.clear()
        self._boxes.clear()
        self._lock.release()


async def _sized(nbytes: int, work: Callable[[], T]) -> T:
    """Run ``work`` here when it is small, else in a thread."""
    if nbytes <= INLINE_BYTES:
        return work()
    # Not abandoned when cancelled: half-made files would belong to nobody, and the size bounds the wait.
    return await anyio.to_thread.run_sync(work)
