"""Results of nodes, kept between prompts: one ``ResultCache`` per tenant (execution-semantics §4.4).

Modes: *classic* keeps what the newest prompts still name, *lru* keeps the most recently used, *none* keeps nothing,
*ram* keeps everything until the machine's memory runs short.
A ``Result`` counts its holders: the cache is one, every run that uses it another, so evicting never takes a value
away from a run. Nothing is ever shared between tenants.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from engine.memory import Memory, comfort, headroom, read_memory
from engine.signature import CacheKey
from engine.values import Ledger
from policies import SandboxId
from sandbox.calls import Value, measure

JSON = Any
Slots = tuple[tuple[Value, ...], ...]

AGING: Final = 1.3  # a result weighs this much more with each prompt that did not use it
MAX_AGE: Final = 500
SMALLEST: Final = 1_000  # bytes that a result counts as at least


@dataclass(frozen=True, slots=True)
class CacheMode:
    """How results are kept; ``size`` is the number of entries of an lru cache, the GiB that a ram cache leaves free."""

    kind: Literal["classic", "lru", "none", "ram"] = "classic"
    size: int = 0

    @classmethod
    def parse(cls, text: str) -> CacheMode:
        """``classic``, ``none``, ``lru:<entries>``, ``ram`` or ``ram:<GiB to leave free>``.

        Raises:
            ValueError: it is none of these.
        """
        kind, _, size = text.partition(":")
        if kind == "classic" and not size:
            return cls("classic")
        if kind == "none" and not size:
            return cls("none")
        if text == "ram":
            return cls("ram")
        if size.isdecimal() and int(size) > 0:
            if kind == "lru":
                return cls("lru", int(size))
            if kind == "ram":
                return cls("ram", int(size))
        raise ValueError(f"cache mode {text!r} is not one of: classic, none, lru:<entries>, ram, ram:<GiB>")


class Result:
    """What one node produced. Starts with one holder, its maker; the last one to let go frees the values."""

    __slots__ = ("_holders", "_ledger", "nbytes", "slots", "stored", "ui")

    def __init__(self, ledger: Ledger, slots: Slots, ui: Mapping[str, JSON] | None) -> None:
        self._ledger = ledger
        self._holders = 1
        self.slots = slots
        self.ui = ui
        self.stored = 0
        """Bytes in the store."""
        weight = measure(ui)[1] if ui else 0
        for slot in slots:
            for value in slot:
                self.stored += value.nbytes
                weight += value.weight
        self.nbytes = self.stored + weight
        """The same with what the trees take of our own memory."""

    def hold(self) -> Result:
        """Become a holder."""
        self._holders += 1
        return self

    def drop(self) -> None:
        """Stop being a holder."""
        self._holders -= 1
        if self._holders == 0:
            for slot in self.slots:
                for value in slot:
                    if value.objects or value.handles:
                        self._ledger.release(value)

    @property
    def sandboxes(self) -> set[SandboxId]:
        """Sandboxes that hold objects of it."""
        return {sandbox for slot in self.slots for value in slot for sandbox, _ in value.handles}


@dataclass(slots=True)
class _Entry:
    result: Result
    generation: int


class ResultCache:
    """One tenant's results by key.

    ``is_usable`` says whether a result can still be used (nothing of it is gone, no sandbox of its handles).
    """

    def __init__(
        self,
        mode: CacheMode,
        byte_budget: int,
        is_usable: Callable[[Result], bool],
        memory: Callable[[], Memory] = read_memory,
    ) -> None:
        self.mode = mode
        self._memory = memory
        self._budget = byte_budget
        self._is_usable = is_usable
        self._entries: dict[CacheKey, _Entry] = {}  # least recently touched first
        self._scopes: dict[bytes, set[CacheKey]] = {}
        self._generation = 0
        self._runs: dict[str, tuple[frozenset[CacheKey], frozenset[tuple[str, str]]]] = {}
        self._began: dict[str, int] = {}  # running prompt -> its generation
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def begin(self, run: str, keys: Collection[CacheKey], roots: Collection[tuple[str, str]]) -> None:
        """A prompt starts: apply the mode's rule. ``roots`` are the (id, class) pairs of its nodes."""
        self._runs[run] = (frozenset(keys), frozenset(roots))
        self._generation += 1
        self._began[run] = self._generation
        if self.mode.kind == "classic":
            self._keep_only_named()
            return
        for key in keys:
            if key in self._entries:
                self._touch(key)
        if self.mode.kind == "lru":
            self._drop_old_generations()

    def end(self, run: str) -> None:
        """A prompt ended; what it named stays until the next one begins."""
        self._runs.pop(run, None)
        self._began.pop(run, None)

    def get(self, key: CacheKey) -> Result | None:
        """A usable result, not yet held for the caller; an unusable one is dropped."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if not self._is_usable(entry.result):
            self._drop(key)
            return None
        self._touch(key)
        return entry.result

    def put(self, key: CacheKey, result: Result) -> None:
        """Keep a result, if the mode keeps any and it fits the byte budget."""
        if self.mode.kind == "none" or result.nbytes > self._budget:
            return
        if key in self._entries:
            self._drop(key)
        self._entries[key] = _Entry(result.hold(), self._generation)
        if key.scope:
            self._scopes.setdefault(key.scope, set()).add(key)
        self.nbytes += result.nbytes
        while self.nbytes > self._budget:
            self._drop(next(iter(self._entries)))
        if self.mode.kind == "ram":
            self._relieve()

    def keep_in_scope(self, scope: bytes, keys: Collection[CacheKey]) -> None:
        """A node expanded anew: of its sub-cache keep only what the new children name (classic mode)."""
        if self.mode.kind == "classic":
            for key in [key for key in self._scopes.get(scope, ()) if key not in keys]:
                self._drop(key)

    def shrink(self, nbytes: int) -> None:
        """Drop results, least recently used first, until the store has ``nbytes`` back or none are left."""
        freed = 0
        while self._entries and freed < nbytes:
            key, entry = next(iter(self._entries.items()))
            freed += entry.result.stored
            self._drop(key)

    def clear(self) -> None:
        """Drop everything."""
        for key in list(self._entries):
            self._drop(key)

    def _touch(self, key: CacheKey) -> None:
        entry = self._entries.pop(key)
        entry.generation = self._generation
        self._entries[key] = entry

    def _drop(self, key: CacheKey) -> None:
        entry = self._entries.pop(key)
        self.nbytes -= entry.result.nbytes
        siblings = self._scopes.get(key.scope)
        if siblings is not None:
            siblings.discard(key)
            if not siblings:
                del self._scopes[key.scope]
        entry.result.drop()

    def _keep_only_named(self) -> None:
        # Every running prompt counts as current, or two of one tenant would empty each other's cache.
        named: frozenset[CacheKey] = frozenset()
        roots: frozenset[tuple[str, str]] = frozenset()
        for keys, pairs in self._runs.values():
            named, roots = named | keys if named else keys, roots | pairs if roots else pairs
        gone = [
            key for key in self._entries if (key not in named if key.root is None else key.root not in roots)
        ]
        for key in gone:
            self._drop(key)

    def _relieve(self) -> None:
        """Memory is short: drop what no running prompt named; when it is nearly gone, anything."""
        available, total = self._memory()
        oldest = min(self._began.values(), default=self._generation + 1)
        available = self._drop_by_score(comfort(total), available, oldest)
        self._drop_by_score(headroom(total, self.mode.size), available, self._generation + 1)

    def _drop_by_score(self, wanted: int, available: int, before: int) -> int:
        """Drop entries from before a generation, oldest and largest first, until ``wanted`` bytes should be there."""
        if available < wanted:
            found = [(key, entry) for key, entry in self._entries.items() if entry.generation < before]
            found.sort(
                key=lambda item: self._score(item[1]), reverse=True
            )  # equal ones stay in order of last touch
            for key, entry in found:
                if available >= wanted:
                    break
                available += entry.result.nbytes
                self._drop(key)
        return available

    def _score(self, entry: _Entry) -> float:
        age = min(self._generation - entry.generation, MAX_AGE)
        return AGING**age * max(entry.result.nbytes, SMALLEST)

    def _drop_old_generations(self) -> None:
        excess = len(self._entries) - self.mode.size
        if excess <= 0:
            return
        ages = sorted(entry.generation for entry in self._entries.values())
        limit = ages[excess - 1]  # the whole generation goes, as in ComfyUI
        for key, entry in list(self._entries.items()):
            if entry.generation <= limit and entry.generation < self._generation:
                self._drop(key)
