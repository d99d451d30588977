"""What packs bring for the web page: scripts only where the policy allows them, and nothing from outside of a pack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from api.pack_web import PackTexts
from engine import PackFiles
from policies import ExtensionName
from tests.unit.api.fakes import FakeEngine

pytestmark = pytest.mark.anyio


def pack(root: Path, name: str, files: dict[str, Any], **more: Any) -> PackFiles:
    """A pack's copy, with texts as they are and everything else as JSON."""
    for path, content in files.items():
        file = root / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    said = {"given": name, "web_directory": "js", "web_files": True, **more}
    return PackFiles(ExtensionName(name), root / name, **said)


async def test_scripts_are_listed_and_served_with_their_types(
    client: httpx2.AsyncClient, engine: FakeEngine, tmp_path: Path
) -> None:
    files = {"js/a.js": "let a", "js/sub/b c.js": "let b", "js/style.css": "p {}", "__init__.py": "SECRET"}
    engine.extensions.packs = [pack(tmp_path, "blur", files, given="ComfyUI-Blur")]
    listed = ["/extensions/blur/a.js", "/extensions/blur/sub/b%20c.js"]
    for path in ("/extensions", "/api/extensions"):
        assert (await client.get(path)).json() == listed
    script = await client.get(listed[0])
    assert (script.text, script.headers["content-type"].partition(";")[0]) == ("let a", "text/javascript")
    assert script.headers["cache-control"] == "no-store"
    assert script.headers["x-content-type-options"] == "nosniff"
    style = await client.get("/extensions/ComfyUI-Blur/style.css")  # as its own files may call it
    assert (style.status_code, style.headers["content-type"].partition(";")[0]) == (200, "text/css")
    assert (await client.get(listed[1])).text == "let b"
    assert (await client.get("/api" + listed[0])).status_code == 404


async def test_without_the_policys_word_there_are_no_scripts(
    client: httpx2.AsyncClient, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.extensions.packs = [pack(tmp_path, "blur", {"js/a.js": "let a"}, web_files=False)]
    assert (await client.get("/extensions")).json() == []
    assert (await client.get("/extensions/blur/a.js")).status_code == 404


@pytest.mark.parametrize("directory", [None, "", ".", "..", "../other", "/etc", "js/../.."])
async def test_a_worker_cannot_name_a_directory_outside_of_its_web_files(
    client: httpx2.AsyncClient, engine: FakeEngine, tmp_path: Path, directory: str | None
) -> None:
    pack(tmp_path, "other", {"secret.js": "SECRET"})
    engine.extensions.packs = [pack(tmp_path, "blur", {"__init__.py": "SECRET"}, web_directory=directory)]
    assert (await client.get("/extensions")).json() == []
    for path in ("__init__.py", "secret.js", "other/secret.js", "passwd"):
        assert (await client.get(f"/extensions/blur/{path}")).status_code == 404


async def test_links_and_climbing_paths_lead_nowhere(
    client: httpx2.AsyncClient, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.extensions.packs = [pack(tmp_path, "blur", {"js/a.js": "let a", "secret.py": "SECRET"})]
    (tmp_path / "blur" / "js" / "link.js").symlink_to(tmp_path / "blur" / "secret.py")
    (tmp_path / "blur" / "linked").symlink_to(tmp_path)
    for path in ("link.js", "..%2fsecret.py", "%2e%2e/secret.py", "../secret.py", "/etc/passwd"):
        answer = await client.get(f"/extensions/blur/{path}")
        assert answer.status_code == 404
        assert "SECRET" not in answer.text
    assert (await client.get("/extensions")).json() == ["/extensions/blur/a.js"]


async def test_the_projects_own_web_directory_has_the_projects_name(
    client: httpx2.AsyncClient, engine: FakeEngine, tmp_path: Path
) -> None:
    project = '[project]\nname = "blur-project"\n[tool.comfy]\nweb = "./web"\n'
    files = {"pyproject.toml": project, "js/a.js": "a", "web/b.js": "b"}
    engine.extensions.packs = [
        pack(tmp_path, "blur", files),
        pack(tmp_path, "same", {"pyproject.toml": project.replace("blur-project", "other"), "web/c.js": "c"},
             web_directory="web"),
        pack(tmp_path, "odd", {"pyproject.toml": "[project", "js/d.js": "d"}),
    ]  # fmt: skip
    assert (await client.get("/extensions")).json() == [
        "/extensions/blur/a.js",
        "/extensions/blur-project/b.js",
        "/extensions/same/c.js",  # once, though both say so
        "/extensions/odd/d.js",
    ]
    assert (await client.get("/extensions/other/c.js")).text == "c"


async def test_translations_are_merged_over_packs(
    client: httpx2.AsyncClient, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.extensions.packs = [
        pack(tmp_path, "b", {"locales/fr/main.json": {"x": {"b": 1}, "l": [2]}}, web_files=False),
        pack(
            tmp_path,
            "a",
            {
                "locales/fr/main.json": {"x": {"a": 1, "b": 0}, "l": [1]},
                "locales/fr/nodeDefs.json": {"Blur": {"display_name": "Flou"}},
                "locales/de/settings.json": "{ no JSON",
                "locales/de/commands.json": {"go": "los"},
            },
        ),
    ]
    expected = {
        "fr": {"x": {"a": 1, "b": 1}, "l": [1, 2], "nodeDefs": {"Blur": {"display_name": "Flou"}}},
        "de": {"commands": {"go": "los"}},
    }
    for path in ("/i18n", "/api/i18n", "/i18n"):
        assert (await client.get(path)).json() == expected


async def test_example_workflows_are_listed_and_served_below_api(
    client: httpx2.AsyncClient, engine: FakeEngine, tmp_path: Path
) -> None:
    files = {
        "example_workflows/one.json": {"nodes": []},
        "example_workflows/one.jpg": "picture",
        "x.json": {},
    }
    engine.extensions.packs = [pack(tmp_path, "blur", files, web_files=False)]
    assert (await client.get("/api/workflow_templates")).json() == {"blur": ["one"]}
    assert (await client.get("/api/workflow_templates/blur/one.json")).json() == {"nodes": []}
    picture = await client.get("/api/workflow_templates/blur/one.jpg")
    assert (picture.text, picture.headers["content-type"]) == ("picture", "image/jpeg")
    for path in ("blur/two.json", "other/one.json", "blur/one.py", "blur/..%2fx.json"):
        assert (await client.get(f"/api/workflow_templates/{path}")).status_code == 404
    assert (await client.get("/workflow_templates/blur/one.json")).status_code == 404


async def test_subgraphs_come_with_their_content(
    client: httpx2.AsyncClient, engine: FakeEngine, tmp_path: Path
) -> None:
    files = {"subgraphs/soft.json": '{"definitions": {}}', "subgraphs/bad.json": "no JSON"}
    engine.extensions.packs = [pack(tmp_path, "blur", files, web_files=False)]
    found = (await client.get("/global_subgraphs")).json()
    ((identity, subgraph),) = found.items()
    assert subgraph == {
        "source": "custom_node",
        "name": "soft",
        "info": {"node_pack": "custom_nodes.blur"},
        "data": '{"definitions": {}}',
    }
    assert (await client.get(f"/api/global_subgraphs/{identity}")).json() == subgraph
    assert (await client.get("/global_subgraphs/unknown")).json() is None


@pytest.mark.timeout(60)
async def test_a_project_file_that_takes_the_parser_minutes_is_no_project_file(
    client: httpx2.AsyncClient, engine: FakeEngine, tmp_path: Path
) -> None:
    key = ".".join(["a"] * 100_000)
    project = f'[project]\nname = "blur-project"\n[tool.comfy]\nweb = "js"\n[tool]\n{key} = 1\n'
    engine.extensions.packs = [pack(tmp_path, "blur", {"pyproject.toml": project, "js/a.js": "a"})]
    assert (await client.get("/extensions")).json() == ["/extensions/blur/a.js"]


def test_texts_of_packs_take_no_more_memory_than_they_may(tmp_path: Path) -> None:
    texts = PackTexts(max_bytes=50_000)
    packs = [
        pack(tmp_path, f"p{number}", {"locales/fr/main.json": {"x": f"{number}" * 2000}})
        for number in range(30)
    ]
    for each in packs:
        assert texts.translations([each]) == texts.translations([each])
        assert texts._bytes == sum(4096 + len(made) for made in texts._made.values()) <= 50_000
    files = {f"locales/l{number}/main.json": {"x": [[]] * 60_000} for number in range(10)}
    found = json.loads(texts.translations([pack(tmp_path, "many", files)]))
    assert len(found) == 8  # of a million parts, these were the first
