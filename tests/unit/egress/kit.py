"""A gate between a test and servers on loopback that pretend to be the internet.

Only the resolver and the connector are stand-ins, and only tests can hand them in; sockets, TLS and HTTP are real.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from anyio.abc import ByteStream, SocketAttribute, SocketListener
from anyio.streams.tls import TLSListener, TLSStream

from policies import SandboxId, Secret, TenantId, parse_destination
from sandbox.egress import Attempt, EgressGate, EgressLimits, EgressOffice, Vault
from sandbox.egress.authority import Authority, make_authority
from sandbox.egress.decision import Rules
from sandbox.egress.streams import LocalStream
from sandbox.launcher.verbs import SandboxRequest
from sandbox.places import Places

PUBLIC = "93.184.216.34"
SECRET = Secret(name="API_KEY", host="api.example.com:443", header="Authorization", format="Bearer {}")
VALUE = "sk-very-secret-0123456789"
Handler = Callable[[ByteStream], Awaitable[None]]


class Names:
    """A resolver whose answers a test writes; counts the questions."""

    def __init__(self, answers: Mapping[str, Sequence[str] | list[Sequence[str]]]) -> None:
        self.answers = dict(answers)
        self.asked: list[str] = []

    async def resolve(self, name: str) -> Sequence[str]:
        self.asked.append(name)
        await anyio.lowlevel.checkpoint()
        found = self.answers.get(name)
        if found is None:
            raise OSError("Name or service not known")
        if isinstance(found, list):  # another answer each time: rebinding
            return found.pop(0)
        return found


class Net:
    """A connector to servers on loopback."""

    def __init__(self) -> None:
        self.ports: dict[int, int] = {}
        self.asked: list[tuple[str, int]] = []

    async def connect(self, address: str, port: int) -> ByteStream:
        self.asked.append((address, port))
        if port not in self.ports:
            raise OSError("Connection refused")
        return await anyio.connect_tcp("127.0.0.1", self.ports[port])


@dataclass
class Inside:
    """What a test sees: the socket as a sandbox would, and what the host recorded."""

    path: Path
    gate: EgressGate
    names: Names
    net: Net
    attempts: list[Attempt]
    remarks: list[str]
    bundle: Path
    trust: ssl.SSLContext
    """Of a client that knows the test servers' authority only."""
    streams: list[ByteStream] = field(default_factory=list)
    recorded: anyio.Event = field(default_factory=anyio.Event)

    async def connect(self) -> ByteStream:
        """As the bridge would."""
        self.streams.append(LocalStream(*await asyncio.open_unix_connection(self.path)))
        return self.streams[-1]

    async def say(self, data: bytes) -> bytes:
        """Send, and read until the proxy hangs up."""
        stream = await self.connect()
        with anyio.fail_after(60):
            try:
                await stream.send(data)
            except anyio.BrokenResourceError:
                pass  # turned away before it was read
            answer = await drain(stream)
            await stream.aclose()
            return answer

    async def tunnel(self, target: str = "api.example.com:443") -> ByteStream:
        stream = await self.connect()
        await stream.send(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        head = await head_of(stream)
        assert head.startswith(b"HTTP/1.1 200"), head
        return stream

    async def tls(
        self, name: str = "api.example.com", *, sni: str | None = None, ours: bool = False
    ) -> TLSStream:
        """A TLS connection through a tunnel; ``ours``: trusting what the sandbox is told to trust."""
        context = (
            await anyio.to_thread.run_sync(lambda: ssl.create_default_context(cafile=str(self.bundle)))
            if ours
            else self.trust
        )
        stream = await self.tunnel(f"{name}:443")
        return await TLSStream.wrap(
            stream, server_side=False, hostname=sni or name, ssl_context=context, standard_compatible=False
        )

    async def next_attempt(self) -> Attempt:
        """The first record that no test has taken yet."""
        with anyio.fail_after(60):
            while not self.attempts:
                await self.recorded.wait()
        return self.attempts.pop(0)


@cache
def internet(names: tuple[str, ...]) -> Authority:
    """Whom the servers of the tests have their certificates from; made once."""
    with tempfile.TemporaryDirectory() as directory:
        return make_authority(names, Path(directory), label="internet")


async def drain(stream: ByteStream) -> bytes:
    data = b""
    try:
        while True:
            data += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return data


async def head_of(stream: ByteStream) -> bytes:
    data = b""
    with anyio.fail_after(60):
        while not data.endswith(b"\r\n\r\n"):
            data += await stream.receive(1)
    return data


async def read_request(stream: ByteStream) -> tuple[bytes, bytes]:
    """Head and body, as a plain server sees them."""
    head = await head_of(stream)
    body = b""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            while len(body) < int(line.split(b":")[1]):
                body += await stream.receive()
    if b"transfer-encoding: chunked" in head.lower():
        while not body.endswith(b"0\r\n\r\n"):
            body += await stream.receive()
    return head, body


async def echo(stream: ByteStream) -> None:
    """Answer with the request, as a careless server would."""
    head, body = await read_request(stream)
    text = head + body
    await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Seen: yes\r\n\r\n" % len(text) + text)


@asynccontextmanager
async def inside(
    directory: Path,
    *,
    allow: Sequence[str] = ("api.example.com:443", "plain.example.com:80"),
    names: Mapping[str, Any] | None = None,
    secret: Secret | None = None,
    limits: EgressLimits | None = None,
    https: Handler = echo,
    http: Handler = echo,
    uid: int | None = None,
    offices: Callable[[EgressOffice], None] = lambda _: None,
    certified: Sequence[str] = ("api.example.com", "a.files.example.org"),
) -> AsyncIterator[Inside]:
    """A sandbox's side of an open gate."""
    places = Places("t" + secrets.token_hex(3), directory / "data", directory / "shm", directory / "run")
    places.run.mkdir(parents=True)
    far = await anyio.to_thread.run_sync(internet, tuple(certified))
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.load_verify_locations(cadata=far.certificate)
    vault = Vault(directory / "secrets")
    if secret is not None:
        file = directory / "secrets" / "local" / secret.name
        file.parent.mkdir(parents=True)
        file.write_text(VALUE + "\n")
        file.chmod(0o600)
    resolver, net = Names(names or {"api.example.com": (PUBLIC,), "plain.example.com": (PUBLIC,)}), Net()
    attempts: list[Attempt] = []
    remarks: list[str] = []
    made: list[Inside] = []

    def note(attempt: Attempt) -> None:
        attempts.append(attempt)
        if made:
            made[0].recorded.set()
            made[0].recorded = anyio.Event()

    office = EgressOffice(
        places, vault=vault, limits=limits, resolver=resolver, connector=net, tls=trust, sink=note
    )
    offices(office)
    request = SandboxRequest(SandboxId("s"), TenantId("local"), (), "digest")
    rules = Rules(tuple(parse_destination(text) for text in allow), "policies/pack.yaml:3")
    gate = EgressGate(office, request, rules, (secret,) if secret else (), remarks.append)

    await gate.open()
    try:
        async with servers(net, far, https, http), anyio.create_task_group() as group:
            gate.uid = os.getuid() if uid is None else uid
            group.start_soon(gate.serve)
            place = places.egress_directory(SandboxId("s"))
            made.append(
                Inside(place / "proxy.sock", gate, resolver, net, attempts, remarks, place / "ca.pem", trust)
            )
            try:
                yield made[0]
            finally:
                for stream in made[0].streams:
                    await stream.aclose()
            group.cancel_scope.cancel()
    finally:
        await gate.remove()
        await anyio.wait_all_tasks_blocked()
    assert not places.egress_directory(SandboxId("s")).exists()


@asynccontextmanager
async def servers(net: Net, far: Authority, https: Handler, http: Handler) -> AsyncIterator[None]:
    """Servers on loopback, to which ``net`` leads."""

    async def serve_tls(stream: ByteStream) -> None:
        await _guarded(https, stream)

    async def serve_plain(stream: ByteStream) -> None:
        await _guarded(http, stream)

    context = next(iter(far.contexts.values()))

    def choose(connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        connection.context = far.contexts.get(name or "", context)

    context.sni_callback = choose
    tcp, plain = await local_listener(), await local_listener()
    secure = TLSListener(tcp, context, standard_compatible=False)
    net.ports = {443: port_of(tcp), 80: port_of(plain)}
    async with secure, plain, anyio.create_task_group() as group:
        group.start_soon(secure.serve, serve_tls)
        group.start_soon(plain.serve, serve_plain)
        yield
        await anyio.wait_all_tasks_blocked()  # they hear of a closed connection before they are cancelled
        group.cancel_scope.cancel()


async def local_listener() -> SocketListener:
    """Listens on a free port of loopback."""
    return (await anyio.create_tcp_listener(local_host="127.0.0.1", family=socket.AF_INET)).listeners[0]


def port_of(listener: SocketListener) -> int:
    return int(listener.extra(SocketAttribute.local_port))


async def _guarded(handler: Handler, stream: ByteStream) -> None:
    try:
        await handler(stream)
    except (anyio.EndOfStream, anyio.BrokenResourceError, OSError):
        pass
    finally:
        await anyio.aclose_forcefully(stream)
