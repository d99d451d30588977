"""The web frontend: which files are found, how they are answered, and what stands at / without it."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
from pydantic import ValidationError

from api.frontend import PACKAGE, FrontendError, find_frontend
from api.routes.frontend import TYPES, content_security_policy
from tests.unit.api.conftest import Start, client_for, make_settings

INLINE = "window.started = true"
PAGE = f'<!doctype html><script>{INLINE}</script><script type="module" src="./assets/main.js"></script>'


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A frontend of a few files, with links and hidden files in it."""
    root = tmp_path / "build"
    for name, text in {
        "index.html": PAGE,
        "assets/main.js": "export {}",
        "assets/index-1.json": "{}",
        "assets/main.js.map": "{}",
        "assets/logo.png": "png",
        "assets/style.css": "a{}",
        "assets/odd.exe": "?",
        "extensions/core/widgets.js": "export {}",
        "extensions/core/deep/more.js": "export {}",
        "extensions/core/style.css": "a{}",
        "queue": "not the API's queue",
        ".git/config": "secret",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (tmp_path / "secret").write_text("secret")
    (root / "assets" / "link.js").symlink_to(tmp_path / "secret")
    (root / "linked").symlink_to(tmp_path)
    return root


def test_the_installed_package_is_found_without_importing_it() -> None:
    import sys

    found = find_frontend("")
    assert "comfyui_frontend_package" not in sys.modules
    if not found.is_there:
        assert PACKAGE in found.why_not
        return
    assert found.version
    assert "scripts/app.js" in found.files
    assert "/extensions/core/widgetInputs.js" in found.scripts
    assert all(path.is_absolute() for path in found.files.values())
    unknown = {path.suffix.lower() for path in found.files.values()} - set(TYPES)
    assert not unknown, "each kind of file in the package has its type"


def test_a_directory_takes_the_place_of_the_package(build: Path) -> None:
    found = find_frontend(str(build))
    assert found.version is None
    assert set(found.files) >= {"index.html", "assets/main.js"}


def test_links_and_hidden_files_are_not_served(build: Path) -> None:
    names = set(find_frontend(str(build)).files)
    assert not [name for name in names if "link" in name or name.startswith(".")]


def test_a_directory_without_a_page_ends_the_start_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(FrontendError, match=r"RINGFENCE_FRONTEND_DIR=.*has no index\.html"):
        find_frontend(str(tmp_path))


def test_the_policy_names_the_pages_own_inline_scripts_and_no_others(build: Path) -> None:
    digest = base64.b64encode(hashlib.sha256(INLINE.encode()).digest()).decode()
    found = find_frontend(str(build))
    assert found.inline_scripts == (f"'sha256-{digest}'",)
    scripts = next(
        part
        for part in content_security_policy(found.inline_scripts).split("; ")
        if part.startswith("script")
    )
    assert scripts == f"script-src 'self' 'unsafe-eval' blob: 'sha256-{digest}'"


def test_the_page_reaches_this_server_only_unless_the_operator_lists_more() -> None:
    assert "http" not in content_security_policy()
    policy = content_security_policy((), ("https://example.org",))
    assert "connect-src 'self' data: blob: https://example.org" in policy


@pytest.mark.parametrize(
    "origin", ["https://example.org; script-src *", "*", "data:", "https://a b", "https://a/b"]
)
def test_an_origin_that_would_change_the_policy_is_refused(tmp_path: Path, origin: str) -> None:
    with pytest.raises(ValidationError, match="frontend_origins"):
        make_settings(tmp_path, frontend_origins=(origin,))


@pytest.mark.anyio
async def test_files_have_the_type_and_the_life_that_the_page_needs(
    build: Path, tmp_path: Path, start: Start
) -> None:
    wanted = {
        "/": ("text/html; charset=utf-8", "no-cache"),
        "/index.html": ("text/html; charset=utf-8", "no-cache"),
        "/assets/main.js": ("text/javascript; charset=utf-8", "no-cache"),
        "/assets/style.css": ("text/css; charset=utf-8", "no-cache"),
        "/assets/index-1.json": ("application/json", "no-cache"),
        "/assets/main.js.map": ("application/json", None),
        "/assets/logo.png": ("image/png", "public, max-age=86400"),
        "/assets/odd.exe": ("application/octet-stream", None),
        "/user.css": ("text/css; charset=utf-8", "no-cache"),
        "/templates/index.json": ("application/json", "no-cache"),
    }
    async with start(make_settings(tmp_path, frontend_dir=str(build))) as app, client_for(app) as client:
        for path, (kind, kept) in wanted.items():
            answer = await client.get(path)
            assert answer.status_code == 200, path
            assert answer.headers["content-type"] == kind
            assert answer.headers.get("cache-control") == kept, path
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
        assert (await client.get("/")).text == PAGE


@pytest.mark.anyio
async def test_an_unchanged_file_is_not_sent_again_and_a_part_can_be_asked_for(
    build: Path, tmp_path: Path, start: Start
) -> None:
    async with start(make_settings(tmp_path, frontend_dir=str(build))) as app, client_for(app) as client:
        first = await client.get("/assets/main.js")
        for headers in (
            {"If-None-Match": first.headers["etag"]},
            {"If-None-Match": f'"other", W/{first.headers["etag"]}'},
            {"If-Modified-Since": first.headers["last-modified"]},
        ):
            again = await client.get("/assets/main.js", headers=headers)
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == first.headers["etag"]
        for headers in ({"If-None-Match": '"other"'}, {"If-Modified-Since": "yesterday"}):
            assert (await client.get("/assets/main.js", headers=headers)).status_code == 200
        part = await client.get("/assets/main.js", headers={"Range": "bytes=0-5"})
        assert (part.status_code, part.content) == (206, b"export")
        head = await client.head("/assets/main.js")
        assert (head.content, head.headers["content-length"]) == (b"", "9")


@pytest.mark.anyio
@pytest.mark.parametrize(
    "path",
    [
        "/../secret",
        "/assets/../../secret",
        "/%2e%2e/secret",
        "/assets/%2e%2e%2f%2e%2e%2fsecret",
        "//etc/passwd",
        "/assets/link.js",
        "/linked/secret",
        "/.git/config",
        "/assets",
        "/assets/",
        "/assets/absent.js",
        "/assets\\main.js",
    ],
)
async def test_what_is_not_in_the_catalogue_is_not_there(
    build: Path, tmp_path: Path, start: Start, path: str
) -> None:
    async with start(make_settings(tmp_path, frontend_dir=str(build))) as app, client_for(app) as client:
        answer = await client.get(path)
        assert answer.status_code == 404
        assert "secret" not in answer.text


@pytest.mark.anyio
async def test_the_api_goes_first_and_other_methods_find_nothing(
    build: Path, tmp_path: Path, start: Start
) -> None:
    async with start(make_settings(tmp_path, frontend_dir=str(build))) as app, client_for(app) as client:
        assert (await client.get("/queue")).json() == {"queue_running": [], "queue_pending": []}
        assert (await client.post("/assets/main.js")).status_code == 404
        listed = (await client.get("/extensions")).json()
        assert listed == ["/extensions/core/widgets.js", "/extensions/core/deep/more.js"]
        assert (await client.get("/api/extensions")).json() == listed
        assert (await client.get(listed[1])).status_code == 200


@pytest.mark.anyio
async def test_a_file_that_vanished_is_a_plain_404(build: Path, tmp_path: Path, start: Start) -> None:
    async with start(make_settings(tmp_path, frontend_dir=str(build))) as app, client_for(app) as client:
        (build / "assets/main.js").unlink()
        assert (await client.get("/assets/main.js")).status_code == 404


@pytest.mark.anyio
async def test_without_a_frontend_the_page_says_how_to_get_one(tmp_path: Path, start: Start) -> None:
    async with start(make_settings(tmp_path, frontend_dir="none")) as app, client_for(app) as client:
        answer = await client.get("/")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/html")
        assert "RINGFENCE_FRONTEND_DIR=none" in answer.text
        assert "ringfence[frontend]" in answer.text
        assert (await client.get("/extensions")).json() == []
        assert (await client.get("/scripts/app.js")).status_code == 404


@pytest.mark.anyio
async def test_licences_name_what_is_served_and_where_its_source_is(tmp_path: Path, start: Start) -> None:
    async with start(make_settings(tmp_path, frontend_dir="")) as app, client_for(app) as client:
        parts = {
            part["name"]: part for part in (await client.get("/ringfence/v1/licences")).json()["components"]
        }
        assert parts["ringfence"]["licence"] == "Apache-2.0"
        if app.state.frontend.is_there:
            assert parts[PACKAGE]["licence"] == "GPL-3.0-only"
            assert parts[PACKAGE]["source"].startswith("https://")


@pytest.mark.anyio
async def test_opening_the_page_again_and_again_is_no_flood_of_requests(
    tmp_path: Path, build: Path, start: Start
) -> None:
    settings = make_settings(tmp_path, frontend_dir=str(build))
    settings.policies_path.mkdir(parents=True)
    (settings.policies_path / "default.yaml").write_text("quotas: {requests: 1, burst: 2}\n")
    async with start(settings) as app, client_for(app) as client:
        assert {(await client.get("/")).status_code for _ in range(8)} == {200}
        assert 429 in [(await client.get("/queue")).status_code for _ in range(8)]
