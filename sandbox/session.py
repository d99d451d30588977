"""Calls on one extension in a live sandbox: turn, grants, deadline, interruption, and the result taken over.

The real ``Session``. Starting and ending the sandbox is ``lifecycle.py``'s, which sandbox serves whom
``manager.py``'s. How a call can fail:

- the pack raised: ``NodeRaisedError``; the sandbox lives on;
- the sandbox ended: its final error, when nothing of it runs any more;
- it took too long: the sandbox is ended, ``CallTimeoutError``;
- the caller was cancelled: ``node/cancel``, the policy's grace, then the sandbox is ended; returns when nothing runs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import anyio

from policies import ExtensionName, SandboxId, safe_text
from runtime import wire
from sandbox import messages
from sandbox.call_book import CallBook
from sandbox.calls import (
    ExpandedCall,
    FollowingCall,
    HttpRequest,
    HttpResponse,
    LoadedExtension,
    NodeCall,
    NodeDescription,
    NodeResult,
    PackSocket,
    ProgressSink,
    SocketRequest,
    Value,
)
from sandbox.declarations import MAX_PAGES, Registration
from sandbox.errors import (
    EndedError,
    HandleNotPortableError,
    LoadFailedError,
    NodeRaisedError,
    ProtocolViolationError,
    QuotaError,
    SandboxError,
)
from sandbox.exchanges import Exchanges
from sandbox.following import NotFollowedError, SentAhead, send_along
from sandbox.launcher.verbs import Launcher
from sandbox.lifecycle import Sandbox, ended_copy
from sandbox.offers import Offers
from sandbox.outputs import Outputs
from sandbox.peer import ConversationEndedError, PendingCall
from sandbox.questions import Questions
from sandbox.sockets import Sockets
from sandbox.tensors import TensorStore

log = logging.getLogger(__name__)

Following = Callable[[], FollowingCall | None]
_OBJECT_TAGS = frozenset({wire.TAG_JSON, wire.TAG_STR, wire.TAG_BYTES})


class ExtensionSession:
    """See ``calls.Session``."""

    def __init__(
        self,
        sandbox: Sandbox,
        extension: ExtensionName,
        calls: CallBook,
        store: TensorStore,
        launcher: Launcher,
        on_success: Callable[[], None],
    ) -> None:
        self._sandbox = sandbox
        self.sandbox: SandboxId = sandbox.id
        """The sandbox that its worker lives in."""
        self.extension: ExtensionName = extension
        self._extension = extension
        self._calls = calls
        self._store = store
        self._launcher = launcher
        self._on_success = on_success
        self._outputs = Outputs(store, sandbox.id, sandbox.policy)
        self._questions = Questions(sandbox, extension, self._outputs, launcher)
        self._offers = Offers(store, sandbox.id)
        self._exchanges = Exchanges(sandbox, extension, calls)
        self._sockets = Sockets(sandbox, extension, calls)
        self._loaded: LoadedExtension | None = None
        self._async_nodes: frozenset[str] = frozenset()
        self._loading = anyio.Lock()
        self._not_followed: set[str] = set()
        """Classes whose outputs were more than a following call can take."""

    @property
    def group(self) -> str | None:
        """The sandbox group that it is a member of."""
        return self._sandbox.request.group

    @property
    def is_loaded(self) -> bool:
        """Whether it can be called."""
        return self._loaded is not None

    @property
    def loaded(self) -> LoadedExtension:
        """What loading it found."""
        if self._loaded is None:
            raise RuntimeError("the extension has not been loaded")
        return self._loaded

    @property
    def is_alive(self) -> bool:
        """Whether a call may be made."""
        return not self._sandbox.is_ending

    @property
    def start_seconds(self) -> Mapping[str, float]:
        """How long each part of the sandbox's start took: create, attach, start, connect, hello, load."""
        return dict(self._sandbox.seconds)

    # -- loading ---------------------------------------------------------------------------------------------------

    async def load(self, module_name: str, *, core: bool) -> None:
        """Load the extension into the worker, once.

        Raises:
            LoadFailedError: its import raised, exited or hung.
            SandboxError: the sandbox ended for another reason.
        """
        async with self._loading:
            if self._loaded is not None:
                return
            root = self._sandbox.launched.code_root if self._sandbox.launched else wire.CODE_DIRECTORY
            params = {
                "name": self._extension,
                "path": f"{root}/{self._extension}",
                "module_name": module_name,
                "core": core,
            }
            began = time.perf_counter()
            limit_s = self._sandbox.policy.timeouts.import_s
            try:
                answer = await self._questions.ask(
                    wire.LOAD, params, "loading it", "timeouts.import", limit_s
                )
                nodes = Registration()
                extension, more = await self._questions.checked(lambda: messages.loaded(answer, nodes))
                await self._pages(more, nodes)
                self._loaded = replace(
                    extension,
                    nodes=tuple(nodes.nodes.values()),
                    skipped=dict(nodes.left_out),
                    notes=(*extension.notes, *nodes.notes),
                )
                self._async_nodes = frozenset(name for name, node in nodes.nodes.items() if node.is_async)
            except EndedError as error:
                text = f"extension '{self._extension}' could not be loaded: {error.message}"
                raise LoadFailedError(text, error.hint) from error
            self._sandbox.seconds["load"] = time.perf_counter() - began
            if self._sandbox.watch is not None:
                self._sandbox.watch.loaded(self._loaded)
            self._sandbox.usage = await self._launcher.stats(self._sandbox.id)

    # -- calls -------------------------------------------------------------------------------------------------------

    async def describe(self, class_types: Sequence[str] | None = None) -> tuple[NodeDescription, ...]:
        """See ``calls.Session``."""
        wanted = [node.class_type for node in self.loaded.nodes] if class_types is None else list(class_types)
        nodes = Registration()
        await self._pages(
            await self._page({"extension": self._extension, "class_types": wanted}, nodes), nodes
        )
        return tuple(nodes.nodes.values())

    async def _pages(self, more: int | None, nodes: Registration) -> None:
        """Fetch the pages that follow.

        Raises:
            SandboxError: the sandbox ended, or its worker sends pages without end.
        """
        pages = 1
        while more is not None:
            if pages >= MAX_PAGES:
                raise await self._questions.broken(
                    ProtocolViolationError(f"it describes its nodes in more than {MAX_PAGES} messages")
                )
            more = await self._page({"more": more}, nodes)
            pages += 1

    async def _page(self, params: dict[str, Any], nodes: Registration) -> int | None:
        limit_s = self._sandbox.policy.timeouts.import_s
        answer = await self._questions.ask(
            wire.DESCRIBE, params, "describing its nodes", "timeouts.import", limit_s
        )
        return await self._questions.checked(lambda: messages.described(answer, nodes))

    async def validate(self, call: NodeCall, input_types: Mapping[str, str]) -> tuple[bool | str | None, ...]:
        """See ``calls.Session``."""
        answer = await self._node_call(wire.VALIDATE, call, {"input_types": dict(input_types)})
        return await self._questions.checked(lambda: messages.validated(answer))

    async def fingerprint(self, call: NodeCall) -> Any:
        """See ``calls.Session``."""
        answer = await self._node_call(wire.FINGERPRINT, call)
        return await self._questions.checked(lambda: messages.fingerprint(answer))

    async def lazy(self, call: NodeCall) -> tuple[str, ...]:
        """See ``calls.Session``."""
        answer = await self._node_call(wire.LAZY, call)
        return await self._questions.checked(lambda: messages.lazy(answer))

    async def execute(
        self,
        call: NodeCall,
        progress: ProgressSink,
        following: Following | None = None,
    ) -> NodeResult:
        """See ``calls.Session``."""
        sandbox = self._sandbox
        sent = sandbox.following
        if sent is not None and sent.given.call is call:
            # It has been counted, and has the turn, since it was sent.
            sandbox.following = None
            sandbox.services.go_on()
            try:
                return await self._execute(call, progress, following, sent)
            except NotFollowedError:
                self._not_followed.add(sent.after.class_type)
                its_next = self._sandbox.following
                if its_next is not None:
                    await self._let_go(its_next)
                return await self._execute(call, progress, following)
            finally:
                self._leave()
        sandbox.begin_call()  # waiting for its turn is no idleness
        if call.class_type in self._async_nodes:
            try:
                return await self._execute(call, progress)
            finally:
                sandbox.end_call()
        if not sandbox.turn.take():
            try:
                await sandbox.turn.wait()
            except BaseException:
                sandbox.end_call()
                raise
        try:
            if sandbox.is_ending:
                raise ended_copy(await sandbox.final_error(), call_started=False)
            return await self._execute(call, progress, following)
        finally:
            self._leave()

    async def give_up(self, call: NodeCall) -> None:
        """See ``calls.Session``."""
        sent = self._sandbox.following
        if sent is None or sent.given.call is not call:
            return
        try:
            await self._let_go(sent)
        finally:
            self._sandbox.turn.leave()

    async def _let_go(self, sent: SentAhead) -> None:
        """Nobody wants a call that was sent: returns when it does not run any more."""
        sandbox = self._sandbox
        sandbox.following = None
        sent.given.is_sent = False
        try:
            with anyio.CancelScope(shield=True):
                await self._questions.interrupt(sent.pending, sent.given.call, sent.number)
        finally:
            if sent.was_refused:
                self._not_followed.add(sent.after.class_type)
            sent.pending.close()
            sandbox.at_work.pop(sent.pending, None)
            sandbox.services.go_on()
            sandbox.services.unlisten(sent.number)
            self._calls.close(sent.number)
            self._offers.take_back(sent.given.call, sent.offered)
            sandbox.end_call()

    def _leave(self) -> None:
        """A call is over. The turn is the following one's, if there is one."""
        if self._sandbox.following is None:
            self._sandbox.turn.leave()
        self._sandbox.end_call()

    def _send_along(self, following: Following, call: NodeCall, number: int, pending: PendingCall) -> None:
        """Have the worker go on with the next call, where there is one, as soon as it is done with this one."""
        sandbox = self._sandbox
        if (
            sandbox.following is not None
            or sandbox.watch is not None
            or sandbox.turn.is_wanted  # whoever waits for the turn has it next
            or call.class_type in self._not_followed
            or pending.failure_code is not None
            or sandbox.policy.limits.outputs < messages.PLAIN_SLOTS  # this one's may be refused
        ):
            return
        try:
            given = following()
            if given is None or given.call.class_type in self._async_nodes:
                return
            its_number = self._calls.open(self._extension, given.call)
            params, _ = self._sent(given.call, its_number)  # names no objects
            if self._offers.sizes and (offered := self._offers.make(given.call)):
                params["offered"] = offered
            sent = send_along(sandbox.peer, given, params, its_number, call, number)
        except Exception:
            # A defect of ours, and this call runs.
            log.exception("%s: what follows %s cannot be told", sandbox.names.who, call)
            return
        if sent is None:
            self._offers.take_back(given.call, params.get("offered", ()))
            self._calls.close(its_number)
            return
        sandbox.following = sent
        sandbox.begin_call()
        sandbox.services.listen(its_number, given.progress)
        sandbox.services.hold_after(pending)

    def http(
        self, request: HttpRequest, body: AsyncIterator[bytes]
    ) -> AbstractAsyncContextManager[HttpResponse]:
        """See ``calls.Session``."""
        return self._exchanges.open(request, body)

    def socket(self, request: SocketRequest) -> AbstractAsyncContextManager[PackSocket]:
        """See ``calls.Session``."""
        return self._sockets.open(request)

    async def hook_prompt(self, body: Mapping[str, Any], limit_s: float) -> Any:
        """See ``calls.Session``."""
        return await self._exchanges.hook_prompt(body, limit_s)

    async def drop_instances(self, instances: Sequence[str]) -> None:
        """See ``calls.Session``."""
        await self._tell(wire.DROP_INSTANCES, {"instances": list(instances)})

    async def release_handles(self, handles: Sequence[int]) -> None:
        """See ``calls.Session``."""
        await self._tell(wire.RELEASE_HANDLES, {"handles": list(handles)})

    # -- one call ----------------------------------------------------------------------------------------------------

    async def _execute(
        self,
        call: NodeCall,
        progress: ProgressSink,
        following: Following | None = None,
        sent: SentAhead | None = None,
    ) -> NodeResult:
        """One call that has its turn. Raises ``NotFollowedError`` as well where it was sent ahead."""
        sandbox = self._sandbox
        number = self._calls.open(self._extension, call) if sent is None else sent.number
        granted: list[str] = []
        offered: list[dict[str, Any]] = []
        asked: dict[str, Any] | PendingCall
        try:
            if sent is not None:
                asked, offered = sent.pending, sent.offered
            else:
                asked, granted = self._sent(call, number)
                if self._offers.sizes and (offered := self._offers.make(call)):
                    asked["offered"] = offered
                sandbox.services.listen(number, progress)
            limit_s = sandbox.policy.timeouts.call_s
            then = None if following is None else partial(self._send_along, following, call, number)
            answer = await self._questions.put(
                wire.EXECUTE, asked, call, "timeouts.call", limit_s, number, then
            )
            next_one = sandbox.following
            if next_one is not None and next_one.after is call:
                next_one.is_due = True
                sandbox.at_work[next_one.pending] = (next_one.given.call, self._extension)
            result = (
                messages.executed_plainly(answer, max_values=sandbox.policy.limits.outputs)
                if sandbox.watch is None
                else None
            )
            if result is None:
                result = await self._taken_over(answer, call, granted)
            self._on_success()
            return result
        except NodeRaisedError:
            self._on_success()  # the pack's error, not the sandbox's
            raise
        except QuotaError as error:
            if self._sandbox.watch is not None:
                self._sandbox.watch.refused(error)
            raise
        finally:
            sandbox.services.unlisten(number)
            self._calls.close(number)
            if offered:
                self._offers.take_back(call, offered)
            if granted:
                self._store.revoke(self.sandbox, granted)

    async def _taken_over(self, answer: Any, call: NodeCall, granted: Sequence[str]) -> NodeResult:
        """A result with all that may be in one."""
        limits = self._sandbox.policy.limits
        parsed = await self._questions.checked(
            lambda: messages.executed(
                answer,
                self.sandbox,
                max_values=limits.outputs,
                max_expansion=limits.expansion_nodes,
                foreign=call.foreign,
            )
        )
        result = await self._adopted(parsed)
        self._offers.note(call, parsed, granted)
        if self._sandbox.watch is not None:
            self._sandbox.watch.returned(parsed, call.depth)
        if result.calls is not None:
            self._check_depth(call, result.calls, result)
        return result

    def _check_depth(self, call: NodeCall, made: Sequence[ExpandedCall], result: NodeResult) -> None:
        limit = self._sandbox.policy.limits.expansion_depth
        if call.depth >= limit and any(each.expand for each in made):
            self._outputs.release(result)
            names = self._sandbox.names
            raise QuotaError(
                f"{names.who}: {call} expands inside {call.depth} other expansions, the policy allows "
                f"{names.cap('limits.expansion_depth', str(limit))}",
                "raise 'limits.expansion_depth', or let it loop less often",
            )

    async def _adopted(self, parsed: messages.ParsedResult) -> NodeResult:
        try:
            return await self._outputs.node_result(parsed)
        except ProtocolViolationError as error:
            raise await self._questions.broken(error) from error
        except QuotaError:
            raise
        except SandboxError as error:
            if self._sandbox.is_ending:
                raise ended_copy(await self._sandbox.final_error(), call_started=True) from error
            raise

    async def _node_call(self, method: str, call: NodeCall, extra: Mapping[str, Any] | None = None) -> Any:
        number = self._calls.open(self._extension, call)
        limit_s = self._sandbox.policy.timeouts.call_s
        granted: list[str] = []
        try:
            params, granted = self._sent(call, number)
            if extra:
                params |= extra
            return await self._questions.ask(method, params, _Part(method, call), "timeouts.call", limit_s)
        finally:
            self._calls.close(number)
            if granted:
                self._store.revoke(self.sandbox, granted)

    async def _tell(self, method: str, params: dict[str, Any]) -> None:
        try:
            await self._sandbox.peer.notify(method, params)
        except ConversationEndedError:
            return  # gone, and what it should forget with it

    # -- parts of a call ---------------------------------------------------------------------------------------------

    def _sent(self, call: NodeCall, number: int) -> tuple[dict[str, Any], list[str]]:
        """What the worker is told of a call, and the objects that it names.

        The sandbox sees those from now on; whoever gets the names revokes them when the call is over.
        """
        inputs: dict[str, list[Any] | None] = {}
        objects: dict[str, None] = {}
        for name, values in call.inputs.items():
            if values is None:
                inputs[name] = None
                continue
            trees: list[Any] = []
            for value in values:
                trees += (value.tree,)
                if value.objects:
                    objects |= dict.fromkeys(value.objects)
                if value.handles:
                    self._refuse_others(name, value, call)
            inputs[name] = trees
        for tree in call.hidden.values() if call.hidden else ():
            objects |= dict.fromkeys(_large(tree))
        granted = list(objects)
        if granted:
            self._store.grant(self.sandbox, granted)
        params: dict[str, Any] = {
            "call": number,
            "extension": self._extension,
            "prompt_id": call.prompt_id,
            "node_id": call.node_id,
            "class_type": call.class_type,
            "instance": call.instance or call.node_id,
            "inputs": inputs,
            "hidden": dict(call.hidden),
        }
        if call.links is not None:
            params["links"] = call.links
        if call.client_id is not None:
            params["client_id"] = call.client_id
        if call.dynprompt is not None:
            params["dynprompt"] = call.dynprompt
        return params, granted

    def _refuse_others(self, name: str, value: Value, call: NodeCall) -> None:
        for owner, _ in value.handles:
            if owner != self.sandbox:
                raise HandleNotPortableError(
                    f"input {safe_text(name, 80)!r} of node {safe_text(call.node_id, 80)!r} is an object that "
                    f"lives in another sandbox than extension '{self._extension}'",
                    "put both extensions into one sandbox group",
                )


@dataclass(slots=True, eq=False)
class _Part:
    """What is asked of a node, put into words only where somebody reads them."""

    method: str
    call: NodeCall

    def __str__(self) -> str:
        return f"{self.method} of {self.call}"


def _large(tree: Any) -> list[str]:
    """The object that a hidden value is, when it is one; inside it there are none (its maker saw to that)."""
    if isinstance(tree, dict) and len(tree) == 1:
        ((tag, body),) = tree.items()
        if tag in _OBJECT_TAGS and isinstance(body, dict) and isinstance(body.get("file"), str):
            return [body["file"]]
    return []
