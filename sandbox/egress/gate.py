"""The proxy of one sandbox: a Unix socket in a directory that only this sandbox sees, and its connections.

Whoever is at the socket is the sandbox, whatever process of it: the bridge inside is a convenience, not a wall. Who may
be there, how many at once and for how long is decided here, and each connection's record is made; what is said on it is
``conversation.py``'s.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import anyio
import anyio.to_thread
from anyio.abc import ByteStream

from policies import EffectivePolicy, safe_text
from policies import Secret as SecretEntry
from runtime import wire
from sandbox.egress.attempts import Attempt, AttemptSink, Verdict, unwatched
from sandbox.egress.authority import make_authority, usual_bundle
from sandbox.egress.conversation import Conversation, Means
from sandbox.egress.decision import (
    FailedError,
    RefusedError,
    Rules,
)
from sandbox.egress.office import EgressOffice
from sandbox.egress.streams import LocalStream
from sandbox.egress.visit import Visit
from sandbox.launcher.verbs import SandboxRequest
from sandbox.patience import remove_tree
from sandbox.rates import Allowance

log = logging.getLogger(__name__)

_CREDENTIALS: Final = struct.Struct("3i")
_BACKLOG: Final = 64
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


def gate_for(
    office: EgressOffice,
    request: SandboxRequest,
    policy: EffectivePolicy,
    remark: Remark,
    witness: AttemptSink = unwatched,
) -> EgressGate | None:
    """The gate of a sandbox whose policy allows anything; None for all others."""
    rules = egress_rules(policy)
    return None if rules is None else EgressGate(office, request, rules, policy.secrets, remark, witness)


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
        self._means = Means(office, rules, office.meter(request.tenant))
        self._entries = secrets
        self._remark = remark
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
        secrets = self._office.vault.secrets(self._entries, self._request.tenant)
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._directory.chmod(0o755)
        if secrets:
            names = sorted({secret.target.host for secret in secrets})
            scratch = self._office.places.run / "authorities"
            authority = make_authority(names, scratch, label=self._request.sandbox)
            self._means = replace(self._means, secrets=secrets, authority=authority)
            self._office.client_tls()
            bundle = self._directory / wire.EGRESS_BUNDLE.rpartition("/")[2]
            bundle.write_text(f"{usual_bundle().rstrip()}\n{authority.certificate}")
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
                    self._means.meter.enter()
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
        visit = Visit()
        visit.refused(error)
        self._record(visit)

    async def _receive(self, connection: socket.socket) -> None:
        visit = Visit()
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
            self._means.meter.leave()
            with anyio.CancelScope(shield=True):
                if visit.outside is not None:
                    await anyio.aclose_forcefully(visit.outside)
                if stream is not None:
                    await stream.aclose()
                connection.close()
            if visit.reason:
                self._record(visit)

    async def _watched(self, stream: ByteStream, visit: Visit) -> None:
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
            await Conversation(self._means, stream, visit).run()
            group.cancel_scope.cancel()

    # -- its record --------------------------------------------------------------------------------------------------

    def _record(self, visit: Visit) -> None:
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


def _say(connection: socket.socket, data: bytes) -> None:
    """The least of an answer: what does not fit into the socket at once is not said."""
    with connection:
        try:
            connection.send(data)
        except OSError:
            pass
