"""The shipped policies, but for what a measurement has to change in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.served import ROOT

WITHOUT_RATES: Final = {r"^  requests: \d+": "  requests: 1000000", r"^  burst: \d+": "  burst: 1000000"}
"""The quota of requests is what would be measured."""


def isolated_by(kind: str) -> dict[str, str]:
    """Every sandbox is of this kind: ``runc`` or ``gvisor``."""
    return {r"^  isolation: runc\b": f"  isolation: {kind}"}


def changed(ours: Path, changes: Mapping[str, str]) -> Path:
    """``ours``, now a directory with every shipped policy, in which each pattern of a line is replaced.

    Raises:
        ValueError: no policy has such a line (any more).
    """
    ours.mkdir(exist_ok=True)
    unseen = set(changes)
    for shipped in sorted((ROOT / "policies").glob("*.yaml")):
        text = shipped.read_text(encoding="utf-8")
        for pattern, line in changes.items():
            text, times = re.subn(pattern, line, text, flags=re.MULTILINE)
            if times:
                unseen.discard(pattern)
        (ours / shipped.name).write_text(text, encoding="utf-8")
    if unseen:
        raise ValueError(f"no shipped policy has a line like {', '.join(sorted(unseen))}")
    return ours
