"""Live objects on their way through another sandbox: what a run lets pass, and as what.

A sandbox that gets an object of another one gets a number instead, good for handing on and for nothing else. Numbers
are like tickets: a sandbox may give back those that this run gave to it, and the object itself stays where it is.
"""

from __future__ import annotations

import itertools
from typing import Any, Final

from engine.carrying import may_take
from engine.registry import NodeType
from engine.values import Ledger, not_portable
from policies import ExtensionName, SandboxId, TenantId, safe_text
from sandbox.calls import ForeignHandle, Session, Value
from sandbox.errors import HandleNotPortableError

JSON = Any

_numbers: Final = itertools.count(
    1
)  # never twice, so that what a pack kept of an earlier prompt is no other object


class Passages:
    """The objects that one run let into sandboxes that do not hold them."""

    def __init__(self, ledger: Ledger, tenant: TenantId) -> None:
        self._ledger = ledger
        self._tenant = tenant
        self._files: dict[ExtensionName, str] = {}
        self._granted: dict[SandboxId, dict[int, ForeignHandle]] = {}
        self._known: dict[tuple[SandboxId, SandboxId, int], int] = {}
        self._held: list[Value] = []

    def granted(self, sandbox: SandboxId) -> dict[int, ForeignHandle]:
        """What the sandbox may give back, by number; filled while the run goes on."""
        return self._granted.setdefault(sandbox, {})

    def let_pass(
        self,
        value: Value,
        session: Session,
        reader: str,
        target: tuple[NodeType, str],
        source: NodeType | None,
    ) -> Value:
        """``value`` as the session's sandbox may see it, its own handles as they are. The holder stays the same.

        ``target`` is the node that gets it and the input, ``source`` the node that it came of: of a group's sandbox
        only that tells which member made it.

        Raises:
            HandleNotPortableError: the node has nowhere to hand it on to, or the object is in a file of other values.
        """
        foreign = {handle for handle in value.handles if handle[0] != session.sandbox}
        if not foreign:
            return value
        met: set[tuple[SandboxId, int]] = set()
        refusals: list[HandleNotPortableError] = []
        is_allowed = may_take(target[0].description, target[1])

        def seen(tree: JSON) -> JSON:
            if isinstance(tree, list):
                return [seen(item) for item in tree]
            if not isinstance(tree, dict):
                return tree
            handle = tree.get("$handle")
            if len(tree) != 1 or not isinstance(handle, dict):
                return {key: seen(item) for key, item in tree.items()}
            place = (SandboxId(str(handle.get("sandbox"))), int(handle.get("id", 0)))
            if place not in foreign:
                return tree
            met.add(place)
            kind = safe_text(str(handle.get("type", "object")), 120)
            error = self._refusal(place, session, reader, kind, source)
            refusals.append(error)
            number = self._number(session.sandbox, place, kind) if is_allowed else 0
            text = f"{error.message}; it can only be handed on; {error.hint}"
            return {"$foreign": {"id": number, "type": kind, "text": text}}

        tree = seen(value.tree)
        if not is_allowed:
            raise (
                refusals[0] if refusals else self._refusal(min(foreign), session, reader, "object", source)
            )
        for place in sorted(foreign - met)[:1]:
            raise self._refusal(place, session, reader, "object", source)
        own = tuple(handle for handle in value.handles if handle not in foreign)
        return Value(tree, value.objects, own, value.nbytes, value.weight)

    def close(self) -> None:
        """Let go of everything that was let pass; no number is good any more."""
        self._ledger.release_all(self._held)
        self._held.clear()
        for granted in self._granted.values():
            granted.clear()

    def _refusal(
        self,
        place: tuple[SandboxId, int],
        session: Session,
        reader: str,
        kind: str,
        source: NodeType | None,
    ) -> HandleNotPortableError:
        owner = self._ledger.owner(place[0])
        is_member = source is not None and owner is not None and owner.group and source.group == owner.group
        return not_portable(
            owner,
            session,
            reader,
            kind,
            source.extension if source is not None and is_member else None,
            self._file,
        )

    def _file(self, extension: ExtensionName) -> str:
        """Looked up once in a run: every object that passes has the words for its error with it."""
        if extension not in self._files:
            self._files[extension] = self._ledger.where(extension, self._tenant)
        return self._files[extension]

    def _number(self, sandbox: SandboxId, place: tuple[SandboxId, int], kind: str) -> int:
        known = self._known.get((sandbox, *place))
        if known is None:
            known = self._known[(sandbox, *place)] = next(_numbers)
            self.granted(sandbox)[known] = ForeignHandle(place[0], place[1], kind)
            held = Value(None, handles=(place,))
            self._ledger.retain(held)
            self._held.append(held)
        return known
