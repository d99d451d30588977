"""docs/operating.md and docs/http-api.md say what the code does: no setting and no route is missing there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from api.app import create_app
from api.cli.failure import Status
from api.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
OPERATING = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
HTTP_API = (ROOT / "docs" / "http-api.md").read_text(encoding="utf-8")


def test_every_setting_is_documented_and_no_other() -> None:
    settings = {f"RINGFENCE_{name.upper()}" for name in Settings.model_fields}
    of_the_command = {
        "RINGFENCE_URL",
        "RINGFENCE_TOKEN",
        "RINGFENCE_TOKEN_FILE",
        "RINGFENCE_TENANT",
        "RINGFENCE_DEBUG",
    }
    assert set(re.findall(r"RINGFENCE_[A-Z_]+", OPERATING)) == settings | of_the_command


@pytest.mark.parametrize(
    ("variable", "written"),
    re.findall(r"^\| `RINGFENCE_([A-Z_]+)` \| `?([^`|]+?)`? \|", OPERATING, re.MULTILINE),
)
def test_a_default_that_the_page_writes_out_is_the_one_that_holds(variable: str, written: str) -> None:
    default = Settings.model_fields[variable.lower()].get_default(call_default_factory=True)
    if default in (None, "", ()):
        assert not re.match(r"[0-9]", written), "a figure, where the code works one out"
    elif isinstance(default, bool):
        assert written == str(default).lower()
    elif isinstance(default, int | float):
        number, _, unit = written.partition(" ")
        assert float(number) * {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}[unit] == default
    elif isinstance(default, str):
        assert written == default


def test_every_setting_says_what_it_is_for() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_every_exit_status_is_documented() -> None:
    for status in Status:
        assert f"| {int(status)} |" in OPERATING


def test_every_route_of_our_own_is_documented() -> None:
    schema = create_app(Settings()).openapi()
    ours = {
        path.removeprefix("/ringfence/v1") for path in schema["paths"] if path.startswith("/ringfence/v1")
    }
    assert ours
    known = HTTP_API.replace("{id}", "{}").replace("{name}", "{}").replace("{extension}", "{}")
    for path in ours:
        assert re.sub(r"\{[a-z_]+\}", "{}", path) in known, path


def test_comfyuis_routes_are_documented() -> None:
    schema = create_app(Settings()).openapi()
    for path in schema["paths"]:
        if not path.startswith("/ringfence/"):
            stem = "/" + path.removeprefix("/api/").lstrip("/").split("/")[0]
            assert stem in HTTP_API or path in HTTP_API, path
