"""Shorter ways to the same end, by name, and which of them this process takes: all, unless RINGFENCE_FAST_PATHS says.

Each can be left out, to see what it brings and that nothing else depends on it: the tests pass with and without. Why
each is safe stands in docs/performance.md. Set once, before anything runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final


class FastPath(StrEnum):
    """One shorter way."""

    SHORT_JSON = "short-json"
    """Short messages are read and written by orjson (``hostile_json``, ``peer.encoded``)."""
    PLAIN_RESULTS = "plain-results"
    """A result of numbers and short texts, and what it shows, is read without models
    (``messages.executed_plainly``)."""
    WRITTEN_RESULTS = "written-results"
    """A worker writes such a result without its encoder (``runtime.written``)."""
    INSTANT_ANSWERS = "instant-answers"
    """A short answer is handed over when its bytes come, without the reader's turn (``peer``)."""
    INSTANT_WRITES = "instant-writes"
    """A frame that fits the socket goes to the kernel at once (``streams``)."""
    CHAINED_NODES = "chained-nodes"
    """A task that is done with its node runs the next (``engine.executor``)."""
    FOLLOWING_CALLS = "following-calls"
    """A node's call is in its worker's hands when the node before it ends (``engine.following``)."""
    KEPT_SAYINGS = "kept-sayings"
    """What was said of a node in a progress map is kept until it changes (``engine.progress``)."""
    KEPT_SESSIONS = "kept-sessions"
    """A run asks for its sandbox again after 50 ms, not for each node (``engine.node_calls``)."""
    KEPT_DIGESTS = "kept-digests"
    """For 250 ms the record of a prompt names the policies that its last one had (``api.audit_trail``)."""
    GROUP_COMMIT = "group-commit"
    """Transactions that wait share a commit (``engine.group_commit``)."""
    PLAIN_STATEMENTS = "plain-statements"
    """Statements of every prompt go to SQLite's driver as they are (``engine.prepared``)."""
    ONE_STEP_COMMITS = "one-step-commits"
    """The driver is told to commit in one call, not by a statement (``engine.writer_connection``)."""
    NEAR_STATEMENTS = "near-statements"
    """Short statements are run on the event loop, the writer's thread commits them (``engine.group_commit``)."""
    REMEMBERED_QUEUE = "remembered-queue"
    """Which prompt is next, and that it runs, is known without a transaction (``engine.queue``)."""
    EARLY_STARTS = "early-starts"
    """A client's next prompt runs while the end of its last is stored (``engine.early_starts``)."""
    GATHERED_EVENTS = "gathered-events"
    """Events of 5 ms are sent together (``api.telling``)."""
    GATHERED_RECORDS = "gathered-records"
    """Records of the audit log that follow others closely are written together (``audit.writer``)."""
    FRAMES_AT_ONCE = "frames-at-once"
    """What a client is told in one go is handed to its connection in one step (``api.gathered``)."""
    PLAIN_ROUTES = "plain-routes"
    """What clients ask most often is answered without the framework's layers (``api.plain_routes``)."""
    WHOLE_ANSWERS = "whole-answers"
    """A short answer of such a route is one write (``api.whole_answers``)."""
    KNOWN_HEADS = "known-heads"
    """The head of a request that its connection has said before is not read anew (``api.known_heads``)."""
    SHORT_TURNS = "short-turns"
    """A thread that wants the interpreter has it after 20 µs (``api.server``)."""
    SELDOM_COLLECTIONS = "seldom-collections"
    """The collector of cycles looks at what stayed more seldom (``api.server``)."""
    GATHERED_LOOKS = "gathered-looks"
    """The disks of idle sandboxes are looked at together (``disk_patrol``)."""
    ADOPTED_OUTPUTS = "adopted-outputs"
    """A file that nobody can write any more is taken over without a copy (``tensors.adoption``)."""
    KEPT_OUTPUTS = "kept-outputs"
    """A dead output is kept for a while, for its maker to fill again (``tensors.dead_outputs``)."""
    UNCHANGED_INPUTS = "unchanged-inputs"
    """A worker names an input that comes out unchanged, and writes nothing (``runtime.files``)."""
    HUGE_PAGES = "huge-pages"
    """Large files are given huge pages where the file system gives none by itself (``huge_pages``)."""
    HUGE_HEAP = "huge-heap"
    """The server's own objects are moved into huge pages (``api.heap``)."""
    MAPPED_OUTPUTS = "mapped-outputs"
    """A worker fills files with huge pages through a mapping (``services``, ``runtime.files``)."""
    OFFERED_OUTPUTS = "offered-outputs"
    """A call takes along files for outputs as its node made last time (``offers``)."""


class FastPathError(ValueError):
    """There is no such way."""


TAKEN: Final = set(FastPath)
"""The ways that this process goes; ``take_fast_paths`` alone changes it."""


def takes(path: FastPath) -> bool:
    """Whether this process goes this way; what does little itself looks into ``TAKEN``."""
    return path in TAKEN


def take_fast_paths(paths: Iterable[FastPath]) -> None:
    """Go these ways from now on, and no other."""
    wanted = set(paths)
    TAKEN.clear()
    TAKEN.update(wanted)


def parse_fast_paths(text: str) -> frozenset[FastPath]:
    """``all``, ``none``, ``a,b`` (only these) or ``-a,-b`` (all but these).

    Raises:
        FastPathError: there is none of a name; says which there are.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if words in ([], ["all"]):
        return frozenset(FastPath)
    if words == ["none"]:
        return frozenset()
    names = {word.removeprefix("-") for word in words}
    unknown = sorted(names - set(FastPath))
    if unknown or len({word.startswith("-") for word in words}) > 1:
        what = (
            f"{unknown[0]!r} is none"
            if unknown
            else "either name those to take, or, with '-', those to leave"
        )
        raise FastPathError(f"{what}; there are: {', '.join(FastPath)}; or 'all', 'none'")
    named = frozenset(FastPath(name) for name in names)
    return frozenset(FastPath) - named if words[0].startswith("-") else named
