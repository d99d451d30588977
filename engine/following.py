"""The node that follows the one that runs: its call is sent while that runs, so that its sandbox does not wait for us.

Only where it is certain what runs next: one node runs, and one waits for it alone, in the same sandbox. Which that is
says ``plan.py``, what its call holds ``invocation.py``, whose turn it is ``node_calls.py``, and how it is sent
``sandbox.following``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from engine.cache import Result
from engine.graph import GraphNode
from engine.instances import Instances
from engine.invocation import Inputs, Invocations
from engine.node_calls import FollowingNode, NodeCalls
from policies import SandboxId
from sandbox.calls import FollowingCall, NodeCall, Progress, Session

_MOST_EARLY: Final = 64
"""Reports of a node that is not said to run yet, which are kept until it is."""


class Followers:
    """The calls of one run that are made ahead, one at a time."""

    def __init__(
        self,
        calls: NodeCalls,
        invocations: Invocations,
        instances: Instances,
        result_of: Callable[[str], Result | None],
        hear: Callable[[GraphNode, Progress], None],
        is_alive: Callable[[SandboxId], bool],
    ) -> None:
        self._is_alive = is_alive
        self._calls = calls
        self._invocations = invocations
        self._instances = instances
        self._result_of = result_of
        self._hear = hear

    def call_of(self, node: GraphNode, after: GraphNode, session: Session) -> FollowingCall | None:
        """The call of a node that is to follow ``after``, which runs in this session, for it to send along."""
        lane = self._calls.lane_for_following(after, session)
        if lane is None or node.node_type.extension != after.node_type.extension:
            return None
        made = self._invocations.following(node, after, session, self._result_of)
        if made is None:
            return None
        inputs, promised, call = made
        self._instances.note(session, node)
        given = FollowingCall(call, promised, partial(self._hear, node))
        self._calls.following = FollowingNode(node, session, lane, inputs, after.node_id, given)
        return given

    async def taken_over(self, session: Session, node: GraphNode) -> tuple[Inputs, NodeCall] | None:
        """The call that was made ahead for a node, complete now; None where none was, or for naught."""
        following = self._calls.take_following(node)
        if following is None:
            return None
        inputs, given = following.inputs, following.given
        if following.session is not session or not self._invocations.complete(
            node, inputs, given.promised, self._result_of(following.after), session, self._is_alive
        ):
            await following.session.give_up(given.call)
            return None
        for progress in following.early:
            self._hear(node, progress)
        return inputs, given.call

    def close(self) -> None:
        """The run is over. Without this it would hold itself, until the collector looks at what stayed."""
        self._hear = lambda *_: None

    def note_early(self, node: GraphNode, progress: Progress) -> None:
        """The node that follows reported this before it was said to run."""
        following = self._calls.following
        if following is not None and following.node is node and len(following.early) < _MOST_EARLY:
            following.early.append(progress)
