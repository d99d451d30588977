"""What the doctor's rooms share: a check, and running a command."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "missing"]


_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: what was found, and, unless that is good, what to do."""

    name: str
    verdict: Verdict
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[[Sequence[str]], Ran]


def size_text(nbytes: int) -> str:
    """Memory and disks as the doctor writes them."""
    return f"{nbytes / 1024**3:.1f} GiB"


def run_command(command: Sequence[str]) -> Ran:
    """Run it, whatever comes of it."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        return Ran(127, "", f"no command '{command[0]}'")
    except subprocess.TimeoutExpired:
        return Ran(124, "", f"no answer within {_TIMEOUT_S} s")
    return Ran(done.returncode, done.stdout, done.stderr.strip())
