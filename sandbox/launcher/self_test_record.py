"""What the self-test proved, kept in the data directory so that it costs once: written by the launcher, read by all.

Apart from the test, so that who only reads it (``ringfence doctor``) needs nothing of what talks to an engine.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from sandbox.launcher.self_test_verdict import Proof

log = logging.getLogger(__name__)

KEPT_AS: Final = "self-test.json"


def read_kept(path: Path) -> dict[str, Any]:
    """What earlier starts proved, by key; nothing when there is none or it cannot be read."""
    try:
        kept = json.loads(path.read_text("utf-8"))
        whole = all({"isolation", "at", "proofs"} <= set(entry) for entry in kept.values())
        return dict(kept) if whole else {}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def keep(path: Path, key: str, isolation: str, proofs: Sequence[Proof]) -> None:
    """Write what was proved instead of what was proved of this isolation before; a disk that refuses is logged."""
    kept = {name: entry for name, entry in read_kept(path).items() if entry["isolation"] != isolation}
    kept[key] = {
        "isolation": isolation,
        "at": int(time.time()),
        "proofs": [asdict(proof) for proof in proofs],
    }
    beside = path.with_suffix(f".{os.getpid()}")
    try:
        beside.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        log.warning("the self-test is not remembered, it runs again at the next start: %s", error)
