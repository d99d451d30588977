"""Routes of a pack, answered by a real worker: as a plain process and in a container."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import orjson
import pytest

from sandbox import HttpRequest, NodeRaisedError, RouteBusyError, RouteTimeoutError, Session
from sandbox.exchanges import MAX_OPEN
from sandbox.testing import UnconfinedLauncher
from tests.contract.kit import PACKS, MakeLauncher, World, call, ignore, in_docker, world

pytestmark = pytest.mark.anyio
POLICY = "timeouts: {call: 60s, grace: 1s}\nmemory: 1GiB\nroutes: true\n"
IMPATIENT = POLICY.replace("60s", "2s")
KINDS: dict[str, MakeLauncher] = {"plain": lambda places, _: UnconfinedLauncher(places), "docker": in_docker}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(
    scope="module",
    params=["plain", pytest.param("docker", marks=[pytest.mark.docker])],
)
async def at(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    directory = tmp_path_factory.mktemp("routes")
    async with world(
        directory, KINDS[request.param], policies={"routes": POLICY, "impatient": IMPATIENT}
    ) as made:
        made.shelf.add(PACKS / "routes")
        made.shelf.add(PACKS / "routes", "impatient")
        yield made


@pytest.fixture
async def session(at: World) -> Session:
    return await at.session("routes")


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for piece in given:
        yield piece


class Answer:
    """A whole response."""

    def __init__(self, status: int, headers: tuple[tuple[str, str], ...], body: bytes) -> None:
        self.status, self.headers, self.body = status, dict(headers), body

    @property
    def json(self) -> dict[str, object]:
        return orjson.loads(self.body)  # type: ignore[no-any-return]


async def ask(session: Session, method: str, target: str, *body: bytes, **headers: str) -> Answer:
    given = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    with anyio.fail_after(60):
        async with session.http(HttpRequest(method, target, given), pieces(*body)) as response:
            return Answer(response.status, response.headers, b"".join([p async for p in response.body]))


async def test_what_a_pack_registers_is_reported_when_it_is_loaded(session: Session) -> None:
    loaded = session.loaded
    assert ("GET", "/rf/hello") in loaded.routes
    assert ("STATIC", "/rf/static") in loaded.routes
    assert loaded.prompt_handlers == 2
    (replacement,) = loaded.node_replacements
    assert (replacement.old_node_id, replacement.new_node_id) == ("RFAncient", "RFRoutes")
    assert replacement.input_mapping == ({"new_id": "text", "old_id": "words"},)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/rf/hello?name=a%26b", {"hello": "a&b", "path": "/rf/hello"}),
        ("/rf/items/a%2Fb%20c", {"item": "a/b c"}),
        ("/rf/on_app", {"hello": "nobody", "path": "/rf/on_app"}),
    ],
)
async def test_a_route_answers(session: Session, target: str, expected: dict[str, str]) -> None:
    answer = await ask(session, "GET", target)
    assert (answer.status, answer.json) == (200, expected)
    assert answer.headers["etag"] == '"stamped"'  # by the pack's own middleware


async def test_views_folders_and_errors_are_as_in_aiohttp(session: Session) -> None:
    assert (await ask(session, "GET", "/rf/view")).body == b"a view"
    assert (await ask(session, "GET", "/rf/static/note.txt")).body == b"a file of the pack\n"
    assert (await ask(session, "DELETE", "/rf/hello")).status == 405
    assert (await ask(session, "GET", "/rf/raises")).status == 500
    assert (await ask(session, "HEAD", "/rf/hello")).body == b""


async def test_a_small_and_a_large_body_arrive_whole(session: Session) -> None:
    small = await ask(session, "POST", "/rf/echo", b"he", b"llo", content_type="text/plain")
    assert small.json["bytes"] == 5
    assert "content-type: text/plain" in small.json["headers"]  # type: ignore[operator]
    large = await ask(session, "PUT", "/rf/put", *[b"y" * 300_000] * 20)
    assert (large.json["bytes"], large.json["start"]) == (6_000_000, "y" * 20)


async def test_a_form_with_a_file_arrives(session: Session) -> None:
    body = (
        b"--B\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n"
        b"--B\r\nContent-Disposition: form-data; name=f; filename=cat.png\r\n\r\nx\r\n--B--\r\n"
    )
    answer = await ask(session, "POST", "/rf/form", body, content_type="multipart/form-data; boundary=B")
    assert answer.json == {"a": "1", "f": "cat.png"}


async def test_a_large_answer_comes_in_pieces_and_whole(session: Session) -> None:
    answer = await ask(session, "GET", "/rf/large?bytes=5000000")
    assert answer.body == b"x" * 5_000_000


async def test_routes_answer_while_a_node_runs_and_nodes_run_while_routes_wait(
    at: World, session: Session
) -> None:
    async with hanging(at, session):
        result = await session.execute(call("RFRoutes", {"text": "meanwhile"}), ignore)
        assert result.ui == {"text": ["meanwhile"]}
        assert (await ask(session, "GET", "/rf/view")).status == 200


@asynccontextmanager
async def hanging(at: World, session: Session) -> AsyncIterator[None]:
    """A request that waits for a route that does not answer; given up at the end."""
    at.events.clear()
    async with anyio.create_task_group() as group:

        async def wait() -> None:
            async with session.http(HttpRequest("GET", "/rf/hangs", ()), pieces()):
                pytest.fail("it does not answer")

        group.start_soon(wait)
        await until(lambda: states(at) == ["began"])
        yield
        group.cancel_scope.cancel()


def states(at: World) -> list[str]:
    return [event.data["state"] for _, _, event in at.events if event.event == "rf.hangs"]


async def until(condition: Callable[[], bool]) -> None:
    """A bounded poll: what is waited for happens in another process."""
    with anyio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - it becomes true in another process
            await anyio.sleep(0.01)


async def test_a_route_over_its_time_is_an_error_and_the_sandbox_lives_on(at: World) -> None:
    session = await at.session("impatient")
    with pytest.raises(RouteTimeoutError, match=r"route GET '/rf/hangs' of extension 'impatient'") as caught:
        await ask(session, "GET", "/rf/hangs")
    assert "2 s ('timeouts.call')" in caught.value.hint
    assert session.is_alive


async def test_a_route_that_breaks_off_is_the_packs_error(session: Session) -> None:
    with pytest.raises(NodeRaisedError, match=r"ContentLengthError|payload is not completed|Not enough data"):
        await ask(session, "GET", "/rf/breaks")
    assert (await ask(session, "GET", "/rf/view")).status == 200


async def test_too_many_open_requests_are_refused_until_there_is_room(session: Session) -> None:
    async with anyio.create_task_group() as group:
        opened = 0
        enough = anyio.Event()

        async def wait() -> None:
            nonlocal opened
            opened += 1
            if opened == MAX_OPEN:
                enough.set()
            async with session.http(HttpRequest("GET", "/rf/hangs", ()), pieces()):
                pytest.fail("it does not answer")

        for _ in range(MAX_OPEN):
            group.start_soon(wait)
        await enough.wait()
        with pytest.raises(RouteBusyError, match=f"{MAX_OPEN} requests"):
            await ask(session, "GET", "/rf/view")
        group.cancel_scope.cancel()

    async def answers() -> bool:
        try:
            return (await ask(session, "GET", "/rf/view")).status == 200
        except RouteBusyError:
            return False

    with anyio.fail_after(60):
        while not await answers():  # noqa: ASYNC110 - the worker answers what was given up when it gets to it
            await anyio.sleep(0.01)


async def test_prompt_handlers_change_the_body_and_one_that_raises_is_left_out(session: Session) -> None:
    body = {"prompt": {"1": {"class_type": "RFOldName", "inputs": {}}}, "extra_data": {"a": 1}}
    hooked = await session.hook_prompt(body, 10)
    assert hooked["prompt"]["1"]["class_type"] == "RFRoutes"
    assert hooked["extra_data"]["rf_seen"] == ["a"]


@pytest.mark.parametrize("client", ["somebody", None])
async def test_a_node_learns_who_queued_its_prompt(session: Session, client: str | None) -> None:
    result = await session.execute(call("RFWho", node_id="9", client_id=client), ignore)
    assert result.ui == {"told": [client, "9", True]}
