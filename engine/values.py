"""Values in the engine's hands: encoding constants, counting who holds what, and where a value may go.

Plain data and store objects (tensors, bytes, long strings) may go to any sandbox of the tenant; an object handle only
to the sandbox that holds the object. What a value *is* inside a worker is the worker's business.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from policies import LOCAL_TENANT, ExtensionName, SandboxId, TenantId, Where, safe_text, usual_place
from sandbox.calls import Session, Value, measure
from sandbox.errors import HandleNotPortableError, SandboxError

JSON = Any

INLINE_LIMIT: Final = 64 * 1024  # as runtime.wire: what is longer travels as a file
MAX_SHOWN_TEXT: Final = 2_000
NONE: Final = Value(None)
_PLAIN: Final = (str, int, type(None))


class ValueStore(Protocol):
    """What the engine needs of ``sandbox.TensorStore``."""

    on_pressure: Callable[[TenantId, SandboxId | None, int], None]
    """Called before a quota refuses; whoever caches values may let go of some."""

    def retain(self, value: Value) -> None:
        """Take another reference to each object of a value."""

    def release(self, value: Value) -> None:
        """Give one reference back."""

    async def put(self, tenant: TenantId, data: bytes) -> str:
        """Make an object of the host's own; the caller holds one reference."""

    async def give_back(self, tenant: TenantId) -> None:
        """Free at once what of a tenant nobody refers to any more."""


def encode(value: JSON) -> JSON:
    """JSON as a value tree: names that look like tags and floats that JSON cannot say are wrapped.

    Returns ``value`` itself when there is nothing to wrap. Depth was bounded when the prompt was parsed.
    """
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return {"$float": "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}
    if isinstance(value, list):
        items = [encode(item) for item in value]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    if any(key.startswith("$") for key in value):
        return {"$dict": [[key, encode(item)] for key, item in value.items()]}
    entries = {key: encode(item) for key, item in value.items()}
    return entries if any(entries[key] is not item for key, item in value.items()) else value


def as_json(tree: JSON) -> JSON:
    """A value tree of plain data as Python's JSON has it: wrapped floats and tuples unwrapped."""
    if isinstance(tree, list):
        return [as_json(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) == 1:
        ((tag, body),) = tree.items()
        if tag == "$float" and body in ("nan", "inf", "-inf"):
            return float(body)
        if tag == "$tuple" and isinstance(body, list):
            return as_json(body)
    return {key: as_json(item) for key, item in tree.items()}


async def constant_value(value: JSON, tenant: TenantId, store: ValueStore) -> Value:
    """A constant as a Value; a large one becomes a store object of which the caller owns one reference.

    Raises:
        QuotaError: the tenant's quota refuses.
    """
    tree = encode(value)
    if isinstance(tree, str):
        if len(tree) * 4 <= INLINE_LIMIT:
            return Value(tree)
        data = tree.encode("utf-8", "surrogatepass")
        tag = "$str"
    elif isinstance(tree, dict | list):
        data = json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        tag = "$json"
    else:
        return Value(tree)
    if len(data) <= INLINE_LIMIT:
        return Value(tree)
    name = await store.put(tenant, data)
    return Value({tag: {"file": name, "nbytes": len(data)}}, objects=(name,), nbytes=len(data))


def plain(value: Value) -> JSON:
    """A value as error reports show it: null, number, bool and short text as is, everything else as a description."""
    tree = value.tree
    if tree is None or isinstance(tree, bool | int | float):
        return tree
    if isinstance(tree, str):
        return tree if len(tree) <= MAX_SHOWN_TEXT else safe_text(tree, MAX_SHOWN_TEXT, newlines=True)
    if isinstance(tree, dict) and len(tree) == 1:
        ((tag, body),) = tree.items()
        if tag in ("$tensor", "$array") and isinstance(body, dict):
            return safe_text(f"{tag[1:]} {body.get('dtype')} {body.get('shape')}", 200)
        if tag in ("$handle", "$foreign") and isinstance(body, dict):
            return safe_text(f"object {body.get('type')}", 200)
        if tag.startswith("$"):
            return tag[1:]
    return "list" if isinstance(tree, list) else "object"


class Ledger:
    """Counts the holders of handles and passes the counting of objects on to the store.

    One per engine. A Value that a session returned counts as held once when it is entered with ``adopt``.
    """

    def __init__(self, store: ValueStore, where: Where = usual_place) -> None:
        """``where`` says which file of policies is meant, for errors about handles."""
        self._store = store
        self.where = where
        self._handles: Counter[tuple[SandboxId, int]] = Counter()
        self._dead: dict[SandboxId, list[int]] = {}
        self._owners: dict[SandboxId, Session] = {}

    def note_owner(self, session: Session) -> None:
        """Remember who runs in a sandbox, for messages about its handles and to let go of them."""
        self._owners[session.sandbox] = session

    def adopt(self, value: Value) -> None:
        """Enter a value that a session just returned; the caller is its holder."""
        for handle in value.handles:
            self._handles[handle] += 1

    def retain(self, value: Value) -> None:
        """Enter another holder.

        Raises:
            SandboxError: an object of it is gone.
        """
        if value.objects:
            self._store.retain(value)
        for handle in value.handles:
            self._handles[handle] += 1

    def is_intact(self, value: Value) -> bool:
        """False when an object of a held value is gone, because its maker broke the rules after handing it over."""
        for name in value.objects:
            single = Value(None, (name,))
            try:
                self._store.retain(single)
            except SandboxError:
                return False
            self._store.release(single)
        return True

    def release(self, value: Value) -> None:
        """A holder lets go."""
        if value.objects:
            self._store.release(value)
        for handle in value.handles:
            self._handles[handle] -= 1
            if self._handles[handle] <= 0:
                del self._handles[handle]
                sandbox, number = handle
                self._dead.setdefault(sandbox, []).append(number)

    def release_all(self, values: Iterable[Value]) -> None:
        """A holder lets go of several."""
        for value in values:
            self.release(value)

    def take_dead_handles(self) -> list[tuple[Session, list[int]]]:
        """Handles that nobody holds any more, with the session to tell; each is returned once."""
        dead, self._dead = self._dead, {}
        told = [
            (self._owners[sandbox], numbers) for sandbox, numbers in dead.items() if sandbox in self._owners
        ]
        for sandbox in [sandbox for sandbox, session in self._owners.items() if not session.is_alive]:
            del self._owners[sandbox]
        return [(session, numbers) for session, numbers in told if session.is_alive]

    def owner(self, sandbox: SandboxId) -> Session | None:
        """Who runs in a sandbox, as far as it was noted."""
        return self._owners.get(sandbox)


def not_portable(
    owner: Session | None,
    target: Session,
    reader: str,
    kind: str,
    source: ExtensionName | None = None,
    where: Callable[[ExtensionName], str] = lambda name: usual_place(name, LOCAL_TENANT),
) -> HandleNotPortableError:
    """The error for an object that would have to leave its sandbox; ``where`` names an extension's policy file."""
    made_by = None if owner is None else source if owner.group and source else owner.extension
    maker = f"extension '{made_by}'" if made_by is not None else "another sandbox"
    error = HandleNotPortableError(
        f"{reader}: a live {kind} made by {maker} cannot leave its sandbox, "
        f"and extension '{target.extension}' runs in another one"
    )
    error.hint = (
        group_advice(made_by, target.extension, owner.group, target.group, where)
        if owner is not None and made_by is not None and made_by != target.extension
        else "put the extensions into one sandbox group (docs/operating.md)"
    )
    return error


def group_advice(
    maker: ExtensionName,
    reader: ExtensionName,
    made_in: str | None,
    read_in: str | None,
    where: Callable[[ExtensionName], str],
) -> str:
    """What to write so that two extensions share a sandbox; the groups they are in already, if any."""
    group = made_in or read_in or "shared"
    files = [where(name) for name, now in ((maker, made_in), (reader, read_in)) if now != group]
    return (
        f"to let both share one, write 'group: {group}' into {' and '.join(files)} (all else in the policies of a "
        "group's members has to be equal)"
    )


def list_items(value: Value) -> list[Value] | None:
    """The items of a list or tuple value as values of their own (nobody holds them yet); None for anything else."""
    tree = value.tree
    if isinstance(tree, dict) and len(tree) == 1 and isinstance(tree.get("$tuple"), list):
        tree = tree["$tuple"]
    if not isinstance(tree, list):
        return None
    return [_part(value, item) for item in tree]


def _part(whole: Value, tree: JSON) -> Value:
    if not whole.objects and not whole.handles:
        return Value(tree, weight=measure(tree)[1])
    known = set(whole.objects)
    files: dict[str, int] = {}
    handles: dict[tuple[SandboxId, int], None] = {}
    level = [tree]
    while level:  # depth was bounded when the value came in
        following: list[JSON] = []
        for item in level:
            if isinstance(item, list):
                following += item
            elif isinstance(item, dict):
                name = item.get("file")
                if isinstance(name, str) and name in known:
                    size = item.get("nbytes")
                    files[name] = size if isinstance(size, int) else 0
                handle = item.get("$handle")
                if isinstance(handle, dict):
                    handles[(SandboxId(str(handle.get("sandbox"))), int(handle.get("id", 0)))] = None
                following += item.values()
        level = following
    return Value(tree, tuple(files), tuple(handles), sum(files.values()), measure(tree)[1])
