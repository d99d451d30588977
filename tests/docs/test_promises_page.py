"""docs/promises.md and docs/threat-model.md name tests that exist, and every promise and wall in them has one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("docs/promises.md", "docs/threat-model.md")
PAGE = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
ROWS = [
    line
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith(("| promise |", "| attack |", "| --- |"))
]
NAMED = sorted(set(re.findall(r"`([\w/]+\.py::\w+)`", PAGE)))


def functions(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("named", NAMED)
def test_a_named_test_exists(named: str) -> None:
    path, _, name = named.partition("::")
    file = ROOT / "tests" / path
    assert file.is_file()
    assert name in functions(file)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:60])
def test_every_promise_has_a_test(row: str) -> None:
    assert re.search(r"`[\w/]+\.py::test_\w+`", row.rsplit("|", 2)[-2])
