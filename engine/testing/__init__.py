"""Official stand-ins, for tests only: a storage in memory, a store that counts, and workers that are functions.

``FakeSessions`` is node types and sandboxes in one: node classes are Python functions called in process, and everything
that crosses the line is a Value tree as from a real worker. No setting or flag reaches this room.
"""

from engine.memory_storage import MemoryStorage
from engine.testing.fake_nodes import Blocker, Context, FakeNode, Live, StandIn, Tensor
from engine.testing.fake_session import FakeSession
from engine.testing.fake_sessions import FakeSessions, until_ended
from engine.testing.fake_store import FakeStore

__all__ = [
    "Blocker",
    "Context",
    "FakeNode",
    "FakeSession",
    "FakeSessions",
    "FakeStore",
    "Live",
    "MemoryStorage",
    "StandIn",
    "Tensor",
    "until_ended",
]
