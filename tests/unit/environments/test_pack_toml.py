"""A pack's TOML costs the host a bounded time."""

from __future__ import annotations

import pytest

from sandbox import parse_toml


def test_what_packs_write_is_read() -> None:
    depends = ", ".join(f'"package{number}==1.{number}"' for number in range(200))
    text = f'[project]\nname = "x"\ndependencies = [{depends}]\n[tool.comfy.a."b.c"]\nweb = "js"\n'
    read = parse_toml(text)
    assert read["tool"]["comfy"]["a"]["b.c"] == {"web": "js"}
    assert len(read["project"]["dependencies"]) == 200


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        ".".join(["a"] * 100_000) + " = 1",
        "[" + ".".join(["a"] * 100_000) + "]",
        ".".join(['"\u2028"', "a"] * 50_000) + " = 1",  # a line for Python, none for TOML
        "x = " + "[" * 100_000,
        "[project",
    ],
)
def test_what_would_take_minutes_or_the_stack_is_refused_at_once(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_toml(text)


@pytest.mark.timeout(60)
def test_the_worst_that_is_read_is_read_in_time() -> None:
    lines = [f"a{number}." + ".".join(["a"] * 500) + " = 1" for number in range(60)]
    assert len(parse_toml("\n".join(lines))) == 60
