"""The node that follows the one that runs: its call is sent while that runs, so that its sandbox does not wait for us.

Only where it is certain what runs next: one node runs, and one waits for it alone, in the same sandbox. Which that is
says ``plan.py``, what its call holds ``invocation.py``, and how it is sent ``sandbox.following``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.graph import GraphNode
from engine.invocation import Inputs
from sandbox import Turn
from sandbox.calls import FollowingCall, Session


@dataclass(slots=True, eq=False)
class FollowingNode:
    """One whose call was made before the node before it had ended."""

    node: GraphNode
    session: Session
    lane: Turn
    """Its sandbox's, which is not left between the two."""
    inputs: Inputs
    promised: Mapping[str, int]
    after: str
    """Whose outputs those are."""
    given: FollowingCall
