"""One connection of a sandbox to its proxy: what it asks for, whether it may, and the bytes both ways.

A plain request is forwarded; a tunnel is one to a host that the policy allows, carries TLS and says in its hello which
name it wants. Where a secret goes to that host the tunnel ends here, and a request in it is filled in and sent on.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Final

import anyio
import h11
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from policies import safe_text
from sandbox.egress.authority import Authority
from sandbox.egress.connect import reach
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
from sandbox.egress.limits import Meter
from sandbox.egress.office import EgressOffice
from sandbox.egress.streams import PIECE, CountedStream, ReturnedStream, relay
from sandbox.egress.vault import Secret
from sandbox.egress.visit import Visit

_LINGER_S: Final = 1.0
_LINGER_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Means:
    """What the conversations of one sandbox have in common."""

    office: EgressOffice
    rules: Rules
    meter: Meter
    secrets: tuple[Secret, ...] = ()
    authority: Authority | None = None
    """Signs for the hosts of the secrets; the sandbox trusts it, and nobody else does."""


class Conversation:
    """That of one connection; ``run`` it once."""

    def __init__(self, means: Means, stream: ByteStream, visit: Visit) -> None:
        self._means = means
        self._office = means.office
        self._meter = means.meter
        self._stream = stream
        self._visit = visit

    async def run(self) -> None:
        """Until it is over. A refusal is answered and stands in the visit; nothing is raised for the client's sake."""
        visit, stream = self._visit, self._stream
        limits = self._office.limits
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)
        try:
            request = await read_request(stream, connection, limits)
            visit.method = request.method.decode("ascii")
            asked = request.target.decode("latin-1")
            visit.target = safe_text(asked, 200)
            if request.method == b"CONNECT":
                await self._tunnel(connection, request, asked)
            else:
                await self._plain(connection, request, asked)
        except RefusedError as error:
            visit.refused(error)
            with anyio.move_on_after(limits.head_s):
                if await answer(stream, connection, error):
                    await _linger(stream)
        except GONE:
            if visit.target and not visit.reason:
                visit.refused(FailedError("the client hung up"))

    async def _plain(self, connection: h11.Connection, request: h11.Request, asked: str) -> None:
        visit, stream = self._visit, self._stream
        target, path = parse_url(asked)
        visit.target = str(target)
        said = host_header(request)
        if said is not None and not same_authority(said, target, default_port=80):
            raise RefusedError("the Host header names another host than the URL", status=400)
        await self._reach(target)
        await forward(
            stream,
            connection,
            request,
            visit.way_out,
            path=path,
            authority=target.authority if target.port == 80 else str(target),
            filling=Filling(()),  # a secret never travels unencrypted
            limits=self._office.limits,
        )
        await _linger(stream)

    async def _tunnel(self, connection: h11.Connection, request: h11.Request, asked: str) -> None:
        visit, stream = self._visit, self._stream
        target = parse_authority(asked)
        visit.target = str(target)
        said = host_header(request)
        if said is not None and not same_authority(said, target, default_port=target.port):
            raise RefusedError("the Host header names another host than CONNECT", status=400)
        allowed = await self._reach(target)
        secrets = [secret for secret in self._means.secrets if secret.target == target]
        secure: ByteStream | None = None
        if secrets:
            secure = await self._secure(target, visit.way_out)
        if connection.next_event() is h11.NEED_DATA:
            raise RefusedError("CONNECT has no body", status=400)
        await stream.send(
            connection.send(h11.Response(status_code=200, headers=[], reason=b"Connection established"))
            or b""
        )
        reader = await self._hello(bytes(connection.trailing_data[0]), target)
        if secure is None:
            await visit.way_out.send(bytes(reader.received))
            await relay(stream, visit.way_out)
            visit.reason = allowed
            return
        await self._terminate(ReturnedStream(stream, bytes(reader.received)), target, secure, secrets)

    async def _reach(self, target: Target) -> str:
        visit = self._visit
        allowed = self._means.rules.decide(target)
        office = self._office
        stream, visit.address = await reach(
            target,
            office.resolver,
            office.connector,
            office.limits,
            private=self._means.rules.may_be_private(target),
        )
        visit.reason = allowed

        def count(up: int, down: int) -> float:
            visit.up += up
            visit.down += down
            return self._meter.add(up=up, down=down)

        visit.outside = CountedStream(stream, count)
        return allowed

    async def _hello(self, first: bytes, target: Target) -> HelloReader:
        reader = HelloReader()
        limits = self._office.limits
        try:
            with anyio.fail_after(limits.head_s):
                found = reader.feed(first)
                while found is None:
                    found = reader.feed(await self._stream.receive(PIECE))
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
        self, stream: ByteStream, target: Target, outside: ByteStream, secrets: list[Secret]
    ) -> None:
        if self._means.authority is None:
            raise RuntimeError("secrets without an authority")
        limits = self._office.limits
        try:
            with anyio.fail_after(limits.head_s):
                inside = await TLSStream.wrap(
                    stream, server_side=True, ssl_context=self._means.authority.contexts[target.host]
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
            self._visit.method = request.method.decode("ascii")
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
                self._visit.secret = ", ".join(dict.fromkeys(filling.filled))
        except RefusedError as error:
            self._visit.refused(error)
            with anyio.move_on_after(limits.head_s):
                await answer(inside, connection, error)
        with anyio.move_on_after(_LINGER_S):
            await inside.aclose()


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
