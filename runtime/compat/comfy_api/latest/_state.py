"""``NodeState``: attributes of one node instance that stay when its sandbox goes; the host keeps them.

They hold plain data: numbers, text, lists and dicts. One that was never set reads as None.
"""

from __future__ import annotations

from typing import Any

from ....sdk import state


class NodeState:
    """The state of the node that runs: ``cls.state.count = 1``, ``cls.state["count"]``, ``"count" in cls.state``."""

    def __init__(self, node_id: Any = None) -> None:
        del node_id  # whose state it is, the host knows by the call

    def get_value(self, key: str) -> Any:
        return state.get(key)

    def set_value(self, key: str, value: Any) -> None:
        state.set(key, value)

    def get(self, key: str, default: Any = None) -> Any:
        return state.get(key) if key in self else default

    def pop(self, key: str, default: Any = None) -> Any:
        """Forget an attribute; return what it was."""
        return state.delete(key) if key in self else default

    def keys(self) -> list[str]:
        return state.names()

    def __contains__(self, key: object) -> bool:
        return key in state.names()

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__"):
            raise AttributeError(key)
        return state.get(key)

    def __setattr__(self, key: str, value: Any) -> None:
        state.set(key, value)

    def __delattr__(self, key: str) -> None:
        state.delete(key)

    __getitem__ = get_value
    __setitem__ = set_value

    def __delitem__(self, key: str) -> None:
        state.delete(key)


class NodeStateLocal(NodeState):
    """The same, under the name of the drafts."""
