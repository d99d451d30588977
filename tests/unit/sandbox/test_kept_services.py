"""What a worker may ask of the host beside memory: whose state it gets, which files, and how often."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from policies import EffectivePolicy, ExtensionName, HostPath, SandboxId, TenantId, TenantPath
from runtime import wire
from sandbox import ProtocolViolationError, QuotaError, SandboxError, StoreLimits, TensorStore, services
from sandbox.logbook import Logbook
from sandbox.node_state import StateHolder
from sandbox.peer import RefusedError
from sandbox.resources import ResourceMissingError, ResourceRefusedError, ResourceShelf, _place
from sandbox.services import Services
from tests.contract.kit import places

pytestmark = pytest.mark.anyio
BOX, OTHER = SandboxId("box"), SandboxId("other")
TENANT, PACK = TenantId("local"), ExtensionName("pack")


class States:
    """Keeps everything; fails on demand."""

    def __init__(self) -> None:
        self.kept: dict[StateHolder, dict[str, Any]] = {}
        self.error: Exception | None = None

    async def read(self, holder: StateHolder) -> Mapping[str, Any]:
        return self.kept.get(holder, {})

    async def write(self, holder: StateHolder, values: Mapping[str, Any]) -> None:
        if self.error is not None:
            raise self.error
        self.kept.setdefault(holder, {}).update(values)

    async def delete(self, holder: StateHolder, names: Sequence[str]) -> None:
        for name in names:
            self.kept.get(holder, {}).pop(name, None)


def policy(*paths: TenantPath | HostPath) -> EffectivePolicy:
    return cast("EffectivePolicy", SimpleNamespace(paths=paths, source=lambda key: f"pack.yaml:{key}"))


def desk(states: States | None = None, running: Mapping[int, Any] | None = None) -> Services:
    calls = running or {3: (PACK, "7", "Node")}
    return Services(
        BOX,
        TENANT,
        policy(),
        cast("Any", None),
        Logbook(max_bytes=1 << 20, lines_per_s=10),
        None,
        lambda _: PACK,
        node_of_call=calls.get,
        states=states,
    )


# -- state -----------------------------------------------------------------------------------------------------------


async def test_the_state_is_that_of_the_call_whatever_else_the_worker_says() -> None:
    states = States()
    served = desk(states)
    await served.request(wire.STATE_SET, {"call": 3, "values": {"a": [1], "b": 2}})
    await served.request(wire.STATE_DELETE, {"call": 3, "names": ["b"]})
    assert states.kept == {StateHolder(TENANT, PACK, "7", "Node"): {"a": [1]}}
    assert await served.request(wire.STATE_GET, {"call": 3}) == {"values": {"a": [1]}}
    with pytest.raises(ProtocolViolationError, match="node_id"):
        await served.request(wire.STATE_GET, {"call": 3, "node_id": "8"})


async def test_a_call_that_does_not_run_has_no_state() -> None:
    with pytest.raises(RefusedError, match=r"call 4 does not run \(any more\)") as caught:
        await desk(States()).request(wire.STATE_GET, {"call": 4})
    assert caught.value.code == wire.NOT_ALLOWED


async def test_a_host_without_a_store_says_so() -> None:
    with pytest.raises(RefusedError, match="keeps no node state"):
        await desk(None).request(wire.STATE_GET, {"call": 3})


async def test_a_quota_is_an_answer_with_figure_and_advice() -> None:
    states = States()
    states.error = QuotaError("5 bytes, at most 4 may be", "keep less")
    with pytest.raises(RefusedError, match="5 bytes, at most 4 may be; keep less") as caught:
        await desk(states).request(wire.STATE_SET, {"call": 3, "values": {"a": 1}})
    assert caught.value.code == wire.QUOTA_EXCEEDED


@pytest.mark.parametrize(
    ("method", "params"),
    [
        (wire.STATE_SET, {"call": 3, "values": {str(n): n for n in range(wire.MAX_STATE_NAMES + 1)}}),
        (wire.STATE_SET, {"call": 3, "values": {"": 1}}),
        (wire.STATE_SET, {"call": 3, "values": {"x" * 257: 1}}),
        (wire.STATE_SET, {"call": True, "values": {}}),
        (wire.STATE_DELETE, {"call": 3, "names": ["a"] * (wire.MAX_STATE_NAMES + 1)}),
        (wire.STATE_GET, {"call": -1}),
        (wire.RESOURCE_GET, {"path": "relative"}),
        (wire.RESOURCE_GET, {"path": "/a\0b"}),
        (wire.RESOURCE_GET, {"path": "/" + "x" * 5000}),
        (wire.RESOURCE_GET, {"path": ["/a"]}),
    ],
)
async def test_a_malformed_request_breaks_the_protocol(method: str, params: dict[str, Any]) -> None:
    with pytest.raises(ProtocolViolationError):
        await desk(States()).request(method, params)


async def test_who_asks_too_often_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def note(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(services.anyio, "sleep", note)
    monkeypatch.setattr("sandbox.rates.time.monotonic", lambda: 0.0)
    served = desk(States())
    for _ in range(2 * services.STATES_PER_S + 200):
        await served.request(wire.STATE_GET, {"call": 3})
    assert waited[2 * services.STATES_PER_S - 1] == 0
    assert waited[-1] == pytest.approx(1.0)


# -- files -----------------------------------------------------------------------------------------------------------


def test_a_path_leads_where_the_innermost_mount_says(tmp_path: Path) -> None:
    seen = policy(
        TenantPath(tenant="models"),
        HostPath(host="/srv/big", mount="/app/models/big"),
        HostPath(host="/srv/one.safetensors", mount="/data/one.safetensors"),
        TenantPath(tenant="output", access="rw"),
    )

    own = "pack"

    def place(path: str) -> tuple[Path, str]:
        return _place(path, own, seen, tmp_path)

    assert place("/app/models/loras/a") == (tmp_path / "models", "loras/a")
    assert place("/app/models/big/a") == (Path("/srv/big"), "a")
    assert place("/app/models/bigger/a") == (tmp_path / "models", "bigger/a")
    assert place("/data/one.safetensors") == (Path("/srv"), "one.safetensors")
    assert place("/app/output/a") == (tmp_path / "output/pack", "a")
    assert place("/app/output/other/a") == (tmp_path / "output/pack", "other/a")
    for nowhere in ("/app/temp/a", "/srv/big/a", "/app/modelsX/a", "/"):
        with pytest.raises(
            ResourceRefusedError, match=r"the policy mounts nothing at .* \(pack.yaml:paths\)"
        ):
            place(nowhere)


def safetensors(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"w": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


@asynccontextmanager
async def shelf(
    tmp_path: Path, limits: StoreLimits | None = None
) -> AsyncIterator[tuple[ResourceShelf, TensorStore]]:
    ours = places(tmp_path)
    async with TensorStore(ours, limits) as store:
        for sandbox in (BOX, OTHER):
            await store.register(sandbox, TENANT, quota=1 << 20, quota_name="pack.yaml:1")
        yield ResourceShelf(store, ours), store


async def lend(lender: ResourceShelf, name: str, sandbox: SandboxId = BOX) -> Any:
    return await lender.lend(
        sandbox, TENANT, PACK, policy(TenantPath(tenant="models")), f"/app/models/{name}"
    )


def models(tmp_path: Path) -> Path:
    return tmp_path / "tenants" / TENANT / "models"


async def test_one_copy_serves_all_sandboxes_and_goes_with_the_last(tmp_path: Path) -> None:
    async with shelf(tmp_path) as (lender, store):
        safetensors(models(tmp_path) / "a", entry(), b"\0" * 8)
        lent: list[Any] = []

        async def borrow(sandbox: SandboxId) -> None:
            lent.append(await lend(lender, "a", sandbox))

        async with anyio.create_task_group() as group:
            for sandbox in (BOX, OTHER, BOX):
                group.start_soon(borrow, sandbox)
        assert len(set(lent)) == 1
        assert store.usage(TENANT).objects == 1
        lender.give_back(BOX)
        assert store.usage(TENANT).objects == 1
        assert not list(store._places.inbox(BOX).iterdir())
        lender.give_back(OTHER)
        assert store.usage(TENANT).objects == 0


@pytest.mark.parametrize(
    ("header", "data", "length", "said"),
    [
        (entry(), b"\0" * 7, None, "tensor 'w' does not lie in its 7 bytes of data"),
        (entry(shape=(3,)), b"\0" * 8, None, "tensor 'w' does not lie"),
        (entry(dtype="F99"), b"\0" * 8, None, "tensor 'w' does not lie"),
        (entry(dtype=["F32"]), b"\0" * 8, None, "tensor 'w' does not lie"),
        (entry(offsets=(8, 0)), b"\0" * 8, None, "tensor 'w' does not lie"),
        (entry(offsets=(-8, 0)), b"\0" * 8, None, "tensor 'w' does not lie"),
        (entry(shape=(2**47, 2**47)), b"\0" * 8, None, "tensor 'w' does not lie"),
        ({"w": 1}, b"", None, "tensor 'w' does not lie"),
        ([], b"", None, "its header is no object"),
        (b"{", b"", None, "its header is no JSON"),
        (b"[" * 100_000, b"", None, "its header is no JSON"),
        (b'{"w":1,"w":1}', b"", None, "its header is no JSON"),
        (b"{}", b"", 2**63, f"its header would have {2**63} bytes of 10"),
        (b"{}", b"", 3, "its header would have 3 bytes of 10"),
    ],
)
async def test_what_is_no_safetensors_file_takes_no_shared_memory(
    tmp_path: Path, header: Any, data: bytes, length: int | None, said: str
) -> None:
    async with shelf(tmp_path) as (lender, store):
        safetensors(models(tmp_path) / "a", header, data, length)
        with pytest.raises(ResourceRefusedError, match=said):
            await lend(lender, "a")
        assert store.usage().bytes == 0
        assert not lender._copies


async def test_a_file_over_the_tenants_quota_is_refused_before_it_is_copied(tmp_path: Path) -> None:
    async with shelf(tmp_path, StoreLimits(tenant_bytes=1 << 20)) as (lender, store):
        path = safetensors(models(tmp_path) / "a", entry(shape=(2**40,), offsets=(0, 2**42)))
        with path.open("r+b") as file:
            file.truncate(2**42 + 8 + len(json.dumps(entry(shape=(2**40,), offsets=(0, 2**42)))))
        with pytest.raises(
            QuotaError, match="tenant 'local': shared files would take 4 TiB, 768 KiB of its shared"
        ):
            await lend(lender, "a")
        assert store.usage().bytes == 0
        assert not lender._copies


async def test_borrowed_files_leave_room_for_results(tmp_path: Path) -> None:
    async with shelf(tmp_path, StoreLimits(tenant_bytes=1 << 20)) as (lender, store):
        size = 300 * 1024
        for name in ("a", "b", "c"):
            safetensors(models(tmp_path) / name, entry("U8", (size,), (0, size)), b"\0" * size)
        await lend(lender, "a")
        await lend(lender, "b", OTHER)
        with pytest.raises(QuotaError, match="shared files would take"):
            await lend(lender, "c")
        assert await lend(lender, "b")
        lender.give_back(OTHER)
        lender.give_back(BOX)
        assert await lend(lender, "c")
        assert store.usage(TENANT).objects == 1


async def test_a_full_store_is_refused_before_anything_is_copied(tmp_path: Path) -> None:
    async with shelf(tmp_path, StoreLimits(total_bytes=1 << 20)) as (lender, store):
        size = 2 << 20
        safetensors(models(tmp_path) / "a", entry("U8", (size,), (0, size)), b"\0" * size)
        with pytest.raises(QuotaError, match="shared memory of this host 1 MiB: asked 2 MiB"):
            await lend(lender, "a")
        assert store.usage().bytes == 0
        assert not lender._copies


async def test_a_file_that_is_not_there_and_a_link_are_told_apart(tmp_path: Path) -> None:
    async with shelf(tmp_path) as (lender, _):
        models(tmp_path).mkdir(parents=True)
        with pytest.raises(ResourceMissingError, match="there is no file '/app/models/a'"):
            await lend(lender, "a")
        (models(tmp_path) / "a").symlink_to("/etc/passwd")
        with pytest.raises(ResourceRefusedError, match="cannot be opened safely"):
            await lend(lender, "a")


async def test_of_an_ended_sandbox_nothing_is_left(tmp_path: Path) -> None:
    async with shelf(tmp_path) as (lender, store):
        safetensors(models(tmp_path) / "a", entry(), b"\0" * 8)
        await store.unregister(BOX)
        with pytest.raises(Exception, match="has ended"):
            await lend(lender, "a")
        assert store.usage().bytes == 0
        assert not lender._copies


async def test_a_file_that_is_copied_while_its_sandbox_ends_stays_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shelf(tmp_path) as (lender, store):
        safetensors(models(tmp_path) / "a", entry(), b"\0" * 8)
        copy = store.put_file

        async def slow(*told: Any) -> str:
            made = await copy(*told)
            lender.give_back(BOX)
            return made

        monkeypatch.setattr(store, "put_file", slow)
        with pytest.raises(SandboxError, match="the sandbox has ended"):
            await lend(lender, "a")
        assert store.usage(TENANT).bytes == 0
        assert not lender._copies
