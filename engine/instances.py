"""V1 node objects that live in workers: which there are, and when to forget them (execution-semantics §4.2).

An object lives as long as each following prompt of the tenant contains that node id with that class; objects of
expansion nodes live as long as the submitted node above them. With the cache mode *none* every prompt gets new ones.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from engine.graph import GraphNode
from sandbox.calls import Session


@dataclass(slots=True)
class _Worker:
    session: Session
    roots: dict[str, tuple[str, str]] = field(
        default_factory=dict
    )  # instance key -> (id, class) of the submitted node


class Instances:
    """What one tenant's workers hold."""

    def __init__(self) -> None:
        self._workers: dict[str, _Worker] = {}  # by extension: one live session each

    def note(self, session: Session, node: GraphNode) -> None:
        """A node is about to be called in this session."""
        worker = self._workers.get(session.extension)
        if worker is None or worker.session.sandbox != session.sandbox:
            worker = self._workers[session.extension] = _Worker(session)
        if node.parent is None:
            worker.roots[node.instance] = (node.node_id, node.class_type)
        else:
            worker.roots.setdefault(node.instance, (node.real, ""))

    def take_stale(self, roots: Collection[tuple[str, str]]) -> list[tuple[Session, list[str]]]:
        """What to drop because the running prompts no longer name it. Sessions that ended are forgotten."""
        ids = {node_id for node_id, _ in roots}
        stale = []
        for extension, worker in list(self._workers.items()):
            if not worker.session.is_alive:
                del self._workers[extension]
                continue
            gone = [
                key
                for key, root in worker.roots.items()
                if (root[1] and root not in roots) or (not root[1] and root[0] not in ids)
            ]
            for key in gone:
                del worker.roots[key]
            if gone:
                stale.append((worker.session, gone))
        return stale

    def take_owned(self, prompt_id: str) -> list[tuple[Session, list[str]]]:
        """The objects that a prompt had to itself, now that it has ended."""
        owned = []
        for worker in self._workers.values():
            keys = [key for key in worker.roots if key.startswith(f"{prompt_id}/")]
            for key in keys:
                del worker.roots[key]
            if keys and worker.session.is_alive:
                owned.append((worker.session, keys))
        return owned

    def take_all(self) -> list[Session]:
        """Live sessions whose objects are all to be dropped."""
        sessions = [worker.session for worker in self._workers.values() if worker.session.is_alive]
        self._workers.clear()
        return sessions
