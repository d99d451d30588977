"""Relative links in the documents lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_relative_links_resolve(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [t for t in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in t]
    broken = [t for t in links if not (page.parent / t).exists()]
    assert not broken


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda p: p.name)
def test_every_page_is_reachable_from_the_readme(page: Path) -> None:
    seen: set[Path] = set()
    todo = [ROOT / "README.md"]
    while todo:
        here = todo.pop()
        if here in seen or not here.exists() or here.suffix != ".md":
            continue
        seen.add(here)
        targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", here.read_text(encoding="utf-8"))
        todo.extend((here.parent / t).resolve() for t in targets if "://" not in t)
    assert page.resolve() in seen
