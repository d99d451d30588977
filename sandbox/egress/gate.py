"""The proxy of one sandbox: a Unix socket in a directory that only this sandbox sees, and its connections.

``EgressOffice`` belongs to the host and is the same for all; a ``EgressGate`` lives as long as its sandbox. Whoever is
at the socket is the sandbox, whatever process of it: the bridge inside is a convenience, not a wall.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import anyio
import anyio.to_thread
import h11
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from policies import EffectivePolicy, safe_text
from policies import Secret as SecretEntry
from runtime import wire
from sandbox.egress.attempts import Attempt, AttemptSink, Verdict, log_attempt, unwatched
from sandbox.egress.authority import Authority, make_authority, usual_bundle
from sandbox.egress.connect import Connector, DirectConnector, Resolver, SystemResolver, reach
from sandbox.egress.decision import (
    FailedError,
    RefusedError,
    Rules,
    Target,
    parse_authority,
    parse_host,
    parse_url,
    same_authority,
)
from sandbox.egress.exchange import GONE, Filling, answer, forward, host_header, read_request
from sandbox.egress.hello import HelloReader, NoHelloError
from sandbox.egress.limits import EgressLimits, EgressUsed, Meter, TenantMeter
from sandbox.egress.streams import PIECE, CountedStream, LocalStream, ReturnedStream, relay
from sandbox.egress.vault import Secret, Vault
from sandbox.launcher.verbs import SandboxRequest
from sandbox.patience import remove_tree
from sandbox.places import Places
from sandbox.rates import Allowance

log = logging.getLogger(__name__)

_CREDENTIALS: Final = struct.Struct("3i")
_BACKLOG: Final = 64
_LINGER_S: Final = 1.0
_LINGER_BYTES: Final = 256 * 1024
_BREATH_S: Final = 0.05
"""Between two connections that are refused unread: a flood waits in the sandbox's own socket, not on our loop."""
_WATCH_S: Final = 1.0
_BUSY: Final = b"HTTP/1.1 429 Too Many Connections\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

Remark = Callable[[str], None]


def egress_rules(policy: EffectivePolicy) -> Rules | None:
    """What the policy lets a sandbox reach; None when that is nothing."""
    if not policy.network.allow:
        return None
    return Rules(policy.network.destinations, str(policy.source("network")))


@dataclass(slots=True)
class _Visit:
    """What happened on one connection so far; becomes its record."""

    began: float = field(default_factory=time.monotonic)
    target: str = ""
    method: str = ""
    address: str = ""
    secret: str = ""
    verdict: Verdict = Verdict.ALLOWED
    reason: str = ""
    up: int = 0
    down: int = 0
    outside: CountedStream | None = None

    def refused(self, error: RefusedError) -> None:
        if self.verdict is not Verdict.ALLOWED:
            return  # the first reason counts
        self.verdict = Verdict.FAILED if isinstance(error, FailedError) else Verdict.REFUSED
        self.reason = error.why


class EgressOffice:
    """What the gates of all sandboxes of a host have in common."""

    def __init__(
        self,
        places: Places,
        *,
        vault: Vault | None = None,
        limits: EgressLimits | None = None,
        resolver: Resolver | None = None,
        connector: Connector | None = None,
        tls: ssl.SSLContext | None = None,
        sink: AttemptSink = log_attempt,
    ) -> None:
        self.places = places
        self.vault = vault or Vault(None)
        self.limits = limits or EgressLimits()
        self.resolver = resolver or SystemResolver()
        self.connector = connector or DirectConnector()
        self.sink = sink
        self._tls = tls
        self._tenants: dict[str, TenantMeter] = {}

    def gate(
        self,
        request: SandboxRequest,
        policy: EffectivePolicy,
        remark: Remark,
        witness: AttemptSink = unwatched,
    ) -> EgressGate | None:
        """The gate of a sandbox whose policy allows anything; None for all others."""
        rules = egress_rules(policy)
        if rules is None:
            return None
        return EgressGate(self, request, rules, policy.secrets, remark, witness)

    def meter(self, tenant: str) -> Meter:
        """A fresh meter of one sandbox."""
        return Meter(self.limits, self._meter_of(tenant))

    def used(self) -> dict[str, EgressUsed]:
        """What each tenant's sandboxes sent and fetched within its day; nothing of those that did neither."""
        found = {tenant: meter.bytes.used() for tenant, meter in self._tenants.items()}
        return {tenant: used for tenant, used in found.items() if used.up or used.down}

    def restore(self, tenant: str, used: EgressUsed) -> None:
        """What was counted before a restart of the host."""
        self._meter_of(tenant).bytes.restore(used)

    def _meter_of(self, tenant: str) -> TenantMeter:
        if tenant not in self._tenants:
            self._tenants[tenant] = TenantMeter(tenant, self.limits)
        return self._tenants[tenant]

    def client_tls(self) -> ssl.SSLContext:
        """How we look at other people's certificates: the machine's trust, the name checked. Blocking."""
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls


class EgressGate:
    """``open`` before the sandbox starts, ``serve`` while it lives, ``remove`` when it is gone."""

    def __init__(
        self,
        office: EgressOffice,
        request: SandboxRequest,
        rules: Rules,
        secrets: tuple[SecretEntry, ...],
        remark: Remark,
        witness: AttemptSink = unwatched,
    ) -> None:
        self._office = office
        self._witness = witness
        self._request = request
        self._rules = rules
        self._entries = secrets
        self._remark = remark
        self._secrets: tuple[Secret, ...] = ()
        self._authority: Authority | None = None
        self._meter = office.meter(request.tenant)
        self._directory = office.places.egress_directory(request.sandbox)
        self._listener: socket.socket | None = None
        self._unread = Allowance(2, 20)
        self._unrecorded = 0
        self.uid: int | None = None
        """Who may be at the socket; nobody before it is set."""

    async def open(self) -> None:
        """Make the directory that will be mounted, with the socket and the bundle in it.

        Raises:
            StartError: a secret's file is missing or unusable.
        """
        self._listener = await anyio.to_thread.run_sync(self._prepare)

    def _prepare(self) -> socket.socket:
        self._secrets = self._office.vault.secrets(self._entries, self._request.tenant)
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._directory.chmod(0o755)
        if self._secrets:
            names = sorted({secret.target.host for secret in self._secrets})
            scratch = self._office.places.run / "authorities"
            self._authority = make_authority(names, scratch, label=self._request.sandbox)
            self._office.client_tls()
            bundle = self._directory / wire.EGRESS_BUNDLE.rpartition("/")[2]
            bundle.write_text(f"{usual_bundle().rstrip()}\n{self._authority.certificate}")
            bundle.chmod(0o644)
        path = self._directory / wire.EGRESS_SOCKET.rpartition("/")[2]
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            listener.bind(str(path))
            # Anybody who reaches it may connect; only that sandbox and we can reach the directory.
            path.chmod(0o666)
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
        return listener

    async def serve(self) -> None:
        """Accept connections until cancelled. Never raises for a sandbox's sake."""
        if self._listener is None:
            raise RuntimeError("the gate is not open")
        loop = asyncio.get_running_loop()
        async with anyio.create_task_group() as group:
            while True:
                try:
                    connection, _ = await loop.sock_accept(self._listener)
                except OSError as error:  # our own descriptors are used up
                    log.warning("sandbox %s: egress cannot accept: %s", self._request.sandbox, error)
                    await anyio.sleep(_BREATH_S)
                    continue
                try:
                    self._check_visitor(connection)
                    self._meter.enter()
                except RefusedError as error:
                    self._turn_away(error)
                    _say(connection, _BUSY)
                    await anyio.sleep(_BREATH_S)
                    continue
                group.start_soon(self._receive, connection)

    async def remove(self) -> None:
        """Stop listening and remove the directory."""
        if self._listener is not None:
            self._listener.close()
        await anyio.to_thread.run_sync(remove_tree, self._directory)

    # -- one connection ----------------------------------------------------------------------------------------------

    def _check_visitor(self, connection: socket.socket) -> None:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, _ = _CREDENTIALS.unpack(raw)
        if uid != self.uid:
            raise RefusedError(f"uid {uid} connected where only uid {self.uid} may")

    def _turn_away(self, error: RefusedError) -> None:
        if not self._unread.take():
            self._unrecorded += 1
            return
        visit = _Visit()
        visit.refused(error)
        self._record(visit)

    async def _receive(self, connection: socket.socket) -> None:
        visit = _Visit()
        stream: LocalStream | None = None
        try:
            stream = await LocalStream.of(connection)
            with anyio.move_on_after(self._office.limits.life_s) as life:
                await self._watched(stream, visit)
            if life.cancelled_caught:
                visit.refused(
                    FailedError(f"it was open for {self._office.limits.life_s:.0f} s, the longest allowed")
                )
        except anyio.get_cancelled_exc_class():
            raise
        except Exception as error:
            log.exception("egress of sandbox %s failed unexpectedly", self._request.sandbox)
            visit.refused(FailedError(f"internal error: {type(error).__name__}"))
        finally:
            self._meter.leave()
            with anyio.CancelScope(shield=True):
                if visit.outside is not None:
                    await anyio.aclose_forcefully(visit.outside)
                if stream is not None:
                    await stream.aclose()
                connection.close()
            if visit.reason:
                self._record(visit)

    async def _watched(self, stream: ByteStream, visit: _Visit) -> None:
        idle_s = self._office.limits.idle_s

        async def watch() -> None:
            while True:
                await anyio.sleep(min(_WATCH_S, idle_s / 4))
                since = visit.outside.active_at if visit.outside is not None else None
                if since is not None and time.monotonic() - since > idle_s:
                    visit.refused(FailedError(f"nothing was sent for {idle_s:.0f} s"))
                    group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            await self._converse(stream, visit)
            group.cancel_scope.cancel()

    async def _converse(self, stream: ByteStream, visit: _Visit) -> None:
        limits = self._office.limits
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)
        try:
            request = await read_request(stream, connection, limits)
            visit.method = request.method.decode("ascii")
            asked = request.target.decode("latin-1")
            visit.target = safe_text(asked, 200)
            if request.method == b"CONNECT":
                await self._tunnel(stream, connection, request, asked, visit)
            else:
                await self._plain(stream, connection, request, asked, visit)
        except RefusedError as error:
            visit.refused(error)
            with anyio.move_on_after(limits.head_s):
                if await answer(stream, connection, error):
                    await _linger(stream)
        except GONE:
            if visit.target and not visit.reason:
                visit.refused(FailedError("the client hung up"))

    async def _plain(
        self, stream: ByteStream, connection: h11.Connection, request: h11.Request, asked: str, visit: _Visit
    ) -> None:
        target, path = parse_url(asked)
        visit.target = str(target)
        said = host_header(request)
        if said is not None and not same_authority(said, target, default_port=80):
            raise RefusedError("the Host header names another host than the URL", status=400)
        await self._reach(target, visit)
        await forward(
            stream,
            connection,
            request,
            _outside(visit),
            path=path,
            authority=target.authority if target.port == 80 else str(target),
            filling=Filling(()),  # a secret never travels unencrypted
            limits=self._office.limits,
        )
        await _linger(stream)

    async def _tunnel(
        self, stream: ByteStream, connection: h11.Connection, request: h11.Request, asked: str, visit: _Visit
    ) -> None:
        target = parse_authority(asked)
        visit.target = str(target)
        said = host_header(request)
        if said is not None and not same_authority(said, target, default_port=target.port):
            raise RefusedError("the Host header names another host than CONNECT", status=400)
        allowed = await self._reach(target, visit)
        secrets = [secret for secret in self._secrets if secret.target == target]
        secure: ByteStream | None = None
        if secrets:
            secure = await self._secure(target, _outside(visit))
        if connection.next_event() is h11.NEED_DATA:
            raise RefusedError("CONNECT has no body", status=400)
        await stream.send(
            connection.send(h11.Response(status_code=200, headers=[], reason=b"Connection established"))
            or b""
        )
        reader = await self._hello(stream, bytes(connection.trailing_data[0]), target)
        if secure is None:
            await _outside(visit).send(bytes(reader.received))
            await relay(stream, _outside(visit))
            visit.reason = allowed
            return
        await self._terminate(ReturnedStream(stream, bytes(reader.received)), target, secure, secrets, visit)

    async def _reach(self, target: Target, visit: _Visit) -> str:
        allowed = self._rules.decide(target)
        office = self._office
        stream, visit.address = await reach(
            target,
            office.resolver,
            office.connector,
            office.limits,
            private=self._rules.may_be_private(target),
        )
        visit.reason = allowed

        def count(up: int, down: int) -> float:
            visit.up += up
            visit.down += down
            return self._meter.add(up=up, down=down)

        visit.outside = CountedStream(stream, count)
        return allowed

    async def _hello(self, stream: ByteStream, first: bytes, target: Target) -> HelloReader:
        reader = HelloReader()
        limits = self._office.limits
        try:
            with anyio.fail_after(limits.head_s):
                found = reader.feed(first)
                while found is None:
                    found = reader.feed(await stream.receive(PIECE))
        except NoHelloError as error:
            raise RefusedError(f"only TLS goes through a tunnel, and this is not: {error}") from None
        except TimeoutError:
            raise RefusedError(f"no TLS hello came within {limits.head_s:.0f} s") from None
        # An address has no name to ask for; a server that many names share must be asked for the allowed one.
        asked = parse_host(found.server_name) if found.server_name is not None else None
        if asked != (None if target.is_address else target.host):
            name = safe_text(found.server_name or "", 200)
            raise RefusedError(
                f"the TLS hello asks for '{name}' (SNI), and the tunnel was opened for {target.host}"
            )
        return reader

    async def _secure(self, target: Target, outside: ByteStream) -> ByteStream:
        limits = self._office.limits
        try:
            with anyio.fail_after(limits.head_s):
                return await TLSStream.wrap(
                    outside,
                    server_side=False,
                    hostname=target.host,
                    ssl_context=self._office.client_tls(),
                    standard_compatible=False,
                )
        except ssl.SSLCertVerificationError as error:
            raise FailedError(f"the certificate of {target} is not valid: {error.verify_message}") from None
        except TimeoutError:
            raise FailedError(
                f"{target} did not finish its TLS handshake within {limits.head_s:.0f} s"
            ) from None
        except GONE as error:
            raise FailedError(f"{target} does not speak TLS as it should: {type(error).__name__}") from None

    async def _terminate(
        self, stream: ByteStream, target: Target, outside: ByteStream, secrets: list[Secret], visit: _Visit
    ) -> None:
        if self._authority is None:
            raise RuntimeError("secrets without an authority")
        limits = self._office.limits
        try:
            with anyio.fail_after(limits.head_s):
                inside = await TLSStream.wrap(
                    stream, server_side=True, ssl_context=self._authority.contexts[target.host]
                )
        except TimeoutError:
            raise FailedError(f"the client did not finish TLS within {limits.head_s:.0f} s") from None
        except GONE as error:
            why = error.reason if isinstance(error, ssl.SSLError) else type(error).__name__
            raise FailedError(
                f"the client did not finish TLS ({why}): for a host with a secret it has to trust SSL_CERT_FILE"
            ) from None
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)
        try:
            request = await read_request(inside, connection, limits)
            visit.method = request.method.decode("ascii")
            said = host_header(request)
            if said is None or not same_authority(said, target, default_port=443):
                raise RefusedError("the Host header names another host than the tunnel", status=421)
            if request.method == b"CONNECT":
                raise RefusedError("a tunnel leads to one host, not to another proxy", status=400)
            filling = Filling(secrets)
            try:
                await forward(
                    inside,
                    connection,
                    request,
                    outside,
                    path=request.target.decode("latin-1"),
                    authority=target.authority if target.port == 443 else str(target),
                    filling=filling,
                    limits=limits,
                )
            finally:
                visit.secret = ", ".join(dict.fromkeys(filling.filled))
        except RefusedError as error:
            visit.refused(error)
            with anyio.move_on_after(limits.head_s):
                await answer(inside, connection, error)
        with anyio.move_on_after(_LINGER_S):
            await inside.aclose()

    # -- its record --------------------------------------------------------------------------------------------------

    def _record(self, visit: _Visit) -> None:
        unrecorded, self._unrecorded = self._unrecorded, 0
        attempt = Attempt(
            tenant=self._request.tenant,
            extensions=self._request.names,
            sandbox=self._request.sandbox,
            target=visit.target,
            verdict=visit.verdict,
            reason=safe_text(visit.reason, 500),
            address=visit.address,
            method=visit.method,
            secret=visit.secret,
            up=visit.up,
            down=visit.down,
            seconds=time.monotonic() - visit.began,
            unrecorded=unrecorded,
        )
        self._office.sink(attempt)
        self._witness(attempt)
        if visit.verdict is not Verdict.ALLOWED:
            self._remark(f"network: {visit.target or 'a connection'} {visit.verdict.value}: {visit.reason}")


def _outside(visit: _Visit) -> CountedStream:
    if visit.outside is None:
        raise RuntimeError("nothing is connected")
    return visit.outside


def _say(connection: socket.socket, data: bytes) -> None:
    """The least of an answer: what does not fit into the socket at once is not said."""
    with connection:
        try:
            connection.send(data)
        except OSError:
            pass


async def _linger(stream: ByteStream) -> None:
    """Read a little of what is still coming: a close over unread bytes would take our answer back."""
    try:
        with anyio.move_on_after(_LINGER_S):
            await stream.send_eof()
            taken = 0
            while taken < _LINGER_BYTES:
                taken += len(await stream.receive(PIECE))
    except GONE:
        pass
