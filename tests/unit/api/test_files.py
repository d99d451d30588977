"""Files: viewing, uploading, user data. Every path is somebody's attempt to leave the directory."""

from __future__ import annotations

import io
import os
from pathlib import Path

import anyio
import httpx2
import pytest
from fastapi import FastAPI

from api import trees
from api.settings import Settings
from engine import PreviewWish
from tests.unit.api.conftest import Start, client_for, make_settings
from tests.unit.api.fakes import FakeMedia

pytestmark = pytest.mark.anyio


@pytest.fixture
async def home(client: httpx2.AsyncClient, settings: Settings) -> Path:
    """The tenant's directory, with a secret right outside each of its trees."""
    await client.get("/prompt")  # the first request makes it
    root = settings.data_dir / "tenants" / "local"
    (root / "secret.txt").write_text("SECRET")
    (settings.data_dir / "secret.txt").write_text("SECRET")
    return root


async def test_a_file_comes_back_with_type_name_range_and_etag(
    client: httpx2.AsyncClient, home: Path
) -> None:
    (home / "output" / "sub").mkdir()
    (home / "output" / "sub" / "a.png").write_bytes(b"0123456789")
    for path in ("/view", "/api/view"):
        answer = await client.get(path, params={"filename": "a.png", "subfolder": "sub", "rand": "1"})
        assert (answer.status_code, answer.content) == (200, b"0123456789")
        assert answer.headers["content-type"] == "image/png"
        assert 'filename="a.png"' in answer.headers["content-disposition"]
        assert "etag" in answer.headers
    params = {"filename": "a.png", "subfolder": "sub", "type": "output"}
    part = await client.get("/view", params=params, headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content) == (206, b"234")
    head = await client.head("/view", params=params)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "10", b"")


async def test_a_type_suffix_in_the_name_wins(client: httpx2.AsyncClient, home: Path) -> None:
    (home / "input" / "a.png").write_bytes(b"in")
    answer = await client.get("/view", params={"filename": "a.png [input]", "type": "output"})
    assert answer.content == b"in"


@pytest.mark.parametrize(
    ("params", "wish"),
    [
        ({"preview": "webp"}, ("webp", 90, "")),
        ({"preview": "jpeg"}, ("jpeg", 90, "")),
        ({"preview": "jpeg;75", "channel": "rgb"}, ("jpeg", 75, "rgb")),
        (
            {"preview": "jpeg;75", "channel": "rgba"},
            ("webp", 75, "rgba"),
        ),  # alpha is asked for, and JPEG has none
        ({"preview": "bmp;x", "channel": "rgb"}, ("webp", 90, "rgb")),
        ({"channel": "rgb"}, ("", 90, "rgb")),
        ({"channel": "a"}, ("", 90, "a")),
    ],
)
async def test_a_re_encoded_picture_is_what_the_parameters_ask_a_sandbox_for(
    client: httpx2.AsyncClient,
    home: Path,
    media: FakeMedia,
    params: dict[str, str],
    wish: tuple[str, int, str],
) -> None:
    (home / "output" / "a.png").write_bytes(b"raw")
    answer = await client.get("/view", params={"filename": "a.png", **params})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/webp"
    assert answer.headers["content-security-policy"].startswith("sandbox")
    assert media.previews[0][1:] == (("a.png", "", "output"), PreviewWish(*wish))


async def test_a_picture_is_re_encoded_once_until_its_file_changes(
    client: httpx2.AsyncClient, home: Path, media: FakeMedia
) -> None:
    file = home / "output" / "a.png"
    file.write_bytes(b"raw")
    for _ in range(2):
        await client.get("/view", params={"filename": "a.png", "preview": "webp"})
    assert len(media.previews) == 1
    file.write_bytes(b"other")
    await client.get("/view", params={"filename": "a.png", "preview": "webp"})
    assert len(media.previews) == 2


async def test_without_a_file_or_a_wish_no_sandbox_is_asked(
    client: httpx2.AsyncClient, home: Path, media: FakeMedia
) -> None:
    (home / "output" / "a.png").write_bytes(b"raw")
    assert (await client.get("/view", params={"filename": "b.png", "preview": "webp"})).status_code == 404
    for channel in ("rgba", "anything"):
        answer = await client.get("/view", params={"filename": "a.png", "channel": channel})
        assert answer.content == b"raw"
    assert not media.previews


@pytest.mark.parametrize(
    "name",
    [
        "x.html",
        "x.HTM",
        "x.js",
        "x.mjs",
        "x.svg",
        "x.xml",
        "x.xhtml",
        "x.css",
        "x.pdf",
        "x.swf",
        "x",
        "x.unknown",
    ],
)
async def test_what_a_browser_could_run_is_a_download(
    client: httpx2.AsyncClient, home: Path, name: str
) -> None:
    (home / "output" / name).write_text("<script>alert(1)</script>")
    answer = await client.get("/view", params={"filename": name})
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("params", "statuses"),
    [
        ({}, {404}),
        ({"filename": ""}, {400}),
        ({"filename": "missing.png"}, {404}),
        ({"filename": "../secret.txt"}, {400}),
        ({"filename": "..\\secret.txt"}, {400}),
        ({"filename": "/etc/passwd"}, {400}),
        ({"filename": "secret.txt", "subfolder": ".."}, {403}),
        ({"filename": "secret.txt", "subfolder": "../.."}, {403}),
        ({"filename": "secret.txt", "subfolder": "a/../.."}, {403}),
        ({"filename": "passwd", "subfolder": "/etc"}, {403}),
        ({"filename": "secret.txt", "subfolder": "%2e%2e"}, {404}),
        ({"filename": "a\0b"}, {400, 403}),
        ({"filename": "a", "subfolder": "x" * 300}, {400, 403}),
        ({"filename": "a", "subfolder": "a/" * 40}, {400, 403, 404}),
        ({"filename": "secret.txt", "type": "user"}, {400}),
        ({"filename": "secret.txt", "type": "../"}, {400}),
        ({"filename": " [input]"}, {400, 404}),
        ({"filename": "sub"}, {403, 404}),
    ],
)
async def test_no_path_leaves_the_tree(
    client: httpx2.AsyncClient, home: Path, params: dict[str, str], statuses: set[int]
) -> None:
    (home / "output" / "sub").mkdir()
    answer = await client.get("/view", params=params)
    assert answer.status_code in statuses
    assert "SECRET" not in answer.text
    assert str(home) not in answer.text


@pytest.mark.parametrize("place", ["file", "directory", "fifo", "socket"])
async def test_what_a_sandbox_planted_leads_nowhere(
    client: httpx2.AsyncClient, home: Path, place: str
) -> None:
    params = {"filename": "secret.txt", "subfolder": ""}
    target = home / "output" / "secret.txt"
    if place == "file":
        target.symlink_to(home / "secret.txt")
    elif place == "directory":
        (home / "output" / "link").symlink_to(home)
        params["subfolder"] = "link"
    elif place == "fifo":
        os.mkfifo(target)
    else:
        os.mknod(target, 0o140600)
    answer = await client.get("/view", params=params)
    assert answer.status_code == 403
    assert "SECRET" not in answer.text
    listed = await client.get("/internal/files/output")
    assert "secret.txt" not in listed.json()


async def test_an_upload_is_kept_and_the_same_content_is_reused(
    client: httpx2.AsyncClient, home: Path
) -> None:
    async def upload(content: bytes, **data: str) -> dict[str, str]:
        answer = await client.post("/upload/image", files={"image": ("t.png", content)}, data=data)
        assert answer.status_code == 200
        return dict(answer.json())

    assert await upload(b"one", subfolder="s") == {"name": "t.png", "subfolder": "s", "type": "input"}
    assert (await upload(b"one", subfolder="s"))["name"] == "t.png"
    assert (await upload(b"two", subfolder="s"))["name"] == "t (1).png"
    assert (await upload(b"two", subfolder="s"))["name"] == "t (1).png"
    assert (await upload(b"two", subfolder="s", overwrite="True"))["name"] == "t (1).png"  # as in ComfyUI
    assert (await upload(b"three", subfolder="s", overwrite="true"))["name"] == "t.png"
    assert (home / "input" / "s" / "t.png").read_bytes() == b"three"
    assert sorted(os.listdir(home / "input" / "s")) == ["t (1).png", "t.png"]


@pytest.mark.parametrize(
    ("name", "data", "status"),
    [
        ("../x", {}, 400),
        ("..", {}, 400),
        ("/etc/x", {}, 400),
        ("x", {"subfolder": "../.."}, 400),
        ("x", {"subfolder": "/etc"}, 400),
        ("x", {"type": "user"}, 400),
        ("x", {"type": "../x"}, 400),
        ("a" * 300, {}, 400),
        ("../x", {"overwrite": "1"}, 400),
    ],
)
async def test_uploads_stay_in_their_tree(
    client: httpx2.AsyncClient, home: Path, name: str, data: dict[str, str], status: int
) -> None:
    before = sorted(path for path in home.parents[1].rglob("*"))
    answer = await client.post("/upload/image", files={"image": (name, b"x")}, data=data)
    assert answer.status_code == status
    assert sorted(path for path in home.parents[1].rglob("*")) == before


@pytest.mark.parametrize("overwrite", ["", "true"])
async def test_an_upload_does_not_write_through_a_planted_link(
    client: httpx2.AsyncClient, home: Path, overwrite: str
) -> None:
    (home / "output" / "x").symlink_to(home / "secret.txt")
    (home / "output" / "d").symlink_to(home)
    data = {"type": "output", "overwrite": overwrite}
    await client.post("/upload/image", files={"image": ("x", b"new")}, data=data)
    answer = await client.post(
        "/upload/image", files={"image": ("secret.txt", b"new")}, data={**data, "subfolder": "d"}
    )
    assert answer.status_code == 400
    assert (home / "secret.txt").read_text() == "SECRET"


async def test_uploads_without_a_file_are_refused(client: httpx2.AsyncClient, home: Path) -> None:
    assert (await client.post("/upload/image", data={"image": "text"})).status_code == 400
    assert (await client.post("/upload/image", content=b"x")).status_code == 400
    broken = await client.post(
        "/upload/image", content=b"x", headers={"content-type": "multipart/form-data; boundary=y"}
    )
    assert broken.status_code == 400
    many = [("image", (f"{n}", b"x")) for n in range(100)]
    assert (await client.post("/upload/image", files=many)).status_code == 400


async def test_a_mask_is_merged_by_a_sandbox_and_stored_as_an_upload_is(
    client: httpx2.AsyncClient, home: Path, media: FakeMedia
) -> None:
    (home / "output" / "sub").mkdir()
    (home / "output" / "sub" / "a.png").write_bytes(b"original")
    files = {"image": ("m.png", b"mask")}
    reference = {"original_ref": '{"filename": "a.png", "subfolder": "sub", "type": "output"}'}
    for name in ("m.png", "m.png"):  # the same content under the same name is the same file
        answer = await client.post(
            "/api/upload/mask", files=files, data={**reference, "subfolder": "clipspace"}
        )
        assert answer.json() == {"name": name, "subfolder": "clipspace", "type": "input"}
    assert media.masks[0][1:] == (("a.png", "sub", "output"), b"mask")
    assert (home / "input" / "clipspace" / "m.png").read_bytes() == b"merged"


@pytest.mark.parametrize(
    ("reference", "status"),
    [
        ("x", 400),
        ("[]", 400),
        ('{"filename": 1}', 400),
        ('{"filename": "../../secret.txt"}', 400),
        ('{"filename": "a.png", "subfolder": "../.."}', 403),
        ('{"filename": "a.png", "type": "models"}', 400),
        ('{"filename": "nowhere.png"}', 404),
    ],
)
async def test_a_mask_without_a_good_original_is_refused_before_any_sandbox_is_asked(
    client: httpx2.AsyncClient, home: Path, media: FakeMedia, reference: str, status: int
) -> None:
    answer = await client.post(
        "/upload/mask", files={"image": ("m.png", b"x")}, data={"original_ref": reference}
    )
    assert answer.status_code == status
    assert not media.masks


async def test_settings_merge_and_are_a_user_file(client: httpx2.AsyncClient, home: Path) -> None:
    assert (await client.get("/api/settings")).json() == {}
    headers = {"content-type": "text/plain"}
    assert (
        await client.post("/api/settings", content=b'{"a": 1, "b": {"c": 2}}', headers=headers)
    ).content == b""
    await client.post("/settings/Comfy.InstalledVersion", content=b'"1.2"', headers=headers)
    assert (await client.get("/settings")).json() == {"a": 1, "b": {"c": 2}, "Comfy.InstalledVersion": "1.2"}
    assert (await client.get("/settings/b")).json() == {"c": 2}
    assert (await client.get("/settings/none")).json() is None
    assert (await client.post("/settings", content=b"[]")).status_code == 400
    assert (await client.get("/userdata/comfy.settings.json")).json()["a"] == 1
    (home / "user" / "default" / "comfy.settings.json").write_text("damaged")
    assert (await client.get("/settings")).json() == {}


async def test_userdata_is_stored_listed_moved_and_deleted(client: httpx2.AsyncClient, home: Path) -> None:
    for empty in (
        "workflows",
        "subgraphs%2F",
        "keybindings",
    ):  # ComfyUI's page asks for these before it writes there
        answer = await client.get(f"/api/userdata?dir={empty}&recurse=true&full_info=true")
        assert (answer.status_code, answer.json()) == (200, [])
    assert (await client.get("/api/userdata?dir=mine&recurse=true&full_info=true")).status_code == 404
    assert (await client.get("/userdata")).status_code == 400
    saved = await client.post("/api/userdata/workflows%2Fa.json?full_info=true", content=b"{}")
    assert {key: saved.json()[key] for key in ("path", "size")} == {"path": "workflows/a.json", "size": 2}
    assert isinstance(saved.json()["modified"], int)
    again = await client.post("/userdata/workflows%2Fa.json?overwrite=false", content=b"[]")
    assert again.status_code == 409
    assert (await client.post("/userdata/workflows%2Fa.json", content=b"[1]")).json() == "workflows/a.json"
    assert (await client.get("/userdata/workflows%2Fa.json")).content == b"[1]"
    assert (await client.get("/userdata/workflows%252Fa.json")).content == b"[1]"
    await client.post("/userdata/workflows%2Fdeep%2Fb.json", content=b"")
    names = await client.get("/userdata?dir=workflows&recurse=true")
    assert names.json() == ["a.json", "deep/b.json"]
    assert (await client.get("/userdata?dir=workflows")).json() == ["a.json"]
    split = await client.get("/userdata?dir=workflows&recurse=true&split=true")
    assert split.json() == [["a.json", "a.json"], ["deep/b.json", "deep", "b.json"]]
    tree = (await client.get("/v2/userdata?path=workflows")).json()
    assert [(item["path"], item["type"]) for item in tree] == [
        ("workflows/deep", "directory"), ("workflows/a.json", "file"), ("workflows/deep/b.json", "file"),
    ]  # fmt: skip
    for hidden in ("workflows%2F.index.json", "workflows%2F.kept%2Fx.json"):
        assert (await client.post(f"/userdata/{hidden}", content=b"{}")).status_code == 200
        assert (await client.get(f"/userdata/{hidden}")).content == b"{}"
        assert (await client.get("/userdata?dir=workflows&recurse=true")).json() == ["a.json", "deep/b.json"]
        assert (await client.delete(f"/userdata/{hidden}")).status_code == 204
    no_directory = await client.get("/v2/userdata?path=workflows%2Fa.json")
    assert (no_directory.status_code, no_directory.json()["error"]["message"]) == (400, "this is a file")
    moved = await client.post("/userdata/workflows%2Fa.json/move/workflows%2Fc.json")
    assert moved.json() == "workflows/c.json"
    taken = await client.post("/userdata/workflows%2Fc.json/move/workflows%2Fdeep%2Fb.json?overwrite=false")
    assert taken.status_code == 409
    assert (await client.post("/userdata/none/move/x")).status_code == 404
    assert (await client.delete("/userdata/workflows%2Fc.json")).status_code == 204
    assert (await client.delete("/userdata/workflows%2Fc.json")).status_code == 404
    assert (await client.get("/userdata/")).status_code == 400


@pytest.mark.parametrize(
    "path",
    [
        "..%2F..%2Fsecret.txt",
        "%2Fetc%2Fpasswd",
        "..%252F..%252Fsecret.txt",
        "a%00b",
        "%ff",
        "x%2F..%2F..%2Fy",
    ],
)
async def test_userdata_paths_stay_in_their_tree(client: httpx2.AsyncClient, home: Path, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        answer = await client.request(method, f"/userdata/{path}")
        assert answer.status_code in (400, 403)
        assert "SECRET" not in answer.text
    assert (await client.post(f"/userdata/x/move/{path}")).status_code in (400, 403, 404)
    assert (await client.get("/userdata", params={"dir": "../.."})).status_code == 403
    assert (await client.get("/v2/userdata", params={"path": "../.."})).status_code == 403


async def test_userdata_has_a_quota(tmp_path: Path, start: Start) -> None:
    async with start(make_settings(tmp_path, max_user_bytes=2000)) as app, client_for(app) as client:
        assert (await client.post("/userdata/a", content=b"x" * 1500)).status_code == 200
        answer = await client.post("/userdata/b", content=b"x" * 1500)
        assert (answer.status_code, answer.json()["error"]["type"]) == (507, "storage_full")


async def test_models_are_listed_by_name_only(client: httpx2.AsyncClient, home: Path) -> None:
    (home / "models" / "loras" / "sub").mkdir(parents=True)
    (home / "models" / "embeddings").mkdir()
    (home / "models" / "loras" / "sub" / "a.safetensors").write_bytes(
        b"\x1a\0\0\0\0\0\0\0" + b'{"__metadata__":{"k":"v"}}'
    )
    (home / "models" / "loras" / "readme.txt").write_text("")
    (home / "models" / "embeddings" / "e.pt").write_text("")
    assert "loras" in (await client.get("/models")).json()
    assert (await client.get("/api/models/loras")).json() == ["sub/a.safetensors"]
    assert (await client.get("/models/vae")).json() == []
    assert (await client.get("/models/unknown")).status_code == 404
    assert (await client.get("/embeddings")).json() == ["e"]
    info = (await client.get("/experiment/models/loras")).json()
    assert (info[0]["name"], info[0]["pathIndex"], info[0]["size"]) == ("sub/a.safetensors", 0, 34)
    metadata = await client.get("/view_metadata/loras?filename=sub/a.safetensors")
    assert metadata.json() == {"k": "v"}
    for name in ("none.safetensors", "../../../secret.txt", "sub/a.safetensors\0"):
        assert (await client.get("/view_metadata/loras", params={"filename": name})).status_code in (400, 404)
    for path in ("/experiment/models", "/internal/folder_paths"):
        assert str(home) not in (await client.get(path)).text


async def test_what_the_frontend_asks_for_at_start_is_there(client: httpx2.AsyncClient, app: FastAPI) -> None:
    for path in (
        "/api/features", "/api/system_stats", "/api/users", "/api/settings", "/api/i18n", "/api/extensions",
        "/api/object_info", "/api/global_subgraphs", "/api/queue", "/api/history?max_items=64",
        "/api/workflow_templates",
        "/api/jobs?status=in_progress,pending&limit=200&offset=0", "/api/experiment/models", "/internal/folder_paths",
        "/api/node_replacements", "/internal/logs", "/internal/logs/raw", "/embeddings", "/internal/files/output",
    ):  # fmt: skip
        assert (await client.get(path)).status_code == 200, path
    stats = (await client.get("/system_stats")).json()
    assert stats["devices"][0]["type"] == "cpu"
    assert stats["system"]["ram_total"] > 0
    assert (
        await client.patch("/internal/logs/subscribe", json={"clientId": "x", "enabled": True})
    ).status_code == 200
    assert (await client.get("/internal/files/secret")).status_code == 400
    assert (await client.get("/users")).json() == {"storage": "server", "migrated": True}
    assert (await client.get("/extensions")).json() == []
    schema = (await client.get("/ringfence/v1/openapi.json")).json()
    assert {"/prompt", "/ringfence/v1/extensions", "/ringfence/v1/tenants"} <= schema["paths"].keys()


async def test_a_huge_file_of_the_same_name_is_not_read(client: httpx2.AsyncClient, home: Path) -> None:
    with (home / "output" / "x.png").open("wb") as stream:
        os.truncate(stream.fileno(), 1 << 43)  # as a pack can leave it: eight terabytes that take no room
    for _ in range(2):
        with anyio.fail_after(60):
            answer = await client.post(
                "/upload/image", files={"image": ("x.png", b"hello")}, data={"type": "output"}
            )
        assert answer.json()["name"] == "x (1).png"


def test_only_so_many_files_of_the_same_size_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    digest = trees.digest_of
    monkeypatch.setattr(trees, "digest_of", lambda stream, size: (read.append(size), digest(stream, size))[1])
    for number in range(100):
        (tmp_path / (f"x ({number}).png" if number else "x.png")).write_bytes(b"other")
    assert trees.Tree(tmp_path).add("", "x.png", io.BytesIO(b"hello")) == "x (100).png"
    assert len(read) == 1 + 16


async def test_a_client_that_has_a_file_already_does_not_get_it_again(
    client: httpx2.AsyncClient, home: Path
) -> None:
    (home / "output" / "a.png").write_bytes(b"0123456789")
    params = {"filename": "a.png"}
    first = await client.get("/view", params=params)
    for headers in (
        {"If-None-Match": first.headers["etag"]},
        {"If-None-Match": f'"other", W/{first.headers["etag"]}'},
        {"If-Modified-Since": first.headers["last-modified"]},
    ):
        again = await client.get("/view", params=params, headers=headers)
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    for headers in (
        {"If-None-Match": '"other"'},
        {"If-Modified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"},
        {"If-Modified-Since": "nonsense"},
    ):
        assert (await client.get("/view", params=params, headers=headers)).content == b"0123456789"
