"""Files that a call takes along for its outputs, so that its worker need not ask for them when it has them.

A node that made outputs of some sizes mostly makes such again. When its sandbox has dead outputs of those sizes, the
call names them, as the answer to ``shm/allocate`` would have; what was not used is given back when the call is over.
Nothing is made ahead: only what the next request of that size would be given is handed out a little sooner. What the
call after it will most likely take along is laid out while this one runs, when the host has nothing else to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable
from typing import Any, Final

from policies import SandboxId
from sandbox.calls import NodeCall
from sandbox.fast_paths import TAKEN, FastPath
from sandbox.kept_outputs import SMALLEST
from sandbox.messages import ParsedResult
from sandbox.tensors import TensorStore

MOST_OFFERED: Final = 4
"""Files that one call takes along."""
_MOST_NODES: Final = 1_000


class Offers:
    """What the nodes of one session made last time, and what their next calls take along."""

    def __init__(self, store: TensorStore, sandbox: SandboxId) -> None:
        self._store = store
        self._sandbox = sandbox
        self.sizes: dict[tuple[str, str], list[int]] = {}
        """Bytes of each large file that a node of a class made; nodes that made none are not in it."""

    def note(self, call: NodeCall, result: ParsedResult, given: Container[str]) -> None:
        """A call's result; files among ``given`` are inputs that it handed on."""
        made = [
            nbytes
            for value in result.values()
            for name, nbytes in value.files.items()
            if nbytes >= SMALLEST and name not in given
        ]
        key = (call.class_type, call.node_id)
        if not made:
            self.sizes.pop(key, None)
        elif FastPath.OFFERED_OUTPUTS in TAKEN:
            if len(self.sizes) >= _MOST_NODES:
                self.sizes.clear()
            self.sizes[key] = made[:MOST_OFFERED]

    def make(self, call: NodeCall) -> list[dict[str, Any]]:
        """What the call takes along, as the worker is told of it."""
        offered: list[dict[str, Any]] = []
        sizes = self.sizes.get((call.class_type, call.node_id), ())
        for nbytes in sizes:
            name = self._store.offer(self._sandbox, nbytes)
            if name is not None:
                huge = self._store.huge_bytes(self._sandbox, name) if FastPath.MAPPED_OUTPUTS in TAKEN else 0
                offered.append({"file": name, "bytes": nbytes, "huge": huge})
        if offered:  # after the call was sent: nothing is awaited before it is
            asyncio.get_running_loop().call_soon(self._store.lay_out, self._sandbox, sizes)
        return offered

    def take_back(self, call: NodeCall, offered: Iterable[dict[str, Any]]) -> None:
        """The call is over: what it left is freed, and its node is offered nothing until it makes such files again."""
        for each in offered:
            if self._store.has_allocated(self._sandbox, each["file"]):
                self._store.discard(self._sandbox, each["file"])
                self.sizes.pop((call.class_type, call.node_id), None)
