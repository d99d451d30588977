"""What ended a sandbox, said so that its user knows which limit it was, its figure, and what to change.

What can be known: the exit code; the engine's OOM flag, which covers the worker itself only; its ``oom`` events, which
also cover children of the worker; and the kernel's counters while the sandbox lives. The reasoning is here and
nowhere else. A seccomp refusal never ends a sandbox: the call fails inside, with EPERM.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from policies import EffectivePolicy, ExtensionName
from sandbox.errors import CallTimeoutError, EndedError
from sandbox.figures import human_bytes, human_seconds
from sandbox.launcher.verbs import Ending, Usage

_SIGKILL_EXIT: Final = 128 + signal.SIGKILL
_GVISOR_LIMIT_EXIT: Final = 2
_WORDS: Final = 300


@dataclass(frozen=True, slots=True)
class Names:
    """What an error text names."""

    extensions: tuple[ExtensionName, ...]
    policy: EffectivePolicy

    @property
    def who(self) -> str:
        """``extension 'blur'``, or the group with its members."""
        return whose(self.extensions, self.policy.group)

    def cap(self, key: str, figure: str) -> str:
        """``512 MiB (policies/blur.yaml:7)``."""
        return f"{figure} ({self.policy.source(key)})"


def whose(extensions: Sequence[ExtensionName], group: str | None = None) -> str:
    """``extension 'a'``, ``extensions 'a', 'b'`` or ``sandbox group 'g' (extensions 'a', 'b')``."""
    names = ", ".join(f"'{name}'" for name in extensions)
    words = f"extension {names}" if len(extensions) == 1 else f"extensions {names}"
    return f"sandbox group '{group}' ({words})" if group else words


def explain(ending: Ending, names: Names) -> EndedError:
    """Why a sandbox that nobody asked to end is gone."""
    policy, code = names.policy, ending.exit_code
    if ending.oom_killed or (ending.oom_events and code in (None, _SIGKILL_EXIT) and not ending.killed_by_us):
        return out_of_memory(names)
    if code == _GVISOR_LIMIT_EXIT and policy.isolation == "gvisor":
        cap = names.cap("pids", str(policy.pids))
        return _ended(
            names,
            f"its kernel stopped, most likely at the pids cap {cap}",
            "raise 'pids'",
            "pids",
            str(policy.pids),
        )
    words = f": {ending.last_words[-_WORDS:]}" if ending.last_words else ""
    if ending.oom_events:
        error = out_of_memory(names)
        error.message += f" (it then left with status {code})"
        return error
    if ending.killed_by_us or code is None:
        return _ended(names, f"it hung up{words}", "see its log", "exit", "")
    if code == _SIGKILL_EXIT:
        return _ended(names, "killed from outside (SIGKILL)", "see the engine's log", "signal", "SIGKILL")
    if code > 128:
        name = _signal_name(code - 128)
        return _ended(names, f"crashed with {name}{words}", "see its log", "signal", name)
    if ending.pids_refused:
        cap = names.cap("pids", str(policy.pids))
        text = f"left with status {code} after {ending.pids_refused} processes were refused: pids cap {cap}{words}"
        return _ended(names, text, "raise 'pids'", "pids", str(policy.pids))
    return _ended(names, f"left with status {code}{words}", "see its log", "exit", str(code))


def out_of_memory(names: Names) -> EndedError:
    """The kernel killed it over its memory cap."""
    figure = human_bytes(names.policy.memory)
    text = f"killed: memory cap {names.cap('memory', figure)}"
    return _ended(names, text, "raise 'memory' or lower the batch size", "memory", figure)


def too_slow(names: Names, what: str, key: str, seconds: float) -> CallTimeoutError:
    """A call outlived its timeout."""
    figure = human_seconds(seconds)
    return CallTimeoutError(
        f"{names.who} ended: {what} took longer than {key} {names.cap(key, figure)}",
        f"raise '{key}'",
        limit="time",
        figure=figure,
    )


def unresponsive(names: Names, what: str) -> EndedError:
    """It did not react to something it must react to."""
    figure = human_seconds(names.policy.timeouts.grace_s)
    text = f"{what} within timeouts.grace {names.cap('timeouts.grace', figure)}"
    return _ended(names, text, "", "time", figure)


def over_quota(names: Names, said: str) -> EndedError:
    """Its tenant has used up a quota that it was using; ``said`` names the quota, the figure and the limit."""
    quota = next(
        (word for word in ("cpu_seconds", "gpu_seconds", "disk", "files") if f"'{word}'" in said), "quota"
    )
    return _ended(names, said, "wait, or have the quota in default.yaml raised", quota, "")


def over_disk(names: Names, key: str, limit: str, figure: str) -> EndedError:
    """It wrote more to disk than its policy allows."""
    text = f"it added {figure} to its directories on disk: {key} cap {names.cap(key, limit)}"
    return _ended(names, text, f"raise '{key}', or write less in one call", "disk", figure)


def hides_files(names: Names, what: str) -> EndedError:
    """It made something on disk that cannot be counted."""
    text = f"it made {what} on disk, which cannot be counted against its disk cap"
    return _ended(names, text, "leave directories readable and shallow", "disk", "")


def stopped(names: Names, why: str) -> EndedError:
    """Ended on purpose, by us."""
    return _ended(names, why, "run it again", "stopped", "")


def hint(before: Usage, after: Usage, names: Names) -> str:
    """What the kernel refused meanwhile: the likely cause of an error that a pack raised itself."""
    if _grew(before.oom_kills, after.oom_kills):
        cap = names.cap("memory", human_bytes(names.policy.memory))
        return f"the kernel killed a process of it: memory cap {cap}; raise 'memory' or lower the batch size"
    if _grew(before.pids_refused, after.pids_refused):
        cap = names.cap("pids", str(names.policy.pids))
        return f"the kernel refused a process or thread: pids cap {cap}; raise 'pids'"
    return ""


_NETWORK_TYPES: Final = frozenset(
    {
        "gaierror",
        "URLError",
        "ConnectError",
        "ConnectionError",
        "ConnectTimeout",
        "MaxRetryError",
        "ProxyError",
    }
    | {"NewConnectionError", "ClientConnectorError", "ClientConnectorDNSError", "NameResolutionError"}
)
_SOCKET_FRAMES: Final = (
    "socket.",
    "socket.py",
    "urllib",
    "http/client.py",
    "httpx",
    "requests",
    "aiohttp",
    "connect(",
)
_PATH_TYPES: Final = frozenset({"PermissionError", "FileNotFoundError", "NotADirectoryError", "OSError"})


def refusal(kind: str, message: str, trace: Sequence[str], names: Names) -> str:
    """What a pack's own error most likely ran into, when that is a wall of its policy."""
    word = kind.rpartition(".")[2]
    is_socket = word in _PATH_TYPES | {"TimeoutError"} and any(
        mark in line for line in trace[-4:] for mark in _SOCKET_FRAMES
    )
    if word in _NETWORK_TYPES or is_socket:
        place = names.policy.source("network")
        if names.policy.network:
            return (
                f"a sandbox reaches only what its network.allow names ({place}), by the usual proxy variables"
            )
        return f"a sandbox has no network (network: none, {place})"
    if word in _PATH_TYPES and ("'/" in message or '"/' in message):
        return f"a sandbox sees only the paths of its policy ({names.policy.source('paths')})"
    return ""


def _grew(before: int | None, after: int | None) -> bool:
    return after is not None and after > (before or 0)


def _ended(names: Names, text: str, advice: str, limit: str, figure: str) -> EndedError:
    return EndedError(f"{names.who} ended: {text}", advice, limit=limit, figure=figure)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
