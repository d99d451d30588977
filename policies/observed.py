"""What a watched run of an extension was seen to do: figures of the host and the kernel, and what the sandbox says.

The two are kept apart, because they are of different worth. What the host, its proxy or the kernel counted
is *measured*. What only the sandbox can know (which file it read, which name it looked for) is *claimed*: a pack that
lies about it must gain nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Reached:
    """A destination that the proxy let a sandbox connect to."""

    count: int = 0
    up: int = 0
    down: int = 0
    secrets: set[str] = field(default_factory=set)
    """Names of the secrets that were filled in on requests to it."""


@dataclass(slots=True)
class Claims:
    """What the sandbox said of itself; bounded by whoever collects it."""

    tmp: int = 0
    """Most bytes in ``/tmp``."""
    scratch: int = 0
    """Most bytes in the throwaway tree."""
    nofile: int = 0
    """Most open files of the worker."""
    hosts: Counter[str] = field(default_factory=Counter)
    """``name:port`` that it wanted to connect to."""
    reads: Counter[str] = field(default_factory=Counter)
    """Paths, as it sees them."""
    writes: Counter[str] = field(default_factory=Counter)
    variables: Counter[str] = field(default_factory=Counter)
    """Environment variables that the pack's own code looked for and that were not set."""
    walls: Counter[str] = field(default_factory=Counter)
    """Its own errors that sound like a wall of its policy."""
    routes: tuple[str, ...] = ()
    """HTTP routes that it registered, ``GET /path``."""
    prompt_handlers: int = 0
    web_directory: str | None = None
    has_spoken: bool = False
    """Whether anything was said at all: an older image does not."""
    left_out: int = 0
    """Claims over the bound."""

    @property
    def registers(self) -> bool:
        """Whether ``routes`` would be of use to it."""
        return bool(self.routes or self.prompt_handlers)


@dataclass(slots=True)
class Observed:
    """What was measured, the highest of all sandboxes and calls of the run; and the claims beside it."""

    sandboxes: int = 0
    calls: int = 0
    """Calls of nodes."""
    memory: int = 0
    """Bytes that it could not have done without: the peak less the file cache that the kernel could have dropped."""
    memory_peak: int = 0
    pids: int = 0
    pids_sampled: bool = False
    """There is no peak of the kernel's own, so a short one may have been missed."""
    cpus: float = 0.0
    """CPU seconds in a second."""
    shared_memory: int = 0
    disk: int = 0
    """Bytes that one call added to its directories on disk."""
    disk_files: int = 0
    written: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Bytes and names added, by the directory as the sandbox sees it."""
    import_s: float = 0.0
    call_s: float = 0.0
    slowest: str = ""
    output_bytes: int = 0
    outputs: int = 0
    expansion_nodes: int = 0
    expansion_depth: int = 0
    log_rate: int = 0
    """Lines in one second."""
    log_bytes: int = 0
    message_bytes: int = 0
    reached: dict[str, Reached] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    """Destinations that the proxy refused."""
    route_calls: int = 0
    met: dict[str, str] = field(default_factory=dict)
    """Limits that ended a sandbox or refused something, by key, with the error's text."""
    crossings: Counter[str] = field(default_factory=Counter)
    """Live objects that would have had to leave their sandbox, as the engine said it."""
    failed_import: str = ""
    """Why it could not even be loaded: nothing that it needs was seen."""
    claims: Claims = field(default_factory=Claims)
