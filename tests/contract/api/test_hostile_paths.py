"""Every route's every parameter, as somebody sends it who wants a file that is not theirs, or a word about the machine.

Parameters come from the routes themselves, so a new route is asked too. Sentinels lie beside and above each tree, and
links to them inside the trees, as a sandbox could plant them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import anyio
import httpx2
import pytest
from fastapi import FastAPI

from api.permissions import routes_of
from api.settings import Settings

pytestmark = pytest.mark.anyio

SENTINEL: Final = "SENTINEL-7d1f"
#: As they stand in a URL: most are encoded once, some twice, some in ways that only some servers decode.
HOSTILE: Final = (
    "..",
    "../secret.txt",
    "../../secret.txt",
    "a/../../secret.txt",
    "%2e%2e%2fsecret.txt",
    "%2e%2e/secret.txt",
    "..%2f..%2fsecret.txt",
    "%252e%252e%252fsecret.txt",
    "..%c0%afsecret.txt",
    "%ef%bc%8e%ef%bc%8e%ef%bc%8fsecret.txt",  # full-width dots and slash
    "%e2%80%a4%e2%80%a4%2fsecret.txt",  # one-dot leaders
    "..%5c..%5csecret.txt",
    "C:%5Csecret.txt",
    "%5c%5chost%5cshare%5csecret.txt",
    "%2fetc%2fpasswd",
    "%2f%2fetc%2fpasswd",
    "%2fproc%2fself%2fenviron",
    "file:%2f%2f%2fetc%2fpasswd",
    "planted.txt",
    "planteddir",
    "planteddir%2fsecret.txt",
    "planteddir%2fmade%2fa.txt",
    "planteddir%2fsub%2f..%2fsecret.txt",
    "secret.txt%00.png",
    "a%0d%0aX-Injected:%20yes",
    "..%20%2fsecret.txt",
    "...%2f%2fsecret.txt",
    "%2e%2e%3bsecret.txt",
    "CON",
    "NUL.txt",
    "%ff%fe",
    "%1b%5b31m",
    "a" * 300,
    "a%2f" * 200,
    "~root",
    "%24%7bHOME%7d",
)
#: Parameters in the query that name something, and what the rest of the request is for them to be looked at.
QUERIES: Final = (
    "/view?filename={}",
    "/view?filename={}&type=input",
    "/view?filename={}&type=temp",
    "/view?filename=secret.txt&subfolder={}",
    "/view?filename=secret.txt&type={}",
    "/view?filename={}&preview=webp;90",
    "/view?filename={}%20[input]",
    "/view_metadata/loras?filename={}",
    "/view_metadata/{}?filename=secret.txt",
    "/userdata?dir={}&recurse=true&full_info=true",
    "/v2/userdata?path={}",
    "/ringfence/v1/policies/check?name={}",
    "/ringfence/login?next={}",
)
_INSIDE: Final = re.compile(r"Traceback|site-packages|/var/lib|/root/|\.py\b.*line \d+|root:x:0:0|File \"/")


@pytest.fixture
async def trees(
    app: FastAPI, client: httpx2.AsyncClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The tenant's directory, with sentinels outside its trees and links to them inside."""

    async def unlimited(*_: object) -> None:
        """The quota of requests is another test's matter."""

    monkeypatch.setattr(app.state.services.quotas, "take_request", unlimited)
    await client.get("/prompt")  # the first request makes it
    home = settings.data_dir / "tenants" / "local"
    for place in (home, home.parent, settings.data_dir, settings.data_dir.parent):
        (place / "secret.txt").write_text(SENTINEL)
    for tree in ("input", "output", "temp", "user", "user/default", "models/loras"):
        (home / tree).mkdir(parents=True, exist_ok=True)
        (home / tree / "planted.txt").symlink_to(home / "secret.txt")
        (home / tree / "planteddir").symlink_to(home)
        (home / tree / "hard.png").write_bytes(b"\x89PNG")
    return home


def asks(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Method and URL with one ``{}`` left for the hostile value, of every route that has a parameter."""
    for path, methods, _ in routes_of(app):
        names = re.findall(r"{[^}]*}", path)
        if path.endswith("/events") or (path.startswith("/api/") and not path.startswith("/api/v2/")):
            continue  # a twin of a route without the prefix, or a stream
        for name in names:
            url = path.replace(name, "\0")
            url = re.sub(r"{[^}]*}", "x", url).replace("\0", "{}")
            for method in sorted(methods - {"HEAD", "WEBSOCKET"}):
                yield method, url
    for url in QUERIES:
        yield "POST" if "check?" in url else "GET", url


def outside(home: Path, settings: Settings) -> dict[str, bytes]:
    """Every file that no request may touch: all but the tenant's trees, the databases and the audit log."""
    found = {}
    for path in settings.data_dir.parent.rglob("*"):
        inside = path.is_relative_to(home) and path.parent != home
        inside = inside or path.parent == settings.data_dir / "audit-host"
        if path.is_file() and not inside and ".sqlite" not in path.name and ".db" not in path.name:
            found[str(path)] = path.read_bytes()
    return found


def changed(before: dict[str, bytes], now: dict[str, bytes]) -> list[str]:
    """The files that came, went or changed."""
    return sorted(path for path in before.keys() | now.keys() if before.get(path) != now.get(path))


def check(answer: httpx2.Response, what: str, settings: Settings) -> None:
    """Nothing of the machine stands in an answer, and no answer is a failure of the server."""
    assert answer.status_code != 429, what  # a quota would hide what is behind it
    assert answer.status_code < 500 or answer.status_code in (503, 507), (what, answer.text[:300])
    assert SENTINEL.encode() not in answer.content, what
    assert str(settings.data_dir) not in answer.text, what
    assert not _INSIDE.search(answer.text), (what, answer.text[:300])
    assert answer.headers["x-content-type-options"] == "nosniff", what
    assert "x-injected" not in answer.headers, what


async def test_no_parameter_of_any_route_leads_out_of_its_tree(
    app: FastAPI, client: httpx2.AsyncClient, trees: Path, settings: Settings
) -> None:
    before = outside(trees, settings)
    asked = 0
    assert (
        await raw(app, "GET", "/view?filename=hard.png")
    ).content == b"\x89PNG"  # these requests do arrive
    for method, url in asks(app):
        for value in HOSTILE:
            body = {"content": b"{}"} if method in ("POST", "PUT", "PATCH") else {}
            # The URL goes out as it is written here: a client that tidies it would hide what a hostile one sends.
            answer = await raw(app, method, url.replace("{}", value), **body)
            check(answer, f"{method} {url} with {value[:60]!r}", settings)
            asked += 1
    assert asked > 1000
    assert changed(before, outside(trees, settings)) == []


@pytest.mark.parametrize("field", ["filename", "subfolder", "type", "file_path", "name", "original"])
async def test_no_name_in_a_form_leads_out_of_its_tree(
    client: httpx2.AsyncClient, trees: Path, settings: Settings, field: str
) -> None:

    before = outside(trees, settings)
    for value in (unquote(each, errors="replace") for each in HOSTILE):
        name = value if field == "filename" else "a.png"
        data = {field: value} if field in ("subfolder", "type", "file_path", "name") else {}
        if field == "original":
            data = {"original_ref": json.dumps({"filename": value, "subfolder": "", "type": "output"})}
        for url, part in (
            ("/upload/image", "image"),
            ("/upload/mask", "image"),
            ("/api/v2/assets", "file"),
            ("/ringfence/v1/extensions", "archive"),
        ):
            answer = await client.post(url, files={part: (name, b"\x89PNG")}, data=data)
            check(answer, f"{url} with {field}={value[:60]!r}", settings)
    assert changed(before, outside(trees, settings)) == []


async def raw(app: FastAPI, method: str, target: str, content: bytes = b"") -> httpx2.Response:
    """One request with exactly this target, as the server below would hand it over."""
    path, _, query = target.partition("?")
    sent = [{"type": "http.request", "body": content, "more_body": False}]
    answer: dict[str, object] = {}
    body = bytearray()

    async def receive() -> dict[str, object]:
        if not sent:
            await anyio.sleep_forever()  # the client stays to hear the answer
        return sent.pop()

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            answer.update(message)
        else:
            body.extend(message.get("body", b""))  # type: ignore[arg-type]

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "root_path": "",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(b"host", b"127.0.0.1:8188"), (b"content-length", str(len(content)).encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8188),
        "state": {},
    }
    await app(scope, receive, send)  # type: ignore[arg-type]
    return httpx2.Response(
        answer["status"],  # type: ignore[arg-type]
        headers=answer["headers"],  # type: ignore[arg-type]
        content=bytes(body),
    )


@pytest.mark.parametrize(
    "suffix",
    ["html", "HTM", "xhtml", "svg", "svgz", "xml", "xsl", "pdf", "js", "mjs", "css", "mht", "wasm", "png"],
)
async def test_nothing_that_a_tenant_or_a_pack_wrote_runs_as_a_page_of_this_server(
    client: httpx2.AsyncClient, trees: Path, suffix: str
) -> None:
    polyglot = b"\x89PNG\r\n<html><script>alert(document.cookie)</script>"
    name = f"evil.{suffix}"
    (trees / "output" / name).write_bytes(polyglot)
    await client.post(f"/userdata/{name}", content=polyglot)
    asset = (await client.post("/api/v2/assets", files={"file": (name, polyglot, "text/html")})).json()["id"]
    for url in (f"/view?filename={name}", f"/userdata/{name}", f"/api/v2/assets/{asset}/content"):
        answer = await client.get(url)
        assert (answer.status_code, answer.content) == (200, polyglot), url
        assert answer.headers["x-content-type-options"] == "nosniff", url
        assert answer.headers["content-security-policy"].startswith("sandbox;"), url
        if suffix != "png":
            assert answer.headers["content-type"].startswith(("application/octet-stream", "text/plain")), url
            assert answer.headers["content-disposition"].startswith("attachment"), url
