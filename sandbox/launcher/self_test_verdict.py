"""What a runtime's flags, a probe's facts and its end say about each wall, with the limits the probe ran under. Pure.

Whatever was not seen to stand has not been proved: a missing fact is a wall that fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sandbox.launcher.spec import MIB

NOFILE: Final = 64
TMP: Final = 2 * MIB
UID: Final = 65_534
# gVisor's own kernel needs some of both.
MEMORY: Final = {"runc": 64 * MIB, "gvisor": 160 * MIB}
PIDS: Final = {"runc": 32, "gvisor": 64}
MEMORY_TO_FORK: Final = 2 * MEMORY["gvisor"]
"""Of the container whose gVisor is to meet its cap on processes: so many of them take more than 128 MiB."""

_FORBIDDEN_FLAGS: Final = {
    "ignore-cgroups": "with it no cap on memory, processes or CPU time holds",
    "host-settings": "it changes settings of this machine's kernel",
    "TESTONLY-unsafe-nonroot": "with it the sandbox runs without its walls",
}


@dataclass(frozen=True, slots=True)
class Proof:
    """One wall: what was tried, whether it stood, and what was seen."""

    name: str
    holds: bool
    seen: str


def refused_flag(flags: Sequence[str]) -> str:
    """The first flag under which no sandbox may run, with the reason; empty when there is none."""
    for flag in flags:
        name, _, value = flag.lstrip("-").partition("=")
        if name in _FORBIDDEN_FLAGS and value.lower() not in {"false", "0", "f"}:
            return f"'{flag}' ({_FORBIDDEN_FLAGS[name]})"
        if name == "network" and value == "host":
            return f"'{flag}' (it hands this machine's network stack to the sandbox)"
    return ""


def judge(
    isolation: str, heard: Sequence[Mapping[str, Any]], ends: Mapping[str, frozenset[str]], *, kernel: str
) -> tuple[Proof, ...]:
    """What the probe's facts and ends say about each wall. Pure."""
    said = {str(fact.get("fact")): fact for fact in heard}
    seen = said.get("walls")
    if seen is None:
        return (Proof("start", holds=False, seen=f"the probe said nothing; it ended with {_words(ends)}"),)
    interfaces = sorted(seen["interfaces"])
    proofs = [
        Proof("user", seen["uid"] == UID, f"uid {seen['uid']}"),
        Proof("capabilities", not seen["capabilities"], f"{seen['capabilities']:x}"),
        Proof("no new privileges", seen["no_new_privileges"] == 1, str(seen["no_new_privileges"])),
        Proof(
            "seccomp",
            seen["seccomp"] == 2 and seen["inet"] == "EPERM",
            f"mode {seen['seccomp']}, AF_INET {seen['inet'] or 'allowed'}",
        ),
        Proof("no io_uring", seen["io_uring"] in {"EPERM", "ENOSYS"}, seen["io_uring"] or "allowed"),
        Proof("no namespaces", seen["unshare"] == "EPERM", seen["unshare"] or "allowed"),
        Proof("no network", interfaces in ([], ["lo"]), ", ".join(interfaces) or "no interface"),
        Proof(
            "read-only root",
            "ro" in seen["root"] and bool(seen["written"]),
            seen["written"] or "it was written",
        ),
        Proof(
            "open files",
            0 < seen["open_files"] <= NOFILE and seen["nofile"] == [NOFILE, NOFILE],
            f"{seen['open_files']} of {NOFILE}",
        ),
        Proof("size of /tmp", 0 <= seen["tmp"] <= TMP, f"{seen['tmp']} of {TMP} bytes"),
        _pids(isolation, said, ends),
        _memory_cap(isolation, said, ends),
    ]
    if isolation == "gvisor":
        proofs.append(
            Proof("own kernel", bool(kernel) and seen["kernel"] != kernel, f"kernel {seen['kernel']}")
        )
    return tuple(proofs)


def _pids(isolation: str, said: Mapping[str, Any], ends: Mapping[str, frozenset[str]]) -> Proof:
    cap = PIDS[isolation]
    if "pids" in said:
        forked = said["pids"]["forked"]
        return Proof(
            "processes", 0 <= forked < cap, f"{forked} children" if forked >= 0 else "no end to forking"
        )
    # The kernel of gVisor went down in the middle of it: contained, unless it was the cap on memory that ended it.
    end = ends.get("pids", frozenset())
    ended = "pids begins" in said and end == {"die"}
    why = "no answer" if "oom" not in end else "its memory ended before its processes"
    return Proof(
        "processes", isolation == "gvisor" and ended, "its kernel ended at the cap" if ended else why
    )


def _memory_cap(isolation: str, said: Mapping[str, Any], ends: Mapping[str, frozenset[str]]) -> Proof:
    cap = f"{MEMORY[isolation] // MIB} MiB"
    if "memory has no end" in said:
        return Proof(
            "memory", holds=False, seen=f"{said['memory has no end']['mib']} MiB filled under a cap of {cap}"
        )
    end = ends["all" if isolation == "runc" else "walls"]
    killed = "memory begins" in said and "oom" in end
    return Proof("memory", killed, f"killed at {cap}" if killed else f"it ended with {_words(ends)}")


def _words(ends: Mapping[str, frozenset[str]]) -> str:
    return ", ".join(sorted({word for end in ends.values() for word in end})) or "nothing"
