"""docs/dependencies.md gives a reason for every dependency, and for nothing else."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGE = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", r, maxsplit=1)[0] for r in requirements}


@pytest.mark.parametrize(
    ("heading", "declared"),
    [
        ("Host", PROJECT["dependencies"]),
        ("Node image", PROJECT["optional-dependencies"]["node"]),
        ("Web page", PROJECT["optional-dependencies"]["frontend"]),
        ("Development", PROJECT["optional-dependencies"]["dev"]),
    ],
)
def test_each_dependency_has_its_line(heading: str, declared: list[str]) -> None:
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    listed = set(re.findall(r"^\| ([a-z][a-z0-9._-]+) \|", section, re.MULTILINE)) - {"package"}
    assert listed == names(declared)
