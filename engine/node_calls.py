"""How the calls of one run reach a sandbox: which session, in whose turn, and again where none of a call has run.

What a call holds is ``invocation.py``; what comes of its outcome is ``executor.py``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import anyio

from engine import events as ev
from engine.graph import GraphNode
from engine.invocation import Inputs, Invocations, Sessions
from engine.live_types import LiveTypes
from engine.storage import QueuedPrompt
from engine.values import Ledger, ValueStore, encode
from policies import ExtensionName, RingfenceError
from sandbox import TAKEN, FastPath, Turn
from sandbox.calls import FollowingCall, Progress, Session
from sandbox.errors import EndedError

JSON = Any
T = TypeVar("T")

#: How often a call that never reached its worker is made again in another sandbox.
MAX_REPEATED: Final = 2
MAX_FINGERPRINTS: Final = 16  # IS_CHANGED calls at the same time
SAME_SESSION_S: Final = 0.05
"""For so long a run calls a session again before it asks for it anew, and hears of changed code or policies."""
NEVER: Final = {"$float": "nan"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Workbench:
    """What all runs of one engine share."""

    sessions: Sessions
    store: ValueStore
    ledger: Ledger
    publish: Callable[[ev.Event], None]
    now_ms: Callable[[], int]
    expansion_nodes: int = 10_000
    lanes: dict[Hashable, Turn] = field(default_factory=dict)
    live: LiveTypes = field(default_factory=LiveTypes)

    def lane(self, lane: Hashable) -> Turn:
        """Whose turn it is in one sandbox: it runs one synchronous node at a time, over all prompts."""
        known = self.lanes.get(lane)
        if known is None:
            known = self.lanes[lane] = Turn()
        return known


@dataclass(slots=True, eq=False)
class FollowingNode:
    """One whose call was made before the node before it had ended; see ``following.py``."""

    node: GraphNode
    session: Session
    lane: Turn
    """Its sandbox's, which is not left between the two."""
    inputs: Inputs
    after: str
    """Whose outputs are promised."""
    given: FollowingCall
    early: list[Progress] = field(default_factory=list)
    """What it reported before it was said to run."""


class NodeCalls:
    """The sandboxes of one run, as its nodes find them."""

    def __init__(self, bench: Workbench, row: QueuedPrompt, invocations: Invocations) -> None:
        self._bench = bench
        self._row = row
        self._invocations = invocations
        self._sessions: dict[ExtensionName, tuple[float, Session]] = {}
        self._lanes: dict[ExtensionName, Turn] = {}
        self.following: FollowingNode | None = None
        """The one whose call was made ahead."""
        self._is_held = False
        """Whether its lane is kept for it, the node before being done."""

    async def make(self, node: GraphNode, call_in: Callable[[Session, GraphNode], Awaitable[T]]) -> T:
        """``call_in`` a session of the node's extension, when it is the node's turn there."""
        extension, lane = node.node_type.extension, None
        if not node.node_type.description.is_async:
            lane = self._lanes.get(extension) or self._lane(node)
            if not await self._is_kept(lane, node) and not lane.take():
                await lane.wait()
        is_held = False
        try:
            repeated = 0
            while True:
                session = (
                    self._session_that_has(node) or self._kept(extension) or await self._acquire(extension)
                )
                try:
                    heir = await call_in(session, node)
                    is_held = self.has_call_of(heir)
                    return heir
                except EndedError as error:
                    # Somebody else's node ended the sandbox while this one waited for its turn: nothing of it has run.
                    if error.call_started or repeated == MAX_REPEATED:
                        raise
                    repeated += 1
                    await self.give_up_following()
                    self._sessions.pop(extension, None)  # a node beside this one may have met the same end
        finally:
            if lane is not None:
                # Only whoever comes at once may be waited for: others have no part in this, and would wait in vain.
                if is_held:
                    self._is_held = True
                else:
                    try:
                        if self.following is not None and self.following.lane is lane:
                            await self.give_up_following()
                    finally:
                        lane.leave()

    async def _is_kept(self, lane: Turn, node: GraphNode) -> bool:
        """Whether this lane was not left after the node before, since this one's call was sent along with it."""
        following = self.following
        if not self._is_held or following is None or following.lane is not lane:
            return False
        if following.node is not node:
            await self.give_up_following()
            return False
        self._is_held = False
        return True

    def lane_for_following(self, node: GraphNode, session: Session) -> Turn | None:
        """The lane of a node that runs, if another may be sent along: not where somebody waits for it, nor in a session
        that it is time to ask for anew."""
        extension = node.node_type.extension
        lane = self._lanes.get(extension)
        is_free = self.following is None or not self.following.given.is_sent
        may = lane is not None and is_free and not lane.is_wanted and self._kept(extension) is session
        return lane if may else None

    def has_call_of(self, node: object) -> bool:
        """Whether this node's call is in its worker's hands."""
        following = self.following
        return following is not None and following.node is node and following.given.is_sent

    def _session_that_has(self, node: GraphNode) -> Session | None:
        """The session that the call of this node was sent to: none is started in its place meanwhile."""
        return self.following.session if self.following is not None and self.has_call_of(node) else None

    def take_following(self, node: GraphNode) -> FollowingNode | None:
        """The call that was made ahead for this node, which has its turn now."""
        following = self.following
        if following is None or following.node is not node or not following.given.is_sent:
            return None
        self.following = None
        return following

    async def give_up_following(self) -> None:
        """There is nobody to want the call that was made ahead, if one was."""
        following, self.following = self.following, None
        is_held, self._is_held = self._is_held, False
        if following is None:
            return
        try:
            await following.session.give_up(following.given.call)
        finally:
            if is_held:
                following.lane.leave()

    def _lane(self, node: GraphNode) -> Turn:
        kind = node.node_type
        lane = self._lanes[kind.extension] = self._bench.lane(
            (self._row.tenant, kind.group or kind.extension)
        )
        return lane

    def has_fingerprints(self, nodes: Sequence[GraphNode]) -> bool:
        """Whether IS_CHANGED of any of them is to be known."""
        for node in nodes:  # noqa: SIM110 - asked of every prompt: no generator
            if node.node_type.description.has_fingerprint:
                return True
        return False

    async def fingerprints(self, nodes: Sequence[GraphNode]) -> dict[str, JSON]:
        """IS_CHANGED of all that have it, by node; one that fails has always changed."""
        found: dict[str, JSON] = {}
        asked: list[GraphNode] = []
        for node in nodes:
            if not node.node_type.description.has_fingerprint:
                continue
            if node.has_is_changed:
                found[node.node_id] = encode(node.is_changed)
            else:
                asked.append(node)
        if not asked:
            return found
        limiter = anyio.CapacityLimiter(MAX_FINGERPRINTS)

        async def ask(node: GraphNode) -> None:
            async with limiter:
                try:
                    session = await self._acquire(node.node_type.extension)
                    found[node.node_id] = await session.fingerprint(
                        await self._invocations.fingerprint_call(node, session)
                    )
                except RingfenceError as error:
                    _log.warning(
                        "prompt %s node %s: IS_CHANGED failed: %s", self._row.prompt_id, node.node_id, error
                    )
                    found[node.node_id] = NEVER

        async with anyio.create_task_group() as tasks:
            for node in asked:
                tasks.start_soon(ask, node)
        return found

    def _kept(self, extension: ExtensionName) -> Session | None:
        """The session that was asked for a moment ago, if it is still good."""
        known = self._sessions.get(extension)
        if known is None or FastPath.KEPT_SESSIONS not in TAKEN:
            return None
        return known[1] if time.monotonic() - known[0] < SAME_SESSION_S and known[1].is_alive else None

    async def _acquire(self, extension: ExtensionName) -> Session:
        now = time.monotonic()
        session = await self._bench.sessions.acquire(self._row.tenant, extension)
        self._bench.ledger.note_owner(session)
        self._sessions[extension] = (now, session)
        return session
