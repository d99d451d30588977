"""A watch over the sandboxes of one extension: what they are seen to do, and what they say of themselves, kept apart.

A watched sandbox has the walls that its policy says and not a hole more. The watch is told what passes through the
hands of the host anyway (calls, results, files, connections), reads the kernel's counters ten times a second, and takes
what the worker claims (``watch/seen``), which is bounded here. What becomes of it is ``policies/learning.py``'s.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from policies import (
    EffectivePolicy,
    ExtensionName,
    Observed,
    Reached,
    SandboxId,
    TenantId,
    place_of,
    safe_text,
)
from sandbox.audit.denial import limit_key
from sandbox.calls import LoadedExtension
from sandbox.egress import Attempt, Verdict
from sandbox.errors import EndedError, NodeRaisedError, SandboxError
from sandbox.launcher.verbs import Usage
from sandbox.messages import ParsedResult, Seen
from sandbox.rates import Allowance

LOOK_S: Final = 0.1
"""Between two readings of the kernel's counters."""
CLAIMS_KEPT: Final = 300
"""Of one kind; what is over is only counted."""
_CLAIMS_PER_S: Final = 500
_RATE_WINDOW_S: Final = 1.0
_SHORT_S: Final = 0.25
"""Long enough for a rate where there is none yet."""
_TEXT: Final = 300
_PATH: Final = re.compile(r"/[^\0]{0,199}\Z")
_HOST: Final = re.compile(
    r"(?=.{1,253}:)[a-z0-9]([a-z0-9.-]*[a-z0-9])?:[0-9]{1,5}\Z|\[[0-9a-f:.]{2,45}\]:[0-9]{1,5}\Z"
)
_VARIABLE: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}\Z")
_QUOTA_KEYS: Final = re.compile(r"limits\.[a-z_]+|shared_memory")


@dataclass(slots=True)
class _Counters:
    """The kernel's counters of one sandbox, as last read."""

    peak: int = 0
    cache: int = 0
    cpu_s: float = 0.0
    at: float = field(default_factory=time.monotonic)


class Watch:
    """What was seen so far. Every method is told something; none waits and none raises."""

    def __init__(self, tenant: TenantId, extensions: Sequence[ExtensionName]) -> None:
        self.tenant = tenant
        self.extensions = tuple(extensions)
        self.seen = Observed()
        self._counters: dict[SandboxId, _Counters] = {}
        self._claims = Allowance(_CLAIMS_PER_S, 4 * _CLAIMS_PER_S)
        self._second = 0
        self._lines = 0

    # -- measured ------------------------------------------------------------------------------------------------------

    def began(self, sandbox: SandboxId) -> None:
        """A sandbox was started."""
        self.seen.sandboxes += 1
        self._counters[sandbox] = _Counters()

    def used(self, sandbox: SandboxId, usage: Usage) -> None:
        """The kernel's counters.

        Of memory, what could not have been done without is the peak less the file cache of that moment, which the
        kernel drops before it kills. The moment lies between two readings, so the smaller cache of the two is believed.
        """
        seen, counters = self.seen, self._counters.setdefault(sandbox, _Counters())
        peak = usage.memory_peak if usage.memory_peak is not None else usage.memory
        cache = usage.file_cache or 0
        if peak is not None and peak > counters.peak:
            seen.memory_peak = max(seen.memory_peak, peak)
            seen.memory = max(seen.memory, peak - min(counters.cache, cache))
            counters.peak = peak
        counters.cache = cache
        pids = usage.pids_peak if usage.pids_peak is not None else usage.pids
        seen.pids = max(seen.pids, pids or 0)
        seen.pids_sampled = seen.pids_sampled or usage.pids_peak is None
        since = time.monotonic() - counters.at
        if usage.cpu_s is not None and since >= (_RATE_WINDOW_S if seen.cpus else _SHORT_S):
            seen.cpus = max(seen.cpus, (usage.cpu_s - counters.cpu_s) / since)
            if since >= _RATE_WINDOW_S:
                counters.cpu_s, counters.at = usage.cpu_s, counters.at + since

    def took(self, key: str, seconds: float, what: str) -> None:
        """How long something took that ``key`` (``timeouts.call`` ...) limits."""
        if key == "timeouts.import":
            self.seen.import_s = max(self.seen.import_s, seconds)
        elif key == "timeouts.call" and seconds >= self.seen.call_s:
            self.seen.call_s, self.seen.slowest = seconds, what

    def returned(self, result: ParsedResult, depth: int) -> None:
        """A node's result, its files taken over."""
        seen, values = self.seen, result.values()
        files = {name: size for value in values for name, size in value.files.items()}
        expanded = sum(len(call.expand or ()) for call in result.calls or ())
        seen.calls += 1
        seen.outputs = max(seen.outputs, len(values))
        seen.output_bytes = max(seen.output_bytes, sum(files.values()))
        seen.expansion_nodes = max(seen.expansion_nodes, expanded)
        if expanded:
            seen.expansion_depth = max(seen.expansion_depth, depth + 1)

    def holds(self, nbytes: int) -> None:
        """Bytes of live outputs in ``/dev/shm``."""
        self.seen.shared_memory = max(self.seen.shared_memory, nbytes)

    def sent(self, nbytes: int) -> None:
        """The longest message of a worker."""
        self.seen.message_bytes = max(self.seen.message_bytes, nbytes)

    def logged(self, text: str) -> None:
        """Something was printed."""
        lines = text.count("\n") + (not text.endswith("\n"))
        second = int(time.monotonic())
        self._lines = lines + (self._lines if second == self._second else 0)
        self._second = second
        self.seen.log_rate = max(self.seen.log_rate, self._lines)
        self.seen.log_bytes += len(text) + 64 * lines

    def wrote(self, policy: EffectivePolicy, added: Sequence[tuple[int, int]]) -> None:
        """Bytes and names that lie in each writable directory since the sandbox began, in the order of ``paths``."""
        writable = [entry for entry in policy.paths if entry.access == "rw"]
        for entry, (nbytes, names) in zip(writable, added, strict=False):
            place = place_of(entry)
            before = self.seen.written.get(place, (0, 0))
            self.seen.written[place] = (max(before[0], nbytes), max(before[1], names))

    def grew(self, nbytes: int, names: int) -> None:
        """What a call added to its directories on disk."""
        self.seen.disk, self.seen.disk_files = max(self.seen.disk, nbytes), max(self.seen.disk_files, names)

    def reached(self, attempt: Attempt) -> None:
        """An attempt to leave, as the proxy decided it."""
        target = attempt.target
        if not _HOST.match(target):
            return
        if attempt.verdict is Verdict.REFUSED:
            _count(self.seen.refused, target)
            return
        if target not in self.seen.reached and len(self.seen.reached) >= CLAIMS_KEPT:
            return
        reached = self.seen.reached.setdefault(target, Reached())
        reached.count += 1
        reached.up += attempt.up
        reached.down += attempt.down
        reached.secrets.update(filter(None, attempt.secret.split(", ")))

    def crossed(self, text: str) -> None:
        """A live object would have had to leave its sandbox, as the engine says."""
        _count(self.seen.crossings, safe_text(text, _TEXT))

    def route_called(self) -> None:
        """Somebody asked one of its routes."""
        self.seen.route_calls += 1

    def ended(self, error: SandboxError) -> None:
        """A sandbox ended; at a limit, if it was one."""
        if isinstance(error, EndedError):
            self._met(limit_key(error.limit, error.message), error.message)

    def refused(self, error: SandboxError) -> None:
        """A result or a wish for memory was over a limit."""
        found = _QUOTA_KEYS.search(f"{error.message} {error.hint}")
        self._met(found[0] if found else None, error.message)

    def hit_wall(self, error: NodeRaisedError) -> None:
        """A pack raised an error at a wall: counted by the kernel, or only as its own words sound."""
        for key in ("memory", "pids"):
            if f"{key} cap" in error.hint:
                self._met(key, error.hint)
                return
        if error.hint:
            _count(self.seen.claims.walls, safe_text(f"{error.message} ({error.hint})", _TEXT))

    def _met(self, key: str | None, text: str) -> None:
        if key is not None:
            self.seen.met.setdefault(key, safe_text(text, _TEXT))

    # -- claimed -------------------------------------------------------------------------------------------------------

    def loaded(self, extension: LoadedExtension) -> None:
        """What the worker says the pack registered when it was loaded."""
        claims = self.seen.claims
        routes = {*claims.routes, *(f"{method} {path}" for method, path in extension.routes)}
        claims.routes = tuple(sorted(routes)[:CLAIMS_KEPT])
        claims.prompt_handlers = max(claims.prompt_handlers, extension.prompt_handlers)
        claims.web_directory = extension.web_directory or claims.web_directory

    def claimed(self, said: Seen) -> None:
        """A ``watch/seen`` of the worker."""
        claims = self.seen.claims
        claims.has_spoken = True
        if not self._claims.take():
            claims.left_out += 1
            return
        if said.kind in ("tmp", "scratch", "nofile"):
            setattr(claims, said.kind, max(getattr(claims, said.kind), said.value))
            return
        counter, form = _KINDS[said.kind]
        counts: Counter[str] = getattr(claims, counter)
        if not form.match(said.name) or not _count(counts, said.name, said.value):
            claims.left_out += 1


_KINDS: Final[Mapping[str, tuple[str, re.Pattern[str]]]] = {
    "connect": ("hosts", _HOST),
    "read": ("reads", _PATH),
    "write": ("writes", _PATH),
    "variable": ("variables", _VARIABLE),
}


def _count(counter: Counter[str], name: str, times: int = 1) -> bool:
    """False where there are too many already."""
    if name not in counter and len(counter) >= CLAIMS_KEPT:
        return False
    counter[name] = min(counter[name] + times, 10**9)
    return True
