"""Log lines."""

from __future__ import annotations

import json
import logging

import pytest

from api.logging import IdsFilter, JsonFormatter, TextFormatter, request_context


def line(formatter: logging.Formatter, message: str, *arguments: object, **fields: object) -> str:
    record = logging.LogRecord("engine.x", logging.INFO, __file__, 1, message, arguments, None)
    for name, value in fields.items():
        setattr(record, name, value)
    IdsFilter().filter(record)
    return formatter.format(record)


def test_a_json_line_carries_the_ids_of_its_context() -> None:
    with request_context(tenant="a"), request_context(prompt="p"):
        said = json.loads(line(JsonFormatter(), "%d nodes", 3, sandbox="s"))
    assert {key: said[key] for key in ("message", "tenant", "prompt", "sandbox", "level", "logger")} == {
        "message": "3 nodes", "tenant": "a", "prompt": "p", "sandbox": "s", "level": "info", "logger": "engine.x",
    }  # fmt: skip
    assert "tenant" not in json.loads(line(JsonFormatter(), "later"))


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_hostile_text_cannot_forge_a_line(formatter: logging.Formatter) -> None:
    said = line(formatter, "%s", 'x\n{"level": "error"}\x1b[2J', extension="e\nvil")
    assert "\n" not in said
    assert "\x1b" not in said


def test_a_text_line_is_for_people() -> None:
    with request_context(tenant="a"):
        assert line(TextFormatter(), "hello").endswith("info    engine.x: hello  [tenant=a]")
