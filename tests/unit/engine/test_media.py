"""Pictures that the core extension's sandbox makes for the API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from engine.media import AT_ONCE, OF_ONE, Media, MediaBusyError, MediaRefusedError, PreviewWish
from policies import LOCAL_TENANT, ExtensionName, TenantId
from sandbox.calls import NodeCall, NodeResult, Value
from sandbox.errors import NodeRaisedError

pytestmark = pytest.mark.anyio

PLACE = ("a.png", "sub", "output")


class Core:
    """Sessions, session and store in one: answers with what a test gives it, and counts references."""

    def __init__(self, *slots: Any, fails: BaseException | None = None, hangs: bool = False) -> None:
        self._slots = slots
        self._fails = fails
        self._hangs = hangs
        self.calls: list[NodeCall] = []
        self.asked: list[TenantId] = []
        self.held: dict[str, bytes] = {}

    async def acquire(self, tenant: TenantId, extension: ExtensionName) -> Any:
        assert extension == "core"
        self.asked.append(tenant)
        return self

    def is_alive(self, _sandbox: Any) -> bool:
        return True

    async def execute(self, call: NodeCall, _progress: Any, _following: Any = None) -> NodeResult:
        self.calls.append(call)
        if self._hangs:
            await anyio.sleep_forever()
        if self._fails is not None:
            raise self._fails
        return NodeResult(tuple((self._value(slot),) for slot in self._slots), None, None, ())

    async def put(self, _tenant: TenantId, data: bytes) -> str:
        name = f"object-{len(self.held)}"
        self.held[name] = data
        return name

    async def read(self, object_id: str, limit: int) -> bytes:
        assert len(self.held[object_id]) <= limit
        return self.held[object_id]

    def release(self, value: Value) -> None:
        for name in value.objects:
            del self.held[name]

    def _value(self, slot: Any) -> Value:
        if not isinstance(slot, bytes):
            return Value(slot)
        self.held["result"] = slot
        tree = {"$bytes": {"file": "result", "nbytes": len(slot), "mutable": False}}
        return Value(tree, objects=("result",), nbytes=len(slot))


def inputs(call: NodeCall) -> dict[str, Any]:
    def only(values: Sequence[Value] | None) -> Any:
        assert values is not None
        return values[0].tree

    return {name: only(values) for name, values in call.inputs.items()}


async def mask() -> bytes:
    return b"mask"


async def test_a_preview_is_a_call_of_the_hidden_node_and_leaves_nothing_behind() -> None:
    core = Core(b"picture", "image/webp")
    made = await Media(core, core).preview(LOCAL_TENANT, PLACE, PreviewWish("webp", 80, "rgb"))
    assert made == (b"picture", "image/webp")
    assert core.asked == [LOCAL_TENANT]
    assert core.calls[0].class_type == "RingfencePreview"
    assert inputs(core.calls[0]) == {
        "filename": "a.png",
        "subfolder": "sub",
        "type": "output",
        "format": "webp",
        "quality": 80,
        "channel": "rgb",
    }
    assert not core.held


async def test_a_mask_goes_over_as_bytes_and_comes_back_merged() -> None:
    core = Core(b"merged")
    assert await Media(core, core).mask(LOCAL_TENANT, PLACE, mask) == b"merged"
    assert core.calls[0].class_type == "RingfenceMask"
    body = inputs(core.calls[0])["mask"]["$bytes"]
    assert (body["nbytes"], body["mutable"]) == (4, False)
    assert not core.held


async def test_a_models_picture_goes_over_as_bytes_and_comes_back_as_webp() -> None:
    core = Core(b"cover", "text/html")
    assert await Media(core, core).cover(LOCAL_TENANT, mask) == (b"cover", "image/webp")
    assert core.calls[0].class_type == "RingfenceCover"
    assert inputs(core.calls[0])["picture"]["$bytes"]["nbytes"] == 4
    assert not core.held


async def test_a_type_that_the_sandbox_says_is_believed_only_when_it_is_a_picture() -> None:
    for kind in ("text/html", ["image/png"], {}, None):
        core = Core(b"<script>", kind)
        made = await Media(core, core).preview(LOCAL_TENANT, PLACE, PreviewWish("webp", 80, ""))
        assert made[1] == "application/octet-stream"


async def test_what_is_no_picture_is_refused_with_the_sandboxs_reason() -> None:
    core = Core(fails=NodeRaisedError("'a.png' cannot be read\x1b[2J", exception_type="MediaError"))
    with pytest.raises(MediaRefusedError, match="cannot be read"):
        await Media(core, core).mask(LOCAL_TENANT, PLACE, mask)
    assert not core.held


@pytest.mark.parametrize("slots", [(), ("text",), ({"$bytes": "x"},), (None, None)])
async def test_an_odd_answer_is_refused(slots: tuple[Any, ...]) -> None:
    core = Core(*slots)
    with pytest.raises(MediaRefusedError):
        await Media(core, core).preview(LOCAL_TENANT, PLACE, PreviewWish("webp", 80, ""))


async def test_a_picture_that_takes_too_long_is_given_up() -> None:
    core = Core(hangs=True)
    with pytest.raises(MediaBusyError, match="not ready"):
        await Media(core, core, wait_s=0.01).preview(LOCAL_TENANT, PLACE, PreviewWish("webp", 80, ""))


async def test_a_tenant_whose_pictures_hang_does_not_keep_another_waiting() -> None:
    core = Core(b"picture", "image/webp")
    hung, media = anyio.Event(), Media(core, core)
    execute = core.execute

    async def slow(call: NodeCall, progress: Any) -> NodeResult:
        if core.asked[-1] == LOCAL_TENANT:
            hung.set()
            await anyio.sleep_forever()
        return await execute(call, progress)

    core.execute = slow  # type: ignore[method-assign]
    wish = PreviewWish("webp", 80, "")
    read = 0

    async def counted() -> bytes:
        nonlocal read
        read += 1
        return b"mask"

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for _ in range(2 * AT_ONCE):
                group.start_soon(media.mask, LOCAL_TENANT, PLACE, counted)
            await hung.wait()
            assert (await media.preview(TenantId("other"), PLACE, wish))[0] == b"picture"
            assert read == OF_ONE  # those that wait hold no picture in memory
            group.cancel_scope.cancel()
