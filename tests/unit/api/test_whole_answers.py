"""Answers in one write: when they are made, and what is left to h11."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest

from api.slow_clients import PatientProtocol
from api.whole_answers import WholeAnsweringProtocol, _head
from sandbox import FastPath, take_fast_paths
from tests.unit.api.conftest import Start, make_settings
from tests.unit.api.live import serving

pytestmark = pytest.mark.usefixtures("every_fast_path")

_LENGTH = (b"content-length", b"2")


def test_the_head_is_as_h11_writes_it() -> None:
    head = _head(200, ((b"date", b"now"), _LENGTH, (b"content-type", b"text/plain")), 2)
    assert head == b"HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 2\r\ncontent-type: text/plain\r\n\r\n"


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ((b"content-length", b"3"),),
        (_LENGTH, _LENGTH),
        (_LENGTH, (b"transfer-encoding", b"chunked")),
        (_LENGTH, (b"connection", b"close")),
        (_LENGTH, (b"x", b"a\r\nset-cookie: b")),
        (_LENGTH, (b"x", b"a\nb")),
        (_LENGTH, (b"x", b"a\rb")),
        (_LENGTH, (b"x\r\ny", b"a")),
        (_LENGTH, (b"x", b"a\0b")),
    ],
    ids=str,
)
def test_what_says_another_end_or_more_than_a_line_is_left_to_h11(
    headers: tuple[tuple[bytes, bytes], ...],
) -> None:
    assert _head(200, headers, 2) is None


@pytest.mark.anyio
@pytest.mark.parametrize("taken", [True, False], ids=["in one write", "in parts"])
async def test_short_answers_of_plain_routes_are_one_write(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    asked: list[bool] = []
    say = WholeAnsweringProtocol._say_whole

    def counted(self: PatientProtocol, *what: Any) -> bool:
        asked.append(say(self, *what))
        return asked[-1]

    monkeypatch.setattr(WholeAnsweringProtocol, "_say_whole", counted)
    take_fast_paths(frozenset(FastPath) - (frozenset() if taken else {FastPath.WHOLE_ANSWERS}))
    settings = make_settings(tmp_path)
    async with (
        start(settings) as app,
        serving(app, settings) as url,
        httpx2.AsyncClient(base_url=url, verify=False) as client,
    ):
        assert (await client.get("/queue")).status_code == 200
        assert (await client.post("/prompt", content=b"{")).status_code == 400
        assert (await client.get("/features")).status_code == 200  # no plain route
        assert (await client.get("/prompt", headers={"Connection": "close"})).status_code == 200
    assert asked == ([True, True, False] if taken else [])
