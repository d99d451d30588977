"""A call that was sent while the one before it runs: it is the worker's next, with no time between the two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runtime import wire
from sandbox.calls import FollowingCall, NodeCall
from sandbox.peer import Peer, PendingCall


@dataclass(slots=True, eq=False)
class SentAhead:
    """One that nobody waits for yet. It has the sandbox's turn as soon as the call before it is over."""

    given: FollowingCall
    number: int
    pending: PendingCall
    after: NodeCall
    offered: list[dict[str, Any]]
    """Files that it took along for its outputs."""
    is_due: bool = False
    """Whether the call before has ended well."""

    @property
    def was_refused(self) -> bool:
        """Whether the call before ended well, and yet not with what this one could take from it."""
        return self.is_due and self.pending.failure_code == wire.NOT_FOLLOWING


class NotFollowedError(Exception):
    """The worker did not run it, since the call before did not end as it had to."""


def send_along(
    peer: Peer, given: FollowingCall, params: dict[str, Any], number: int, after: NodeCall, after_number: int
) -> SentAhead | None:
    """Send a call that takes outputs of the call ``after``; None where it cannot be sent at once."""
    params["follows"] = {"call": after_number, "inputs": dict(given.promised)}
    # Not null, which takes the long way through the encoder.
    params["inputs"].update(dict.fromkeys(given.promised, ()))
    pending = peer.begin_at_once(wire.EXECUTE, params)
    if pending is None:
        return None
    given.is_sent = True
    return SentAhead(given, number, pending, after, params.get("offered", []))
