"""Files of weights that sandboxes share: found by policy, checked, copied once into the object store, lent out.

A sandbox names a file by its path inside; which file of this machine that is follows from the policy's mounts and
nothing else. The host reads the header (bounded JSON) of its own copy's source and copies bytes; it knows no tensor.
One copy serves all sandboxes of a tenant, lives while one of them lives, and is charged to the tenant.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from policies import (
    EffectivePolicy,
    HostPath,
    PathEscapeError,
    SandboxId,
    TenantId,
    TenantPath,
    open_beneath,
    safe_text,
)
from runtime import wire
from sandbox.calls import Value
from sandbox.errors import ProtocolViolationError, QuotaError, SandboxError
from sandbox.figures import human_bytes
from sandbox.hostile_json import parse
from sandbox.places import Places
from sandbox.tensors import TensorStore

MAX_HEADER: Final = 8 * 1024 * 1024
MAX_LENT: Final = 1_024
"""Files lent to one sandbox at once."""
COPIES_AT_ONCE: Final = 4
"""Of all sandboxes together; each of them has one at a time, so none can keep the others waiting for long."""
SHARE: Final = 0.75
"""Of a tenant's shared memory quota, what borrowed files may take: results need room beside them."""
_LENGTH: Final = struct.Struct("<Q")
_DTYPE_BITS: Final = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
    "C64": 64,
}  # fmt: skip


class ResourceMissingError(SandboxError):
    """There is no such file."""


class ResourceRefusedError(SandboxError):
    """The policy mounts nothing there, or the file is none that can be shared."""


@dataclass(frozen=True, slots=True)
class Lent:
    """What a sandbox got: the name in its in directory, and the bytes of it."""

    file: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class _Version:
    """One content of one file, for one tenant."""

    tenant: TenantId
    device: int
    inode: int
    nbytes: int
    modified_ns: int
    changed_ns: int


@dataclass(slots=True)
class _Copy:
    """The store's object of a version, from the moment that somebody begins to make it."""

    making: anyio.Lock = field(default_factory=anyio.Lock)
    object_id: str | None = None
    borrowers: set[SandboxId] = field(default_factory=set)
    waiting: int = 0


class ResourceShelf:
    """Every lent file of this host."""

    def __init__(self, store: TensorStore, places: Places) -> None:
        self._store = store
        self._places = places
        self._copies: dict[_Version, _Copy] = {}
        self._turns: dict[SandboxId, anyio.Lock] = {}
        self._copying = anyio.Semaphore(COPIES_AT_ONCE)

    async def lend(
        self,
        sandbox: SandboxId,
        tenant: TenantId,
        own: str,
        policy: EffectivePolicy,
        path: str,
    ) -> Lent:
        """Let a sandbox read the safetensors file that it sees at ``path``, until it ends.

        ``own`` is its folder where the policy gives it one of its own (``policies.own_folder``).

        Raises:
            ResourceMissingError: there is no such file.
            ResourceRefusedError: the policy mounts nothing there, or it is no whole safetensors file.
            QuotaError: the tenant's shared memory is full.
        """
        root, relative = _place(path, own, policy, self._places.tenant(tenant))
        async with self._turns.setdefault(sandbox, anyio.Lock()):
            return await self._lend(sandbox, tenant, root, relative, path)

    async def _lend(self, sandbox: SandboxId, tenant: TenantId, root: Path, relative: str, path: str) -> Lent:
        fd = await anyio.to_thread.run_sync(_open, root, relative, path)
        try:
            version = _version(tenant, fd)
            copy = self._copies.setdefault(version, _Copy())
            copy.waiting += 1
            try:
                async with copy.making:
                    await self._fill(copy, version, fd, path)
                self._hand_over(copy, sandbox)
            finally:
                copy.waiting -= 1
                self._tidy(version, copy)
        finally:
            os.close(fd)
        assert copy.object_id is not None  # noqa: S101 - lent, so it is there
        return Lent(copy.object_id, version.nbytes)

    def give_back(self, sandbox: SandboxId) -> None:
        """A sandbox has ended (or is about to): everything that it borrowed."""
        self._turns.pop(sandbox, None)
        for version, copy in list(self._copies.items()):
            if sandbox in copy.borrowers:
                copy.borrowers.discard(sandbox)
                if copy.object_id is not None:
                    self._store.revoke(sandbox, [copy.object_id])
                self._tidy(version, copy)

    def lent(self, sandbox: SandboxId) -> int:
        """How many files a sandbox has borrowed."""
        return sum(sandbox in copy.borrowers for copy in self._copies.values())

    async def _fill(self, copy: _Copy, version: _Version, fd: int, path: str) -> None:
        if copy.object_id is not None:
            return
        await anyio.to_thread.run_sync(_check_header, fd, version.nbytes, path)
        self._check_share(version)
        async with self._copying:
            copy.object_id = await self._store.put_file(version.tenant, fd, version.nbytes)

    def _check_share(self, version: _Version) -> None:
        used = sum(known.nbytes for known in self._copies if known.tenant == version.tenant)
        allowed = int(SHARE * self._store.limits.tenant_bytes)
        if used > allowed:  # this one is among them
            raise QuotaError(
                f"tenant '{version.tenant}': shared files would take {human_bytes(used)}, "
                f"{human_bytes(allowed)} of its shared memory quota may be",
                "stop sandboxes that hold some, or raise the tenant's quota",
            )

    def _hand_over(self, copy: _Copy, sandbox: SandboxId) -> None:
        if sandbox in copy.borrowers or copy.object_id is None:
            return
        if sandbox not in self._turns:  # given back while the copy was made: nobody would give it back again
            raise SandboxError("the sandbox has ended")
        if self.lent(sandbox) >= MAX_LENT:
            raise QuotaError(
                f"this sandbox has borrowed {MAX_LENT} files, the most allowed", "use fewer resources at once"
            )
        self._store.grant(sandbox, [copy.object_id])
        copy.borrowers.add(sandbox)

    def _tidy(self, version: _Version, copy: _Copy) -> None:
        """Nobody uses it, nobody waits for it: the bytes go."""
        if copy.borrowers or copy.waiting:
            return
        self._copies.pop(version, None)
        if copy.object_id is not None:
            self._store.release(Value(None, (copy.object_id,)))


def _place(path: str, own: str, policy: EffectivePolicy, tenant_root: Path) -> tuple[Path, str]:
    """The directory that the policy mounts over ``path``, as ``launcher/mounts.py`` does, and the path below it."""
    mounts: dict[str, Path] = {}
    for entry in policy.paths:
        if isinstance(entry, HostPath):
            mounts[entry.mount] = Path(entry.host)
        elif isinstance(entry, TenantPath):
            place = entry.tenant if entry.scope == "tenant" else f"{entry.tenant}/{own}"
            mounts[f"{wire.APP_DIRECTORY}/{entry.tenant}"] = tenant_root / place
    # The innermost mount is the one that the sandbox sees.
    for target in sorted(mounts, key=len, reverse=True):
        if path == target:
            return mounts[target].parent, mounts[target].name
        if path.startswith(target + "/"):
            return mounts[target], path[len(target) + 1 :]
    raise ResourceRefusedError(
        f"the policy mounts nothing at {safe_text(path, 300)!r} ({policy.source('paths')})",
        "let 'paths' in the extension's policy name 'models' or the file's directory",
    )


def _open(root: Path, relative: str, path: str) -> int:
    shown = repr(safe_text(path, 300))
    try:
        return open_beneath(root, relative)
    except FileNotFoundError:
        raise ResourceMissingError(f"there is no file {shown}") from None
    except PathEscapeError as error:
        raise ResourceRefusedError(f"the file {shown} is not shared: {error.message}", error.hint) from None
    except OSError as error:
        raise ResourceRefusedError(f"the file {shown} cannot be read: {error.strerror}") from None


def _version(tenant: TenantId, fd: int) -> _Version:
    status = os.fstat(fd)
    return _Version(
        tenant, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )


def _check_header(fd: int, nbytes: int, path: str) -> None:
    """See that a file is a whole safetensors file: what is none is not copied into shared memory."""
    shown = repr(safe_text(path, 300))
    head = os.pread(fd, _LENGTH.size, 0)
    if len(head) < _LENGTH.size:
        raise ResourceRefusedError(f"the file {shown} is no safetensors file: it has {nbytes} bytes")
    (length,) = _LENGTH.unpack(head)
    if length > min(MAX_HEADER, nbytes - _LENGTH.size):
        raise ResourceRefusedError(
            f"the file {shown} is no safetensors file: its header would have {length} bytes of {nbytes}; "
            f"at most {human_bytes(MAX_HEADER)} are read"
        )
    try:
        tree = parse(os.pread(fd, length, _LENGTH.size))
    except ProtocolViolationError:
        raise ResourceRefusedError(
            f"the file {shown} is no safetensors file: its header is no JSON"
        ) from None
    if not isinstance(tree, dict):
        raise ResourceRefusedError(f"the file {shown} is no safetensors file: its header is no object")
    data = nbytes - _LENGTH.size - length
    for name, entry in tree.items():
        if name != "__metadata__" and not _is_tensor(entry, data):
            raise ResourceRefusedError(
                f"the file {shown} is no whole safetensors file: tensor {safe_text(name, 100)!r} does not lie in its "
                f"{data} bytes of data"
            )


def _is_tensor(entry: object, data: int) -> bool:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        return False
    shape, offsets = entry["shape"], entry["data_offsets"]
    bits = _DTYPE_BITS.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if bits is None or not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        return False
    begin, end = offsets
    return bool(begin <= end <= data and math.prod(shape) * bits // 8 == end - begin)


def _are_counts(numbers: object) -> bool:
    return (
        isinstance(numbers, list)
        and len(numbers) <= wire.MAX_DEPTH
        and all(type(number) is int and 0 <= number < 2**48 for number in numbers)
    )
