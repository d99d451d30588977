"""The requirements manifests name real tests, every rule has one or says why not, and gaps are told to users."""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from tests.compat.semantics import CASES, DIFFERENCES

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = sorted((ROOT / "tests/compat/requirements").glob("*.toml"))


def load(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_each_rule_names_tests_that_exist_or_a_gap_that_users_are_told(path):
    manifest = load(path)
    known = {short: functions(ROOT / file) for short, file in manifest["files"].items()}
    told = (ROOT / "docs/compatibility.md").read_text(encoding="utf-8")
    wrong = []
    for rule in manifest["requirement"]:
        if bool(rule.get("tests")) == bool(rule.get("gap")):
            wrong.append(f"{rule['id']}: needs tests or a gap, one of them")
        if rule["level"] not in ("MUST", "SHOULD", "MAY") or not rule["source"].startswith("§"):
            wrong.append(f"{rule['id']}: level or source")
        if rule.get("gap") and f"`{rule['id']}`" not in told:
            wrong.append(f"{rule['id']}: docs/compatibility.md does not list this gap")
        for name in rule.get("tests", ()):
            short, _, test = name.partition("::")
            found = (
                any(fnmatchcase(case, test) for case in CASES)
                if short == "semantics"
                else test in known.get(short, ())
            )
            if not found:
                wrong.append(f"{rule['id']}: there is no {name}")
    assert not wrong, "\n".join(wrong)


def test_ids_are_unique():
    ids = Counter(rule["id"] for path in MANIFESTS for rule in load(path)["requirement"])
    assert ids
    assert [name for name, count in ids.items() if count > 1] == []


def test_no_must_is_a_gap_in_execution():
    rules = load(ROOT / "tests/compat/requirements/execution.toml")["requirement"]
    assert [rule["id"] for rule in rules if rule["level"] == "MUST" and "gap" in rule] == []


def test_each_case_of_the_semantics_belongs_to_a_rule():
    patterns = [
        name.removeprefix("semantics::")
        for rule in load(ROOT / "tests/compat/requirements/execution.toml")["requirement"]
        for name in rule.get("tests", ())
        if name.startswith("semantics::")
    ]
    left = [case for case in CASES if not any(fnmatchcase(case, pattern) for pattern in patterns)]
    assert left == []
    assert set(DIFFERENCES) <= set(CASES)
