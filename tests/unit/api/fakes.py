"""A stand-in for ``Engine``: queues for real, runs nothing by itself, and says what a test tells it to say."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from api.settings import Settings
from engine import (
    Consent,
    Counts,
    Difference,
    GitSource,
    MediaRefusedError,
    NewPrompt,
    NodeType,
    Origin,
    PackFiles,
    PreviewWish,
    PromptInvalidError,
    PromptRequest,
    QueueItem,
    QueueSnapshot,
    SqlStorage,
    Submitted,
    object_info,
)
from engine.events import Event, PromptEnded, PromptStarted, PromptSucceeded, QueueChanged
from engine.extension_errors import ExtensionExistsError, ExtensionUnknownError, RoutesOffError
from engine.extension_records import ExtensionInfo
from engine.extension_supply import Audit, Verified
from engine.prompt import split_secrets
from engine.route_paths import RoutePath, path_parts, read_route
from engine.streams import EventHub, EventStream
from policies import ExtensionName, SandboxId, TenantId
from sandbox import (
    AdvisoryDatabaseError,
    DatabaseFacts,
    Finding,
    HttpRequest,
    HttpResponse,
    LogLine,
    PoolState,
    SandboxInfo,
    SandboxState,
)
from tests.unit.api.fake_sockets import FakeSockets
from tests.unit.extensions.stand_ins import described

PROMPT = {"1": {"class_type": "Blur", "inputs": {}, "_meta": {"title": "Blur it"}}}


class FakeExtensions:
    """Keeps what it was given; the first file's content is read, as a real one would."""

    def __init__(self) -> None:
        self.sites = FakeSites()
        self.supply = FakeSupply(self)
        self.asked_for: list[tuple[str | None, bool]] = []
        """The pin, and whether packages were to be resolved anew."""
        self.infos: dict[tuple[TenantId, str], ExtensionInfo] = {}
        self.sources: list[Path | GitSource] = []
        self.files: dict[str, bytes] = {}
        self.policies: list[bytes] = []
        self.by_operator: list[bool] = []
        self.types: dict[str, Any] = {}
        self.fails_with: BaseException | None = None
        self.packs: list[PackFiles] = []
        self.differences: list[Difference] = []
        """What an update differs in."""

    async def node_types(self, tenant: TenantId) -> dict[str, Any]:
        return self.types

    async def add(
        self,
        tenant: TenantId,
        source: Path | GitSource,
        *,
        name: str | None = None,
        policy_file: Path | None = None,
        by_operator: bool = True,
        pin: str | None = None,
        progress: Callable[[str], None] = lambda _line: None,
    ) -> ExtensionInfo:
        assert name is not None
        self.by_operator.append(by_operator)
        self.asked_for.append((pin, False))
        if (tenant, name) in self.infos:
            raise ExtensionExistsError(f"extension '{name}' was added already", hint="reload it")
        if policy_file is not None:
            self.policies.append(await anyio.to_thread.run_sync(policy_file.read_bytes))
        progress("copying")
        return await anyio.to_thread.run_sync(self._take, tenant, source, name)

    async def reload(
        self,
        tenant: TenantId,
        name: ExtensionName,
        progress: Callable[[str], None] = lambda _line: None,
        *,
        by_operator: bool = True,
        pin: str | None = None,
        upgrade: bool = False,
        consent: Consent | None = None,
    ) -> ExtensionInfo:
        self.by_operator.append(by_operator)
        self.asked_for.append((pin, upgrade))
        progress("reading again")
        if consent is not None:
            await self.get(tenant, name)
            consent.check(name, "x", self.differences)
        location = (await self.get(tenant, name)).source.location
        return await anyio.to_thread.run_sync(self._take, tenant, Path(location), name)

    async def remove(self, tenant: TenantId, name: ExtensionName) -> None:
        await self.get(tenant, name)
        del self.infos[tenant, name]

    async def list(self, tenant: TenantId) -> list[ExtensionInfo]:
        return [info for key, info in self.infos.items() if key[0] == tenant]

    async def get(self, tenant: TenantId, name: ExtensionName) -> ExtensionInfo:
        try:
            return self.infos[tenant, name]
        except KeyError:
            raise ExtensionUnknownError(f"there is no extension '{name}'") from None

    async def pack_files(self, tenant: TenantId) -> list[PackFiles]:
        return self.packs

    def _take(self, tenant: TenantId, source: Path | GitSource, name: str) -> ExtensionInfo:
        self.sources.append(source)
        if self.fails_with is not None:
            raise self.fails_with
        if isinstance(source, GitSource):
            origin = Origin(kind="git", location=source.url)
        else:
            origin = Origin(kind="file" if source.is_file() else "directory", location=str(source))
            paths = [source] if source.is_file() else [p for p in source.rglob("*") if p.is_file()]
            self.files = {
                p.name if source.is_file() else p.relative_to(source).as_posix(): p.read_bytes()
                for p in paths
            }
        info = ExtensionInfo(
            name=ExtensionName(name), tenant=tenant, state="ready", sandbox="cold", api="v1", node_count=2,
            content_hash="x", environment_key=None, lock_digest=None, policy_digest=None, source=origin,
            error=None, asks=(), notes=(), core=False, added_ms=1, updated_ms=1,
        )  # fmt: skip
        self.infos[tenant, name] = info
        return info


class FakeSupply:
    """Says of each extension what a test put there."""

    def __init__(self, extensions: FakeExtensions) -> None:
        self._extensions = extensions
        self.problems: tuple[str, ...] = ()
        self.findings: tuple[Finding, ...] | None = None

    async def verify(self, tenant: TenantId, name: ExtensionName) -> Verified:
        info = await self._extensions.get(tenant, name)
        return Verified(name, info.content_hash, None, None, self.problems)

    async def bill_of_materials(self, tenant: TenantId, name: ExtensionName) -> str:
        await self._extensions.get(tenant, name)
        return '{"bomFormat": "CycloneDX"}'

    async def audit(self, tenant: TenantId, name: ExtensionName) -> Audit:
        await self._extensions.get(tenant, name)
        if self.findings is None:
            raise AdvisoryDatabaseError(
                "no database of known vulnerabilities is set", hint="RINGFENCE_OSV_DIR"
            )
        facts = DatabaseFacts(Path("/secret/osv"), 7, 0, "2024-05-01T10:00:00Z")
        return Audit(name, 3, self.findings, facts)

    async def counts(self, tenant: TenantId) -> dict[str, dict[str, int]]:
        levels = Counter(finding.level for finding in self.findings or ())
        return {name: levels for key, name in self._extensions.infos if key == tenant and levels}


class FakeSites:
    """Routes of packs as a test declares them."""

    def __init__(self) -> None:
        self.routes: dict[tuple[TenantId, ExtensionName], list[RoutePath]] = {}
        self.off: set[ExtensionName] = set()

    def add(self, extension: str, method: str, path: str, tenant: str = "local") -> None:
        route = read_route(method, path)
        assert route is not None
        self.routes.setdefault((TenantId(tenant), ExtensionName(extension)), []).append(route)

    async def serving(self, tenant: TenantId, method: str, path: str) -> tuple[ExtensionName, str] | None:
        forms = [path, path.removeprefix("/api")] if path.startswith("/api/") else [path]
        for (owner, extension), routes in self.routes.items():
            for form in forms:
                if owner == tenant and any(route.answers(method, path_parts(form)) for route in routes):
                    return extension, form
        return None

    def node_replacements(self, tenant: TenantId) -> dict[str, list[dict[str, Any]]]:
        return {"Old": [{"new_node_id": "Blur", "old_node_id": "Old"}]} if tenant == "local" else {}

    async def check(self, tenant: TenantId, extension: ExtensionName) -> None:
        if (tenant, extension) not in self.routes:
            raise ExtensionUnknownError(f"there is no extension '{extension}'")
        if extension in self.off:
            raise RoutesOffError("its policy does not allow them")


class FakeSandboxes:
    def __init__(self) -> None:
        self.infos: list[SandboxInfo] = []
        self.stopped: list[SandboxId] = []
        self.forgotten: list[TenantId] = []
        self.pool = PoolState(
            size=2,
            ready=1,
            starting=0,
            taken=3,
            missed=4,
            without=((TenantId("local"), "blur", "no memory"),),
        )

    def run(self, sandbox: str, tenant: str, extension: str) -> None:
        self.infos.append(
            SandboxInfo(
                id=SandboxId(sandbox), tenant=TenantId(tenant), extensions=(ExtensionName(extension),),
                state=SandboxState.WARM, started=datetime.now(UTC), policy_digest="d", container="c0ffee",
                memory_used=100 * 2**20, memory_limit=2**30, pids_used=3, pids_limit=256,
            )
        )  # fmt: skip

    async def refresh(self) -> None:
        pass

    def list(self, tenant: TenantId | None = None) -> list[SandboxInfo]:
        return [info for info in self.infos if tenant in (None, info.tenant)]

    async def logs(self, tenant: TenantId, sandbox: SandboxId, limit: int = 1000) -> list[LogLine]:
        return [LogLine(at=datetime.now(UTC), stream="stdout", text=f"hello from {sandbox} of {tenant}")][
            :limit
        ]

    def forget(self, tenant: TenantId) -> None:
        self.forgotten.append(tenant)

    async def stop(self, tenant: TenantId, sandbox: SandboxId) -> bool:
        self.stopped.append(sandbox)
        return True


class FakeMedia:
    """Makes no picture: answers with what it was asked for."""

    def __init__(self) -> None:
        self.previews: list[tuple[TenantId, tuple[str, str, str], PreviewWish]] = []
        self.masks: list[tuple[TenantId, tuple[str, str, str], bytes]] = []
        self.covers: list[tuple[TenantId, bytes]] = []

    async def preview(
        self, tenant: TenantId, place: tuple[str, str, str], wish: PreviewWish
    ) -> tuple[bytes, str]:
        self.previews.append((tenant, place, wish))
        return f"{wish.format or 'png'} {wish.quality} {wish.channel}".encode(), "image/webp"

    async def mask(
        self, tenant: TenantId, place: tuple[str, str, str], read: Callable[[], Awaitable[bytes]]
    ) -> bytes:
        self.masks.append((tenant, place, await read()))
        return b"merged"

    async def cover(self, tenant: TenantId, read: Callable[[], Awaitable[bytes]]) -> tuple[bytes, str]:
        data = await read()
        self.covers.append((tenant, data))
        if data == b"no picture":
            raise MediaRefusedError("it cannot be read as a picture")
        return b"cover " + data, "image/webp"


def node_type(class_type: str, **info: Any) -> NodeType:
    """A node of extension blur whose declaration has what JSON has not."""
    inputs = {"required": {"x": ["FLOAT", {"max": float("inf")}]}}
    return NodeType(described(class_type, **{"input": inputs, **info}), ExtensionName("blur"))


class FakeEngine:
    """Fulfils what api/ uses of ``Engine``."""

    def __init__(self, storage: SqlStorage, settings: Settings) -> None:
        self.storage = storage
        self.settings = settings
        self.extensions = FakeExtensions()
        self.sandboxes = FakeSandboxes()
        self.hub = EventHub(64)
        self.invalid: PromptInvalidError | None = None
        self.outputs = ["1"]
        self.requests: list[PromptRequest] = []
        self.interrupts: list[tuple[TenantId, str | None]] = []
        self.freed: list[tuple[bool, bool]] = []
        self.running_nodes: dict[tuple[TenantId, str], str] = {}
        self.on_prompt: Callable[[Any], Any] | None = None
        self.asked: list[tuple[TenantId, ExtensionName, HttpRequest, bytes]] = []
        self.route_answer: Any = (200, (("content-type", "application/json"),), [b"{}"])
        self.on_submit: Callable[[TenantId, str], Any] | None = None
        self.sockets = FakeSockets()
        self.open_socket = self.sockets.open
        self.catalogues: dict[TenantId, Mapping[str, NodeType]] = {}

    async def hook_prompt(self, tenant: TenantId, body: Any) -> Any:
        return body if self.on_prompt is None else self.on_prompt(body)

    @asynccontextmanager
    async def ask_route(
        self, tenant: TenantId, extension: ExtensionName, request: HttpRequest, body: AsyncIterator[bytes]
    ) -> AsyncIterator[HttpResponse]:
        sent = b"".join([piece async for piece in body])
        self.asked.append((tenant, extension, request, sent))
        if isinstance(self.route_answer, Exception):
            raise self.route_answer
        status, headers, pieces = self.route_answer

        async def answer() -> AsyncIterator[bytes]:
            for piece in pieces:
                if isinstance(piece, Exception):
                    raise piece
                yield piece

        yield HttpResponse(status, headers, answer())

    async def submit(self, tenant: TenantId, request: PromptRequest) -> Submitted:
        self.requests.append(request)
        if self.invalid is not None:
            raise self.invalid
        shown, secrets = split_secrets(request.extra_data)
        if request.client_id is not None:
            shown["client_id"] = request.client_id
        shown["create_time"] = 1000 + len(self.requests)
        new = NewPrompt(
            tenant, request.prompt_id or f"p{len(self.requests)}", request.prompt, shown, self.outputs,
            request.number, request.front, secrets,
        )  # fmt: skip
        row = await self.storage.enqueue(new, limit=self.settings.queue_limit)
        await self.queue_changed(tenant)
        if self.on_submit is not None:
            await self.on_submit(tenant, row.prompt_id)
        return Submitted(row.prompt_id, row.number, {})

    async def queue_changed(self, tenant: TenantId) -> None:
        self.say(QueueChanged(tenant, None, await self.storage.remaining(tenant)))

    def say(self, event: Event) -> None:
        self.hub.publish(event)

    async def run_one(self, tenant: TenantId, outputs: Mapping[str, Any] | None = None, **status: Any) -> str:
        """Run the tenant's next prompt to its end, with the events of a successful run."""
        row = await self.storage.claim_next(tenant)
        assert row is not None
        client = row.extra_data.get("client_id")
        now = time.time_ns() // 1_000_000
        await self.queue_changed(tenant)
        self.say(PromptStarted(tenant, client, row.prompt_id, now))
        self.say(PromptSucceeded(tenant, client, row.prompt_id, now + 5))
        await self.finish(tenant, row.prompt_id, outputs, start=now, **status)
        await self.queue_changed(tenant)
        self.say(PromptEnded(tenant, client, row.prompt_id, now + 6))
        return row.prompt_id

    async def finish(
        self, tenant: TenantId, prompt_id: str, outputs: Mapping[str, Any] | None = None, *, start: int = 1000,
        end: str = "execution_success", error: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        rows = [row for row in await self.storage.running(tenant) if row.prompt_id == prompt_id]
        prompt, extra = (rows[0].prompt, rows[0].extra_data) if rows else (PROMPT, {"create_time": start})
        ran = {
            "extension": "blur",
            "sandbox": "blur-1",
            "class_type": "Blur",
            "duration_ms": 12.5,
            "cached": False,
        }
        entry = {
            "prompt": [0, prompt_id, prompt, extra, ["1"]],
            "outputs": outputs or {},
            "status": {
                "status_str": "success" if end == "execution_success" else "error",
                "completed": end == "execution_success",
                "messages": [
                    ["execution_start", {"prompt_id": prompt_id, "timestamp": start}],
                    [end, {"prompt_id": prompt_id, "timestamp": start + 5, **(error or {})}],
                ],
            },
            "meta": {
                "1": {"node_id": "1", "display_node": "1", "parent_node": None, "real_node_id": "1"}
            },
            "ringfence": {"nodes": {"1": ran}},
        }  # fmt: skip
        await self.storage.finish(tenant, prompt_id, entry)

    async def queue(self, tenant: TenantId) -> QueueSnapshot:
        pending, running = await self.storage.pending(tenant), await self.storage.running(tenant)
        claimed = {row.prompt_id for row in running}
        pending = [row for row in pending if row.prompt_id not in claimed]
        return QueueSnapshot(tuple(map(_item, running)), tuple(map(_item, pending)))

    async def remaining(self, tenant: TenantId) -> int:
        return await self.storage.remaining(tenant)

    async def counts(self, tenant: TenantId) -> Counts:
        running, waiting = await self.storage.running(tenant), await self.storage.pending_count(tenant)
        return Counts(len(running), waiting, *await self.storage.history_size(tenant))

    async def delete_pending(self, tenant: TenantId, prompt_ids: Collection[str]) -> int:
        return len(await self.storage.remove(tenant, prompt_ids))

    async def clear_pending(self, tenant: TenantId) -> int:
        return len(await self.storage.remove(tenant, None))

    async def interrupt(self, tenant: TenantId, prompt_id: str | None = None) -> bool:
        self.interrupts.append((tenant, prompt_id))
        return True

    async def cancel(self, tenant: TenantId, prompt_id: str) -> bool:
        if await self.storage.remove(tenant, [prompt_id]):
            return True
        running = any(row.prompt_id == prompt_id for row in await self.storage.running(tenant))
        return running and await self.interrupt(tenant, prompt_id)

    async def history(
        self, tenant: TenantId, *, max_items: int | None = None, offset: int | None = None
    ) -> Any:
        return await self.storage.history(tenant, max_items=max_items, offset=offset)

    async def history_entry(self, tenant: TenantId, prompt_id: str) -> Any:
        return await self.storage.history_entry(tenant, prompt_id)

    async def delete_history(self, tenant: TenantId, prompt_ids: Collection[str]) -> int:
        return await self.storage.delete_history(tenant, prompt_ids)

    async def clear_history(self, tenant: TenantId) -> int:
        return await self.storage.delete_history(tenant, None)

    async def node_replacements(self, tenant: TenantId) -> dict[str, Any]:
        return {}

    async def catalogue(self, tenant: TenantId) -> Mapping[str, NodeType]:
        return self.catalogues.setdefault(tenant, {"Blur": node_type("Blur")})

    async def object_info(self, tenant: TenantId, class_type: str | None = None) -> dict[str, Any]:
        return object_info(await self.catalogue(tenant), class_type)

    async def free(self, tenant: TenantId, *, unload_models: bool, free_memory: bool) -> None:
        self.freed.append((unload_models, free_memory))

    def subscribe(self, tenant: TenantId) -> EventStream:
        return self.hub.subscribe(tenant)

    def running_node(self, tenant: TenantId, client_id: str) -> str | None:
        return self.running_nodes.get((tenant, client_id))


def _item(row: Any) -> QueueItem:
    return QueueItem(row.number, row.prompt_id, row.prompt, row.extra_data, row.outputs)


__all__ = ["PROMPT", "FakeEngine", "FakeMedia"]
