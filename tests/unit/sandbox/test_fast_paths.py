"""Which fast paths a process takes is said by name; a name that is none is told with those that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from api.settings import Settings
from sandbox import FastPath, FastPathError, hostile_json, parse_fast_paths, take_fast_paths
from sandbox.peer import encoded

DOCS = Path(__file__).parents[3] / "docs" / "performance.md"

pytestmark = pytest.mark.usefixtures("every_fast_path")


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("all", set(FastPath)),
        ("", set(FastPath)),
        ("none", set()),
        ("short-json, group-commit", {FastPath.SHORT_JSON, FastPath.GROUP_COMMIT}),
        ("-short-json", set(FastPath) - {FastPath.SHORT_JSON}),
    ],
)
def test_the_ways_are_said_by_name(text: str, taken: set[FastPath]) -> None:
    assert parse_fast_paths(text) == taken


@pytest.mark.parametrize("text", ["quick", "short-json,-group-commit", "none,short-json", "-"])
def test_what_is_no_way_is_told_with_those_that_there_are(text: str) -> None:
    with pytest.raises(FastPathError, match="short-json, plain-results"):
        parse_fast_paths(text)
    with pytest.raises(ValidationError, match="short-json, plain-results"):
        Settings(fast_paths=text)


def test_what_is_not_taken_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    with monkeypatch.context() as patched:
        patched.setattr("orjson.loads", never)
        patched.setattr("orjson.dumps", never)
        take_fast_paths({*FastPath} - {FastPath.SHORT_JSON})
        assert hostile_json.parse(b'{"a": [1, "x"]}') == {"a": [1, "x"]}
        assert encoded({"a": "x"})[4:] == b'{"a":"x"}'
    take_fast_paths(FastPath)
    assert hostile_json.parse(b'{"a": [1, "x"]}') == {"a": [1, "x"]}


def test_each_way_has_its_reasons_in_the_docs() -> None:
    part = DOCS.read_text("utf-8").split("## Why the fast paths are safe")[1].split("\n## ")[0]
    assert set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`:", part)) == set(FastPath)
