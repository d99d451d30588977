"""WebSockets on routes of a pack in the whole stack: from a client's library through the server to the sandbox."""

from __future__ import annotations

import json
from pathlib import Path

import aiohttp
import anyio
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.e2e.comfy import Comfy
from tests.e2e.conftest import ROOT, Stack

PACK = ROOT / "tests" / "extensions" / "routes"
NAME = "sockets"
OWN = f"/ringfence/v1/extensions/{NAME}/routes"


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pack of ``test_pack_routes.py`` under other names."""
    pack = tmp_path_factory.mktemp("pack") / NAME
    pack.mkdir()
    code = (PACK / "__init__.py").read_text()
    for word in ("/rf/", "RFRoutes", "RFWho", "RFOldName", "RFAncient"):
        code = code.replace(word, word.replace("rf", NAME).replace("RF", "RFS"))
    (pack / "__init__.py").write_text(code.replace("routes.static", "# routes.static"))
    return pack


@pytest.fixture(scope="module")
def url(stack: Stack, pack: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    policy = tmp_path_factory.mktemp("policy") / f"{NAME}.yaml"
    policy.write_text("routes: true\n")
    stack.ringfence("extension", "add", str(pack), "--policy", str(policy))
    return stack.url.replace("http", "ws")


def said(socket: ClientConnection) -> str:
    message = socket.recv(timeout=60)
    assert isinstance(message, str)
    return message


def end_of(socket: ClientConnection) -> tuple[int | None, str | None]:
    try:
        while True:
            socket.recv(timeout=60)
    except ConnectionClosed:
        pass
    return socket.close_code, socket.close_reason


@pytest.mark.parametrize("prefix", ["", "/api", OWN])
def test_a_socket_works_at_its_path_below_api_and_below_its_own_prefix(url: str, prefix: str) -> None:
    with connect(
        f"{url}{prefix}/{NAME}/socket?a=1",
        additional_headers={"Cookie": "secret=1"},
        subprotocols=["rf.v1"],  # type: ignore[list-item]
        max_size=None,
    ) as socket:
        hello = json.loads(said(socket))
        assert hello["path"] == f"/{NAME}/socket?a=1"
        assert hello["protocol"] == socket.subprotocol == "rf.v1"
        assert "secret" not in str(hello["headers"])
        socket.send("hello")
        assert said(socket) == "HELLO"
        socket.send(b"\x01\x02" * 1_000_000)
        assert socket.recv(timeout=60) == b"\x02\x01" * 1_000_000
        socket.send("large 8000000")
        assert len(said(socket)) == 8_000_000
        socket.send("close")
        assert end_of(socket) == (4321, "as you wish")


def test_the_client_of_aiohttp_is_served_too_and_many_at_once(url: str) -> None:
    async def one(session: aiohttp.ClientSession, number: int) -> None:
        async with session.ws_connect(f"{url}/{NAME}/socket", heartbeat=10) as socket:
            await socket.receive_json(timeout=60)
            for _ in range(20):
                await socket.send_str(f"from {number}")
                assert await socket.receive_str(timeout=60) == f"FROM {number}"

    async def all_of_them() -> None:
        async with aiohttp.ClientSession() as session, anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(one, session, number)

    anyio.run(all_of_them)


def test_what_a_client_leaves_behind_is_nothing(url: str, comfy: Comfy) -> None:
    for _ in range(40):  # more than may be open at once
        with connect(f"{url}/{NAME}/socket") as socket:
            assert said(socket).startswith("{")


def test_no_socket_where_a_route_refuses_or_the_policy_does(url: str, stack: Stack, tmp_path: Path) -> None:
    for path, status in (
        (f"/{NAME}/socket?refuse", 403),
        (f"/{NAME}/raises", 500),
        ("/queue", 403),
        ("/ringfence/v1/extensions/nobody/routes/x", 404),
    ):
        with pytest.raises(InvalidStatus) as caught:
            connect(f"{url}{path}")
        assert caught.value.response.status_code == status
    silent = tmp_path / "silent_sockets"
    silent.mkdir()
    code = (PACK / "__init__.py").read_text().replace("/rf/", "/silent/").replace("RF", "RFSilent")
    (silent / "__init__.py").write_text(code.replace("routes.static", "# routes.static"))
    stack.ringfence("extension", "add", str(silent))
    with pytest.raises(InvalidStatus) as caught:
        connect(f"{url}/silent/socket")
    assert caught.value.response.status_code == 403
    with pytest.raises(InvalidStatus) as caught:
        connect(f"{url}/ringfence/v1/extensions/silent_sockets/routes/silent/socket")
    assert (caught.value.response.status_code, b"routes-off" in (caught.value.response.body or b"")) == (
        403,
        True,
    )


def test_a_handler_that_fails_and_a_sandbox_that_dies_close_the_socket_and_say_why(url: str) -> None:
    with connect(f"{url}/{NAME}/socket") as socket:
        said(socket)
        socket.send("raise")
        assert end_of(socket) == (1011, "the route broke off")
    with connect(f"{url}/{NAME}/socket") as socket, connect(f"{url}/{NAME}/socket") as other:
        said(socket), said(other)
        socket.send("exit")
        for each in (socket, other):
            code, reason = end_of(each)
            assert (code, "left with status 3" in str(reason)) == (1011, True)
    with connect(f"{url}/{NAME}/socket") as socket:  # in a new sandbox
        assert said(socket).startswith("{")


def test_a_pack_that_is_reloaded_asks_its_clients_to_come_back(url: str, stack: Stack, pack: Path) -> None:
    with connect(f"{url}/{NAME}/socket") as socket:
        said(socket)
        code = pack / "__init__.py"
        code.write_text(code.read_text().replace("message.data.upper()", "message.data.title()"))
        stack.ringfence("extension", "reload", NAME)
        assert end_of(socket)[0] == 1012
    with connect(f"{url}/{NAME}/socket") as socket:
        said(socket)
        socket.send("in the new code")
        assert said(socket) == "In The New Code"
