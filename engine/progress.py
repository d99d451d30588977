"""The progress map of one run: every event shows the whole map, and none copies it.

``ProgressLog`` only appends; a ``ProgressView`` is the log and a point in its history. Clients are sent the whole
map on every change, which is quadratic in long prompts, so above ``EAGER_NODES`` nodes a change of state is passed on
only when enough others have piled up to pay for the map. What was said of a state is kept as long as it stands: a map
costs what changed since the one before it, and copying the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, ValuesView
from itertools import islice
from typing import Final

from engine.events import NodeProgress, ProgressMap
from sandbox import TAKEN, FastPath

EAGER_NODES: Final = 256
SHARE: Final = 32  # above EAGER_NODES, a map of n nodes is shown once every n / SHARE changes
KEPT_STATES: Final = 64  # of one node; a view older than that shows the oldest
KEPT_CHANGES: Final = 1024  # since a map was last put into words; after more it is done anew

Say = Callable[[NodeProgress, str], bytes]


class ProgressView(ProgressMap):
    """The map as it was at one moment."""

    __slots__ = ("_length", "_log", "_version")

    def __init__(self, log: ProgressLog, version: int, length: int) -> None:
        self._log = log
        self._version = version
        self._length = length

    def __getitem__(self, node_id: str) -> NodeProgress:
        states = self._log.states[node_id]
        if states.position >= self._length:
            raise KeyError(node_id)
        return self._state(states)

    def __iter__(self) -> Iterator[str]:
        return islice(iter(self._log.states), self._length)

    def __len__(self) -> int:
        return self._length

    def values(self) -> ValuesView[NodeProgress]:
        """The states, in the order in which nodes left pending."""
        return _StatesView(self)

    def states(self) -> Iterator[NodeProgress]:
        """The same without looking each of them up."""
        return map(self._state, islice(self._log.states.values(), self._length))

    def said(self, say: Say, about: str) -> bytes:
        """See ``ProgressMap``."""
        sayings = self._log.sayings(say, about, self._version)
        if sayings is None:  # another map was said meanwhile, which is later than this one
            sayings = [say(state, about) for state in self.states()]
        return b",".join(sayings)

    def _state(self, states: _States) -> NodeProgress:
        for version, state in reversed(states.entries):
            if version <= self._version:  # nearly always the last: a view is looked at soon
                return state
        return states.first


class _StatesView(ValuesView[NodeProgress]):
    _mapping: ProgressView

    def __iter__(self) -> Iterator[NodeProgress]:
        return self._mapping.states()


class _States:
    __slots__ = ("entries", "position")

    def __init__(self, position: int) -> None:
        self.position = position
        self.entries: list[tuple[int, NodeProgress]] = []

    @property
    def first(self) -> NodeProgress:
        return self.entries[0][1]


class ProgressLog:
    """All states that the nodes of one run have had."""

    def __init__(self) -> None:
        self.states: dict[str, _States] = {}  # in the order in which nodes left pending
        self._version = 0
        self._held_back = 0
        self._said_by: tuple[Say, str] | None = None
        self._sayings: list[bytes] = []  # one of each node, as it was at ``_said_at``
        self._said_at = 0
        self._changes: list[NodeProgress] | None = []  # since then; None: they were too many

    def moved(self, state: NodeProgress, *, must_show: bool = False) -> ProgressView | None:
        """A node's state changed; the map as it is now, or None when this is better shown together with later ones."""
        self._version = version = self._version + 1
        changes, known = self._changes, self.states
        if changes is not None:
            changes.append(state)
            if version - self._said_at > KEPT_CHANGES:
                self._changes = None
        states = known.get(state.node_id)
        if states is None:
            states = known[state.node_id] = _States(len(known))
        entries = states.entries
        entries.append((version, state))
        if len(entries) > KEPT_STATES:
            del entries[: KEPT_STATES // 2]
        length = len(known)
        if length > EAGER_NODES and not must_show and (self._held_back + 1) * SHARE < length:
            self._held_back += 1
            return None
        self._held_back = 0
        return ProgressView(self, version, length)

    def maximum(self, node_id: str) -> float:
        """The last known maximum of a node; 1 when it has said nothing."""
        states = self.states.get(node_id)
        return states.entries[-1][1].max if states is not None else 1.0

    def view(self) -> ProgressView:
        """The map as it is now."""
        self._held_back = 0
        return ProgressView(self, self._version, len(self.states))

    def sayings(self, say: Say, about: str, version: int) -> list[bytes] | None:
        """What is said of each node as of a version, until this is called again; None of one before the last asked."""
        said_by = (say, about)
        if self._said_by is None:
            self._said_by = said_by
        if self._changes is None or self._said_by != said_by or FastPath.KEPT_SAYINGS not in TAKEN:
            self._said_by = said_by
            self._sayings = [say(states.entries[-1][1], about) for states in self.states.values()]
            self._said_at, self._changes = self._version, []
        changes, count = self._changes, version - self._said_at
        if count < 0:
            return None
        sayings = self._sayings
        moved = changes[:count]
        if count > 1:  # what a node was in between need not be said
            moved = list({state.node_id: state for state in moved}.values())
        for state in moved:
            position = self.states[state.node_id].position
            if position == len(sayings):
                sayings.append(say(state, about))
            else:
                sayings[position] = say(state, about)
        del changes[:count]
        self._said_at = version
        return sayings

    def last(self) -> ProgressView | None:
        """What was held back, at the end; None when everything was shown."""
        return self.view() if self._held_back else None
