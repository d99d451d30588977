"""HTTP exchanges with workers that say what they like."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from runtime import wire
from sandbox import (
    EndedError,
    HttpRequest,
    NodeRaisedError,
    ProtocolViolationError,
    QuotaError,
    RouteBusyError,
    RouteTimeoutError,
    Session,
)
from sandbox import exchanges as exchanges_module
from sandbox.testing import HELLO, LOADED, FakeLauncher, FakeWorker, Script
from tests.contract.kit import World, world

pytestmark = pytest.mark.anyio
GET = HttpRequest("GET", "/x?y=1", (("accept", "*/*"),))
POLICY = {"pack": "timeouts: {call: 1s, grace: 250ms}\n"}


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def head(data: bytes = b"", *, more: bool = False, **changes: Any) -> dict[str, Any]:
    return {"status": 200, "headers": [], "data": text(data), "more": more, **changes}


def serving(**answers: Any) -> Script:
    """A worker that answers ``http/...`` and ``prompt/hook`` from a table."""
    table = {
        f"http/{name}" if name != "hook" else wire.PROMPT_HOOK: answer for name, answer in answers.items()
    }

    async def script(worker: FakeWorker) -> None:
        await worker.serve(table)

    return script


def at(tmp_path: Path, script: Script) -> Any:
    return world(tmp_path, lambda places, _: FakeLauncher(places, script), policies=POLICY)


async def session_of(made: World) -> Session:
    made.shelf.write("pack", "")
    return await made.session("pack")


async def body(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def ask(session: Session, request: HttpRequest = GET, *pieces: bytes) -> bytes:
    with anyio.fail_after(60):
        async with session.http(request, body(*pieces)) as response:
            return b"".join([piece async for piece in response.body])


async def test_the_request_goes_out_whole_and_the_answer_is_pulled_in_pieces(tmp_path: Path) -> None:
    said: list[dict[str, Any]] = []
    pieces = iter([(b"two", True), (b"three", False)])

    def request(params: dict[str, Any]) -> dict[str, Any]:
        said.append(params)
        return head(b"one", more=True)

    def read(params: dict[str, Any]) -> dict[str, Any]:
        said.append(params)
        data, more = next(pieces)
        return {"data": text(data), "more": more}

    async with at(tmp_path, serving(request=request, read=read)) as made:
        session = await session_of(made)
        assert await ask(session, GET, b"a", b"b") == b"onetwothree"
    limit = wire.HTTP_PIECE
    assert said == [
        {
            "exchange": 1, "name": "pack", "method": "GET", "target": "/x?y=1", "headers": [["accept", "*/*"]],
            "data": text(b"ab"), "more": False, "limit": limit,
        },
        {"exchange": 1, "limit": limit},
        {"exchange": 1, "limit": limit},
    ]  # fmt: skip


@pytest.mark.parametrize(
    "answer",
    [
        {},
        None,
        head(status=99),
        head(headers=[["a", "b\r\nc: d"]]),
        head(b"x" * (wire.HTTP_PIECE + 1)),
        head(more=True),
    ],
)
async def test_a_worker_that_answers_something_else_is_ended(tmp_path: Path, answer: Any) -> None:
    script = serving(request=lambda _params: answer if answer is not None else [])
    async with at(tmp_path, script) as made:
        session = await session_of(made)
        with pytest.raises(ProtocolViolationError, match="HTTP response"):
            await ask(session)
        assert not session.is_alive


async def test_an_endless_answer_stops_at_the_limit_and_the_worker_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchanges_module, "MAX_RESPONSE_BYTES", 100)
    asked = 0

    def read(_: Any) -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return {"data": text(b"x" * 30), "more": True}

    async with at(tmp_path, serving(request=head(b"x" * 30, more=True), read=read)) as made:
        session = await session_of(made)
        with pytest.raises(QuotaError, match="answered with more than 100"):
            await ask(session)
        assert asked == 3
        assert session.is_alive


async def test_a_worker_that_never_answers_costs_the_exchange_its_time_and_no_more(tmp_path: Path) -> None:
    async with at(tmp_path, serving(request=lambda _params: None, hook=lambda _params: None)) as made:
        session = await session_of(made)
        with pytest.raises(
            RouteTimeoutError, match="route GET '/x' of extension 'pack' did not answer in time"
        ):
            await ask(session)
        with pytest.raises(RouteTimeoutError, match="its prompt handler of extension 'pack'"):
            await session.hook_prompt({"prompt": {}}, 0.1)
        assert session.is_alive


@pytest.mark.parametrize("slow", ["sends", "reads"])
async def test_a_client_that_is_slow_costs_the_exchange_its_time_and_no_more(
    tmp_path: Path, slow: str
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"x"
        if slow == "sends":
            await anyio.sleep_forever()

    async with at(tmp_path, serving(request=head(b"one", more=True))) as made:
        session = await session_of(made)
        with anyio.fail_after(60), pytest.raises(RouteTimeoutError, match="did not answer in time"):
            async with session.http(GET, endless()):
                await anyio.sleep_forever()
        assert session.is_alive
        assert session._exchanges._open == 0  # type: ignore[attr-defined]


async def test_requests_that_are_never_answered_count_as_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchanges_module, "MAX_OPEN", 2)
    async with at(tmp_path, serving(request=lambda _params: None, hook=lambda _params: None)) as made:
        session = await session_of(made)
        for _ in range(2):
            with pytest.raises(RouteTimeoutError):
                await session.hook_prompt({}, 0.05)
        with pytest.raises(RouteBusyError, match="2 requests"):
            await ask(session)


async def test_an_error_of_the_route_is_the_packs_and_a_code_that_is_none_ends_the_worker(
    tmp_path: Path,
) -> None:
    codes = iter([wire.NODE_RAISED, -32050])

    async def script(worker: FakeWorker) -> None:
        while True:
            request = await worker.receive()
            if request.get("method") == wire.HTTP_REQUEST:
                await worker.refuse(request, next(codes), "broke \x1b[31moff")
            elif "id" in request:
                await worker.answer(request, HELLO if request["method"] == wire.HELLO else LOADED)

    async with at(tmp_path, script) as made:
        session = await session_of(made)
        with pytest.raises(NodeRaisedError, match="broke") as caught:
            await ask(session)
        assert "\x1b" not in caught.value.message
        assert session.is_alive
        with pytest.raises(ProtocolViolationError, match="-32050"):
            await ask(session)
        assert not session.is_alive


async def test_a_worker_that_hangs_up_fails_the_exchange(tmp_path: Path) -> None:
    async def script(worker: FakeWorker) -> None:
        async def leave(_: Any) -> None:
            worker.stream.close()

        await worker.serve({wire.HTTP_REQUEST: leave})

    async with at(tmp_path, script) as made:
        session = await session_of(made)
        with pytest.raises(EndedError):
            await ask(session)


async def test_a_request_for_a_policy_with_tiny_messages_says_what_to_raise(tmp_path: Path) -> None:
    policy = {"pack": "limits: {message_bytes: 32KiB}\n"}
    async with world(
        tmp_path, lambda places, _: FakeLauncher(places, serving(request=head())), policies=policy
    ) as made:
        session = await session_of(made)
        with pytest.raises(QuotaError, match="policy allows 32KiB") as caught:
            await ask(session)
        assert "limits.message_bytes" in caught.value.hint
