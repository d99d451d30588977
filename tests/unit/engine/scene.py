"""Shared by the engine's tests: a few node classes, and one way to run a prompt and hear what was said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import anyio

from engine import CacheMode, Engine, EngineLimits, PromptRequest, QuotaBook, Storage, Submitted
from engine import events as ev
from engine.testing import FakeNode, FakeSessions, MemoryStorage, Tensor, until_ended
from policies import LOCAL_TENANT, TenantId, Where, usual_place

JSON = Any
CLIENT = "client"


def prompt(**nodes: tuple[Any, ...]) -> dict[str, JSON]:
    """``prompt(a=("Add", {"x": 1}))``; an underscore in front of an id is dropped, so ``_1`` is node "1"."""
    return {
        name.removeprefix("_"): {"class_type": entry[0], "inputs": dict(entry[1]) if len(entry) > 1 else {}}
        for name, entry in nodes.items()
    }


CONST = FakeNode("Const", lambda v: (v,), {"v": ["INT", {"min": -1000, "max": 1000}]}, outputs=("INT",))
ADD = FakeNode("Add", lambda a, b: (a + b,), {"a": ["INT", {}], "b": ["INT", {}]}, outputs=("INT",))
SHOW = FakeNode(
    "Show", lambda x: {"ui": {"x": [x]}, "result": ()}, {"x": ["*", {}]}, outputs=(), output_node=True
)
SINK = FakeNode("Sink", lambda x: (), {"x": ["*", {}]}, outputs=(), output_node=True)
IMAGE = FakeNode("Image", lambda v: (Tensor(v),), {"v": ["INT", {}]}, outputs=("IMAGE",))
BASICS = (CONST, ADD, SHOW, SINK, IMAGE)


class Stage:
    """An engine over fake sandboxes and everything it says."""

    def __init__(
        self,
        *nodes: FakeNode,
        cache: str = "classic",
        limits: EngineLimits | None = None,
        storage: Storage | None = None,
        quotas: QuotaBook | None = None,
        where: Where = usual_place,
    ) -> None:
        self.sessions = FakeSessions(*BASICS, *nodes)
        self.storage = storage or MemoryStorage()
        self.engine: Engine = self.sessions.engine(
            storage=self.storage, cache_mode=CacheMode.parse(cache), limits=limits, quotas=quotas, where=where
        )

    async def __aenter__(self) -> Self:
        await self.engine.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.engine.__aexit__(*exc)
        assert not self.sessions.store.references, "values are still held after the engine closed"

    async def submit(
        self, graph: Mapping[str, JSON], tenant: TenantId = LOCAL_TENANT, **fields: Any
    ) -> Submitted:
        fields.setdefault("client_id", CLIENT)
        return await self.engine.submit(tenant, PromptRequest(prompt=graph, **fields))

    async def run(
        self, graph: Mapping[str, JSON], tenant: TenantId = LOCAL_TENANT, **fields: Any
    ) -> dict[str, JSON]:
        """The history entry of a prompt."""
        submitted = await self.submit(graph, tenant, **fields)
        entry: dict[str, JSON] = await until_ended(self.engine, tenant, submitted.prompt_id)
        return entry

    async def outputs(self, graph: Mapping[str, JSON], **fields: Any) -> dict[str, JSON]:
        entry = await self.run(graph, **fields)
        assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
        outputs: dict[str, JSON] = entry["outputs"]
        return outputs

    async def error(self, graph: Mapping[str, JSON], **fields: Any) -> dict[str, JSON]:
        entry = await self.run(graph, **fields)
        name, data = entry["status"]["messages"][-1]
        assert name == "execution_error"
        assert entry["status"]["status_str"] == "error"
        assert entry["status"]["completed"] is False
        details: dict[str, JSON] = data
        return details

    async def said(self, graph: Mapping[str, JSON], **fields: Any) -> list[str]:
        """What a client hears of a prompt, one short line an event."""
        with anyio.fail_after(60):
            async with self.engine.subscribe(LOCAL_TENANT) as events:
                await self.submit(graph, **fields)
                lines = []
                async for event in events:
                    lines.append(line(event))
                    if isinstance(event, ev.PromptEnded):
                        return lines
        raise AssertionError("the stream ended")


def line(event: ev.Event) -> str:
    match event:
        case ev.QueueChanged():
            return f"status {event.remaining}"
        case ev.PromptStarted():
            return "execution_start"
        case ev.NodesCached():
            return f"execution_cached {' '.join(event.nodes)}".strip()
        case ev.NodeStarted():
            return f"executing {event.node_id}" + (
                "" if event.display_id == event.node_id else f" shown by {event.display_id}"
            )
        case ev.ProgressChanged():
            states = " ".join(
                f"{node_id}:{state.state}" + ("" if state.max == 1 else f"({state.value:g}/{state.max:g})")
                for node_id, state in event.nodes.items()
            )
            return f"progress_state {states}" + (" +progress" if event.legacy else "")
        case ev.NodeExecuted():
            shown = None if event.output is None else dict(event.output)
            return f"executed {event.node_id} {shown}"
        case ev.NodeBlocked():
            return f"execution_error {event.node_id} blocked: {event.message}"
        case ev.PromptSucceeded():
            return "execution_success"
        case ev.PromptFailed():
            return f"execution_error {event.details['node_id']} {event.details['exception_type']}"
        case ev.PromptInterrupted():
            return f"execution_interrupted {event.node_id}"
        case ev.PackMessage():
            return f"pack {event.event}"
        case ev.PromptEnded():
            return "executing null"
        case _:
            return repr(event)
