"""One question to a worker: put, waited for, interrupted, and what its failure says.

A session's part that knows of deadlines and interruptions: what is asked, and what comes of the answer, is
``session.py``'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import anyio

from policies import ExtensionName
from runtime import wire
from sandbox import messages
from sandbox.audit import AuditEvent, Entry, Outcome
from sandbox.audit.denial import at_wall
from sandbox.errors import LoadFailedError, NodeRaisedError, ProtocolViolationError, QuotaError, SandboxError
from sandbox.following import NotFollowedError
from sandbox.launcher import failure
from sandbox.launcher.verbs import Launcher
from sandbox.lifecycle import Sandbox, ended_copy
from sandbox.outputs import Outputs
from sandbox.peer import ConversationEndedError, PendingCall, RemoteCallError

T = TypeVar("T")


class Questions:
    """Puts the questions of one session."""

    def __init__(
        self, sandbox: Sandbox, extension: ExtensionName, outputs: Outputs, launcher: Launcher
    ) -> None:
        self._sandbox = sandbox
        self._extension = extension
        self._outputs = outputs
        self._launcher = launcher

    async def ask(self, method: str, params: dict[str, Any], what: object, key: str, limit_s: float) -> Any:
        """Ask the worker for anything but a node's execution."""
        sandbox = self._sandbox
        with sandbox.busy():
            if method == wire.DESCRIBE:
                return await self.put(method, params, what, key, limit_s)
            with sandbox.asking():
                return await self.put(method, params, what, key, limit_s)

    async def put(
        self,
        method: str,
        asked: dict[str, Any] | PendingCall,
        what: object,
        key: str,
        limit_s: float,
        number: int | None = None,
        then: Callable[[PendingCall], None] | None = None,
    ) -> Any:
        """Put a question that is on its way already, or goes now; ``then`` is called once it is. ``number`` is that
        of a node's execution. Whoever calls this has counted it as in use.

        Raises:
            NodeRaisedError, SandboxError: how a call can fail (``session.py``).
            NotFollowedError: one that was on its way was not run.
        """
        sandbox = self._sandbox
        watch = sandbox.watch
        began = time.perf_counter() if watch is not None else 0.0
        was_sent = isinstance(asked, PendingCall)
        pending: PendingCall | None = None
        try:
            try:
                pending = asked if isinstance(asked, PendingCall) else sandbox.peer.begin(method, asked)
                sandbox.at_work[pending] = (what, self._extension)
                if pending.unsent is not None:
                    # Bounded by the deadline of writing; a worker that has all of it must be asked to stop (below).
                    with anyio.CancelScope(shield=True):
                        await sandbox.peer.see_through(pending)
            except ConversationEndedError:
                raise ended_copy(await sandbox.final_error(), call_started=False) from None
            except wire.FrameTooLargeError as error:
                raise QuotaError(f"the inputs of {what} do not fit one message: {error}") from None
            if then is not None:
                then(pending)
            try:
                if not pending.is_settled:
                    await pending.settling(limit_s)
                return pending.result()
            except TimeoutError:
                sandbox.end(failure.too_slow(sandbox.names, str(what), key, limit_s))
                raise await sandbox.final_error() from None
            except ConversationEndedError:
                raise ended_copy(await sandbox.final_error(), call_started=True) from None
            except RemoteCallError as error:
                if was_sent and error.error.code == wire.NOT_FOLLOWING:
                    raise NotFollowedError from None
                raise await self._failed(error) from None
            except anyio.get_cancelled_exc_class():
                pending.wait_no_more()
                with anyio.CancelScope(shield=True):
                    await self.interrupt(pending, what, number)
                raise
        finally:
            if pending is not None:
                pending.close()
                sandbox.at_work.pop(pending, None)
            if watch is not None:
                watch.took(key, time.perf_counter() - began, str(what))

    async def interrupt(self, pending: PendingCall, what: object, number: int | None) -> None:
        """The caller no longer wants it: ask it to stop, then see to it. Returns when it does not run any more."""
        grace_s = self._sandbox.policy.timeouts.grace_s
        with anyio.move_on_after(grace_s):
            try:
                sent = self._sandbox.following
                if sent is not None and sent.after is what:
                    # First, or it would run if this one ends well in this moment.
                    await self._sandbox.peer.notify(wire.CANCEL, {"call": sent.number})
                if number is not None and not pending.is_settled:
                    await self._sandbox.peer.notify(wire.CANCEL, {"call": number})
                answer = await pending.wait()
            except (RemoteCallError, ConversationEndedError):
                return
            await self._throw_away(answer)
            return
        reason = failure.unresponsive(self._sandbox.names, f"{what} did not stop when it was interrupted")
        self._sandbox.end(reason, deliberate=True)
        await self._sandbox.gone()

    async def _throw_away(self, answer: Any) -> None:
        """A result that came after all: its files are given back."""
        limits = self._sandbox.policy.limits
        try:
            parsed = messages.executed(
                answer, self._sandbox.id, max_values=limits.outputs, max_expansion=limits.expansion_nodes
            )
            self._outputs.release(await self._outputs.node_result(parsed))
        except ProtocolViolationError as error:
            self._sandbox.end(error)
        except SandboxError:
            return

    async def _failed(self, error: RemoteCallError) -> Exception:
        try:
            mine = messages.failure(error.error, self._extension)
        except ProtocolViolationError as violation:
            return await self.broken(violation)
        if isinstance(mine, NodeRaisedError) and not mine.hint:
            before, now = self._sandbox.usage, await self._launcher.stats(self._sandbox.id)
            names = self._sandbox.names
            mine.hint = failure.hint(before, now, names) or failure.refusal(
                mine.exception_type, mine.message, mine.traceback, names
            )
            self._sandbox.usage = now
            self._note_wall(mine)
        if isinstance(mine, LoadFailedError) and not mine.hint:
            # Of its files a pack may miss many for reasons of its own; the network it has by its policy or not at all.
            mine.hint = failure.refusal(mine.exception_type, "", mine.traceback, self._sandbox.names)
        return mine

    def _note_wall(self, error: NodeRaisedError) -> None:
        """A pack met a wall of its policy, as far as its own error tells: its word, so marked as such."""
        sandbox = self._sandbox
        if sandbox.watch is not None:
            sandbox.watch.hit_wall(error)
        denied = at_wall(error.hint, error.message, sandbox.policy, (self._extension,))
        if not denied or not sandbox.may_note():
            return
        sandbox.note(
            Entry(
                AuditEvent.WALL_MET,
                Outcome.DENIED,
                tenant=sandbox.tenant,
                extensions=(self._extension,),
                sandbox=sandbox.id,
                policy=sandbox.policy.digest(),
                text=f"{error.exception_type}: {error.message}",
                **denied,
                details={"said_by": "the pack's own error"},
            )
        )

    async def broken(self, violation: ProtocolViolationError) -> SandboxError:
        self._sandbox.end(violation)
        return await self._sandbox.final_error()

    async def checked(self, read: Callable[[], T]) -> T:
        """What ``read`` makes of an answer; a worker whose answer is none is ended."""
        try:
            return read()
        except ProtocolViolationError as error:
            raise await self.broken(error) from error
