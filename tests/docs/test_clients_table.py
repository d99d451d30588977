"""Each client package that the compatibility page names is pinned, at that version, and its test exists."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ROOT / "tests" / "clients"
PAGE = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
SECTION = PAGE.split("## Client packages")[1].split("\n## ")[0]


def pins() -> dict[str, str]:
    """What the lists ask for, by package."""
    found = {}
    for path in (CLIENTS / "locks").glob("*.in"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if pin := re.fullmatch(r"([\w.-]+)(?:\[\w+\])?==([\w.]+)", line.strip()):
                found[pin[1]] = pin[2]
    for path in (CLIENTS / "locks").glob("*/package.json"):
        found |= json.loads(path.read_text(encoding="utf-8"))["dependencies"]
    return found


def test_every_pinned_client_stands_in_the_table_with_its_version() -> None:
    rows = [line for line in SECTION.splitlines() if line.startswith("| ")]
    missing = [
        f"{name} {version}"
        for name, version in pins().items()
        if name != "ws" and not any(name in row and version in row for row in rows)
    ]
    assert not missing


def test_every_test_that_the_table_names_exists() -> None:
    for file, name in re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", SECTION):
        text = (CLIENTS / file).read_text(encoding="utf-8")
        assert not name or f"def {name}(" in text, f"{file} has no {name}"


def test_no_lock_names_an_address() -> None:
    for path in (CLIENTS / "locks").rglob("*"):
        if path.is_file():
            assert "://" not in path.read_text(encoding="utf-8"), path.name


def test_every_list_has_its_lock() -> None:
    for path in (CLIENTS / "locks").glob("*.in"):
        assert path.with_suffix(".txt").is_file(), path.name
    for path in (CLIENTS / "locks").glob("*/package.json"):
        assert path.with_name("package-lock.json").is_file(), path.parent.name
