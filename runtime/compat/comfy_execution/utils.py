"""``comfy_execution.utils``: which node call the running code belongs to."""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import NamedTuple, Self

from ...sdk import context


class ExecutionContext(NamedTuple):
    prompt_id: str
    node_id: str
    list_index: int | None


_named: ContextVar[ExecutionContext | None] = ContextVar("ringfence_named_context", default=None)


def get_executing_context() -> ExecutionContext | None:
    """The running call, or None outside one (at import, in a thread the pack started)."""
    named = _named.get()
    if named is not None:
        return named
    call = context.current()
    return None if call is None else ExecutionContext(call.prompt_id, call.node_id, call.list_index)


class CurrentNodeContext:
    """``with CurrentNodeContext(prompt_id, node_id):`` names another call for the code inside."""

    def __init__(self, prompt_id: str, node_id: str, list_index: int | None = None) -> None:
        self.context = ExecutionContext(prompt_id, node_id, list_index)
        self._token: Token[ExecutionContext | None] | None = None

    def __enter__(self) -> Self:
        self._token = _named.set(self.context)
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _named.reset(self._token)
