"""docs/protocol.md and runtime/wire.py say the same."""

from __future__ import annotations

import re
from pathlib import Path

from runtime import wire

PAGE = (Path(__file__).resolve().parents[2] / "docs/protocol.md").read_text(encoding="utf-8")


def test_every_method_is_documented() -> None:
    missing = [m for m in wire.HOST_METHODS | wire.WORKER_METHODS if f"`{m}" not in PAGE]
    assert not missing


def test_every_documented_method_exists() -> None:
    named = set(
        re.findall(
            r"`((?:worker|extension|node|handle|instance|shm|event|state|resource|watch)/[a-z]+)", PAGE
        )
    )
    assert named <= wire.HOST_METHODS | wire.WORKER_METHODS


def test_the_page_names_the_current_version() -> None:
    assert PAGE.startswith(f"# The worker protocol, version {wire.PROTOCOL_VERSION}\n")
