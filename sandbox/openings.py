"""What the host opens for one sandbox before its start and takes away after its end.

Its account in the tensor store, the door that its worker knocks at, and, where its policy allows a network, its proxy.
``close`` may follow whatever ``open`` got to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio
import anyio.to_thread

from policies import EffectivePolicy
from sandbox.egress import EgressGate, gate_for, unwatched
from sandbox.errors import ProtocolViolationError, StartError
from sandbox.launcher import failure
from sandbox.launcher.attachment import Tail
from sandbox.launcher.verbs import LaunchedSandbox, SandboxRequest
from sandbox.peer import Peer
from sandbox.services import Services
from sandbox.streams import AttachedStream, ByteStream, Door, EndOfStreamError, SocketStream
from sandbox.surroundings import Surroundings
from sandbox.watching import Watch

_GOFER_UID: Final = 0


class Openings:
    """Those of one sandbox."""

    def __init__(
        self,
        request: SandboxRequest,
        policy: EffectivePolicy,
        around: Surroundings,
        *,
        told: Callable[[str], None],
        watch: Watch | None,
    ) -> None:
        self._request = request
        self._policy = policy
        self._around = around
        self._names = failure.Names(request.names, policy)
        self._told = told
        self._reached = unwatched if watch is None else watch.reached
        self._door = Door(around.places.socket_directory(request.sandbox))
        self._gate: EgressGate | None = None
        self._stderr = Tail()

    async def open(self) -> None:
        """Make them; the container comes after.

        Raises:
            StartError: its policy allows a network and this host has no proxy.
        """
        policy = self._policy
        # GPU: a driver can pin pages, which a lease does not see. gVisor keeps files open: the lease is never granted.
        zero_copy = policy.isolation == "runc" and not policy.gpus
        await self._around.store.register(
            self._request.sandbox,
            self._request.tenant,
            quota=policy.shared_memory,
            quota_name=str(policy.source("shared_memory")),
            zero_copy=zero_copy,
        )
        if policy.transport == "socket":
            await anyio.to_thread.run_sync(self._door.open)
        self._gate = self._egress_gate()
        if self._gate is not None:
            await self._gate.open()

    def _egress_gate(self) -> EgressGate | None:
        if self._around.egress is not None:
            return gate_for(self._around.egress, self._request, self._policy, self._told, self._reached)
        if self._policy.network:
            raise StartError(
                f"the policy of {self._names.who} allows a network, and this host has no proxy for it",
                f"write 'network: none' ({self._policy.source('network')})",
            )
        return None

    def admit(self, launched: LaunchedSandbox) -> None:
        """From here on the proxy serves the sandbox's user, and nobody else."""
        if self._gate is not None:
            self._gate.uid = _who_connects(self._policy, launched)

    async def connect(self, launched: LaunchedSandbox, died: anyio.Event, services: Services) -> Peer:
        """The conversation with its worker, which ``services`` serves.

        Raises:
            CallTimeoutError: it did not come in time.
            EndOfStreamError: it died before it came.
            ProtocolViolationError: somebody else knocked.
        """
        limit_s = self._policy.timeouts.import_s
        with anyio.move_on_after(limit_s):
            return Peer(
                await self._stream(launched, died),
                on_request=services.request,
                on_notification=services.notification,
                frame_limit=self._policy.limits.message_bytes,
            )
        raise failure.too_slow(self._names, "its worker's start", "timeouts.import", limit_s)

    async def _stream(self, launched: LaunchedSandbox, died: anyio.Event) -> ByteStream:
        if launched.stdio is not None:
            stream = await SocketStream.of(launched.stdio)
            return AttachedStream(stream, self._stderr.add) if launched.multiplexed else stream
        admitted: SocketStream | None = None
        refused: ProtocolViolationError | None = None
        try:
            async with anyio.create_task_group() as group:

                async def give_up() -> None:
                    await died.wait()
                    group.cancel_scope.cancel()

                group.start_soon(give_up)
                try:
                    admitted = await self._door.admit(_who_connects(self._policy, launched))
                except ProtocolViolationError as error:
                    refused = error
                group.cancel_scope.cancel()
        except BaseException:
            if admitted is not None:
                admitted.close()
            raise
        if refused is not None:
            raise refused
        if admitted is None:
            raise EndOfStreamError
        return admitted

    async def serve(self) -> None:
        """Serve its proxy, if it has one, until cancelled."""
        if self._gate is not None:
            await self._gate.serve()

    def last_words(self) -> str:
        """What came on standard error beside the protocol."""
        return self._stderr.text()

    async def close(self) -> None:
        """Take them away. No process of the sandbox is left to use them."""
        await self._around.store.unregister(self._request.sandbox)
        await self._door.remove()
        if self._gate is not None:
            await self._gate.remove()


def _who_connects(policy: EffectivePolicy, launched: LaunchedSandbox) -> int:
    """The uid that the kernel names for connections of the sandbox: its worker's, and those to its proxy.

    Under gVisor ``connect`` is made by its gofer, which is the engine's root; that the connection comes
    from this sandbox then rests on its directory, which is mounted into no other.
    """
    return _GOFER_UID if policy.isolation == "gvisor" else launched.uid
