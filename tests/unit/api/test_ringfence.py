"""Our own routes: extensions, sandboxes, policies, status, where nodes ran."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from fastapi import FastAPI

from api.settings import Settings
from engine import Difference
from engine.extension_errors import NoNodesError
from policies import LOCAL_TENANT
from sandbox import Finding, SandboxState
from tests.unit.api.fakes import PROMPT, FakeEngine

pytestmark = pytest.mark.anyio


def pack(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name.replace("__dot__", "."))
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


PACK = pack(__init____dot__py=b"NODE_CLASS_MAPPINGS = {}", a__dot__txt=b"1")


async def add(
    client: httpx2.AsyncClient, *, archive: bytes | None = PACK, path: str = "", **data: str
) -> list[dict[str, Any]]:
    files = {"archive": ("my pack.tar.gz", archive)} if archive is not None else {}
    if "policy" in data:
        files["policy"] = ("p.yaml", data.pop("policy").encode())
    answer = await client.post(f"/ringfence/v1/extensions{path}", data=data, files=files or None)
    if answer.status_code != 200:
        return [{"status": answer.status_code, **answer.json()}]
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_an_extension_is_added_from_an_archive_with_progress(
    client: httpx2.AsyncClient, engine: FakeEngine, settings: Settings
) -> None:
    lines = await add(client, origin="laptop:/home/me/my pack")
    assert [line["progress"] for line in lines[:-1]] == ["unpacking", "copying"]
    result = lines[-1]["result"]
    assert (result["name"], result["state"], result["node_count"]) == ("my-pack", "ready", 2)
    assert result["source"]["kind"] == "upload"
    assert result["source"]["location"] == "laptop:/home/me/my pack"
    assert engine.extensions.files == {"__init__.py": b"NODE_CLASS_MAPPINGS = {}", "a.txt": b"1"}
    listed = (await client.get("/ringfence/v1/extensions")).json()["extensions"]
    assert [item["name"] for item in listed] == ["my-pack"]
    assert str(settings.data_dir) not in json.dumps(listed)
    assert not list(settings.data_dir.glob("uploads/*/.staging-*"))


async def test_a_lone_python_file_is_an_extension(client: httpx2.AsyncClient, engine: FakeEngine) -> None:
    await add(client, archive=pack(node__dot__py=b"x = 1"), name="node")
    assert engine.extensions.files == {"node.py": b"x = 1"}
    source = engine.extensions.sources[0]
    assert isinstance(source, Path)
    assert source.name == "node.py"


async def test_an_archive_for_a_name_that_is_taken_leaves_the_old_one_alone(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    await add(client, name="x")
    lines = await add(client, name="x", archive=pack(evil__dot__py=b"evil"))
    assert lines[-1]["error"]["code"] == "extension-exists"
    await add(client, archive=None, path="/x/reload")
    assert "evil.py" not in engine.extensions.files


async def test_two_archives_for_one_name_at_the_same_moment_are_not_mixed_up(
    client: httpx2.AsyncClient, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, both, calls = engine.extensions.add, anyio.Event(), 0

    async def slowly(*given: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            both.set()
        with anyio.move_on_after(
            0.3
        ):  # for the other one, which must not come before this one has read its own
            await both.wait()
        return await real(*given, **more)

    monkeypatch.setattr(engine.extensions, "add", slowly)
    ends: dict[bytes, dict[str, Any]] = {}

    async def add_one(content: bytes) -> None:
        ends[content] = (await add(client, name="x", archive=pack(a__dot__py=content, b__dot__py=content)))[
            -1
        ]

    async with anyio.create_task_group() as tasks:
        for content in (b"one", b"other"):
            tasks.start_soon(add_one, content)
    (taken,) = [content for content, end in ends.items() if "result" in end]
    (refused,) = [end for end in ends.values() if "result" not in end]
    assert refused["error"]["code"] == "extension-exists"
    assert set(engine.extensions.files.values()) == {taken}
    await add(client, archive=None, path="/x/reload")
    assert set(engine.extensions.files.values()) == {taken}


async def test_reloading_with_an_archive_replaces_the_original(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    await add(client, name="x")
    lines = await add(client, path="/x/reload", archive=pack(new__dot__py=b"2", b__dot__py=b"3"))
    assert [line["progress"] for line in lines[:-1]] == ["unpacking", "reading again"]
    assert set(engine.extensions.files) == {"new.py", "b.py"}
    unknown = await add(client, path="/unknown/reload", archive=PACK)
    assert unknown[-1]["error"]["code"] == "extension-unknown"


async def test_removing_forgets_the_upload(client: httpx2.AsyncClient, settings: Settings) -> None:
    await add(client, name="x")
    assert (await client.delete("/ringfence/v1/extensions/x")).json() == {"removed": "x"}
    assert (await client.delete("/ringfence/v1/extensions/x")).status_code == 404
    assert not (settings.data_dir / "uploads" / "local" / "x").exists()


async def test_a_failure_is_the_last_line(client: httpx2.AsyncClient, engine: FakeEngine) -> None:
    engine.extensions.fails_with = NoNodesError("extension 'x' offers no node", hint="is it a pack?")
    assert (await add(client, name="x"))[-1] == {
        "error": {
            "code": "extension-empty",
            "message": "extension 'x' offers no node",
            "hint": "is it a pack?",
        }
    }
    engine.extensions.fails_with = ValueError("/secret/path")
    last = (await add(client, name="y"))[-1]
    assert last["error"]["code"] == "internal-error"
    assert "secret" not in str(last)


async def test_bad_archives_names_and_forms_are_refused(client: httpx2.AsyncClient) -> None:
    assert (await add(client, archive=b"not a tar"))[-1]["error"]["code"] == "archive-refused"
    assert (await add(client, name="../x"))[-1]["status"] == 400
    assert (await add(client, name="default"))[-1]["status"] == 400
    assert (await add(client, archive=None, name="x"))[-1]["status"] == 400
    assert (await add(client, archive=None, git="/etc"))[-1]["status"] == 400
    assert (await add(client, archive=None, git="http://insecure/x"))[-1]["status"] in (400, 422)
    assert (await client.delete("/ringfence/v1/extensions/..%2Fx")).status_code in (400, 404)


async def test_a_policy_comes_along_for_the_operator_only(
    client: httpx2.AsyncClient, engine: FakeEngine, app: FastAPI
) -> None:
    await add(client, name="x", policy="memory: 1GiB\n")
    assert engine.extensions.policies == [b"memory: 1GiB\n"]
    _, token = await app.state.services.tenants.create("a")
    client.headers["Authorization"] = f"Bearer {token}"
    assert (await add(client, name="y", policy="memory: 1GiB\n"))[-1]["status"] == 403
    assert (await add(client, archive=None, git="https://host/x/y"))[-1]["status"] == 403
    assert "result" in (await add(client, name="y"))[-1]


async def test_git_urls_are_handed_on_with_their_ref(client: httpx2.AsyncClient, engine: FakeEngine) -> None:
    lines = await add(client, archive=None, git="https://host/owner/my-pack.git@v1")
    assert lines[-1]["result"]["name"] == "my-pack"
    assert str(engine.extensions.sources[0]) == "GitSource(url='https://host/owner/my-pack.git', ref='v1')"


async def test_sandboxes_are_listed_read_and_stopped(client: httpx2.AsyncClient, engine: FakeEngine) -> None:
    engine.sandboxes.run("blur-1", "local", "blur")
    listed = (await client.get("/ringfence/v1/sandboxes")).json()["sandboxes"]
    assert (listed[0]["id"], listed[0]["memory_limit"], listed[0]["state"]) == ("blur-1", 2**30, "warm")
    logs = (await client.get("/ringfence/v1/sandboxes/blur-1/logs?limit=5")).json()
    assert logs["lines"][0]["text"] == "hello from blur-1 of local"
    assert (await client.get("/ringfence/v1/sandboxes/blur-1/logs?limit=0")).status_code == 400
    assert (await client.get("/ringfence/v1/sandboxes/none/logs")).status_code == 404
    assert (await client.get("/ringfence/v1/sandboxes/NO..T/logs")).status_code == 400
    assert (await client.delete("/ringfence/v1/sandboxes/blur-1")).json() == {
        "sandbox": "blur-1",
        "stopped": True,
    }
    assert engine.sandboxes.stopped == ["blur-1"]


async def test_policies_are_shown_checked_and_described(client: httpx2.AsyncClient) -> None:
    rows = (await client.get("/ringfence/v1/policies/blur")).json()["policy"]
    memory = next(row for row in rows if row["key"] == "memory")
    assert memory["file"].endswith("default.yaml")
    good = await client.post("/ringfence/v1/policies/check?name=blur", content=b"memory: 1GiB\n")
    assert good.json()["valid"] is True
    bad = await client.post("/ringfence/v1/policies/check?name=blur", content=b"memori: 1GiB\n")
    assert (bad.status_code, bad.json()["error"]["line"]) == (400, 1)
    assert bad.json()["error"]["file"].endswith("blur.yaml")
    assert "properties" in (await client.get("/ringfence/v1/policies/schema")).json()["extension"]


async def test_spares_are_listed_only_when_they_are_asked_for(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    engine.sandboxes.run("blur-1", "local", "blur")
    engine.sandboxes.run("blur-2", "local", "blur")
    engine.sandboxes.infos[1] = replace(engine.sandboxes.infos[1], state=SandboxState.SPARE)
    usual = (await client.get("/ringfence/v1/sandboxes")).json()["sandboxes"]
    assert [box["id"] for box in usual] == ["blur-1"]
    everything = (await client.get("/ringfence/v1/sandboxes", params={"spares": True})).json()["sandboxes"]
    assert [(box["id"], box["state"]) for box in everything] == [("blur-1", "warm"), ("blur-2", "spare")]
    used = (await client.get("/ringfence/v1/tenants/local/usage")).json()["quotas"]["sandboxes"]["used"]
    assert used == 1


async def test_status_and_doctor_answer_the_operator(client: httpx2.AsyncClient, engine: FakeEngine) -> None:
    engine.sandboxes.run("blur-1", "local", "blur")
    status = (await client.get("/ringfence/v1/status")).json()
    assert (status["mode"], status["tenant"], status["sandboxes"]) == ("single-user", "local", {"warm": 1})
    assert status["pool"] == {
        "size": 2, "ready": 1, "starting": 0, "taken": 3, "missed": 4,
        "without": [{"tenant": "local", "name": "blur", "why": "no memory"}],
    }  # fmt: skip
    report = (await client.get("/ringfence/v1/doctor")).json()
    (shown,) = [check["found"] for check in report["checks"] if check["name"] == "pool"]
    assert shown.startswith("1 of 2 spare sandboxes wait")
    assert "blur: no memory" in shown
    assert {"data directory", "shared memory"} <= {check["name"] for check in report["checks"]}


async def test_a_prompt_tells_where_its_nodes_ran(client: httpx2.AsyncClient, engine: FakeEngine) -> None:
    first = (await client.post("/prompt", json={"prompt": PROMPT})).json()["prompt_id"]
    second = (await client.post("/prompt", json={"prompt": PROMPT})).json()["prompt_id"]
    waiting = (await client.get(f"/ringfence/v1/prompts/{second}")).json()
    assert (waiting["state"], waiting["ahead"]) == ("pending", 1)
    await engine.run_one(LOCAL_TENANT, {"1": {"images": []}})
    done = (await client.get(f"/ringfence/v1/prompts/{first}")).json()
    assert done["state"] == "completed"
    assert done["nodes"] == [
        {
            "node_id": "1", "class_type": "Blur", "title": "Blur it", "extension": "blur", "sandbox": "blur-1",
            "duration_ms": 12.5, "cached": False,
        }
    ]  # fmt: skip
    assert (await client.get("/ringfence/v1/prompts/unknown")).status_code == 404


async def test_the_engine_is_told_whether_the_operator_asks(
    client: httpx2.AsyncClient, engine: FakeEngine, app: FastAPI
) -> None:
    await add(client, name="x")
    await add(client, archive=None, path="/x/reload")
    _, token = await app.state.services.tenants.create("a")
    client.headers["Authorization"] = f"Bearer {token}"
    await add(client, name="x")
    await add(client, archive=None, path="/x/reload")
    assert engine.extensions.by_operator == [True, True, False, False]


async def test_what_variables_hold_is_shown_to_the_operator_only(
    client: httpx2.AsyncClient, app: FastAPI, settings: Settings
) -> None:
    theirs = settings.policies_path / "tenants" / "a"
    theirs.mkdir(parents=True)
    for directory in (settings.policies_path, theirs):
        (directory / "vip.yaml").write_text(
            "environment: {LICENSE_KEY: alices-secret}\npaths: [{host: /usr/share, mount: /mnt/share}]\n"
        )
    (settings.policies_path / "default.yaml").write_text("path_roots: [/usr/share]\n")

    async def shown() -> dict[str, str]:
        rows = (await client.get("/ringfence/v1/policies/vip")).json()["policy"]
        return {row["key"]: row["value"] for row in rows}

    assert (await shown())["environment.LICENSE_KEY"] == "alices-secret"
    assert (await shown())["paths[0]"] == "{host: /usr/share, mount: /mnt/share, access: ro}"
    _, token = await app.state.services.tenants.create("a")
    client.headers["Authorization"] = f"Bearer {token}"
    rows = await shown()
    assert rows["environment.LICENSE_KEY"] == "(hidden)"
    assert rows["paths[0]"] == "{host: (hidden), mount: /mnt/share, access: ro}"
    assert "alices-secret" not in str(rows)
    assert rows["memory"] != "(hidden)"


# -- what extensions are made of ---------------------------------------------------------------------------------------

FINDING = Finding("victim", "1.0", "environment", "GHSA-a", ("CVE-1",), "high", 7.5, "a \x1b[31mhole", "1.2")


async def test_an_extension_has_a_bill_of_materials(client: httpx2.AsyncClient) -> None:
    await add(client)
    answer = await client.get("/ringfence/v1/extensions/my-pack/sbom")
    assert answer.headers["content-type"].startswith("application/vnd.cyclonedx+json")
    assert answer.headers["content-disposition"] == 'attachment; filename="my-pack.cdx.json"'
    assert answer.json()["bomFormat"] == "CycloneDX"
    assert (await client.get("/ringfence/v1/extensions/none/sbom")).status_code == 404


async def test_an_extension_is_verified_on_request(client: httpx2.AsyncClient, engine: FakeEngine) -> None:
    await add(client)
    assert (await client.post("/ringfence/v1/extensions/my-pack/verify", json={})).json()["ok"]
    engine.extensions.supply.problems = ("it is not what was pinned",)
    told = (await client.post("/ringfence/v1/extensions/my-pack/verify", json={})).json()
    assert (told["ok"], told["problems"]) == (False, ["it is not what was pinned"])


async def test_known_vulnerabilities_are_told_and_where_the_database_lies_is_not(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    await add(client)
    without = await client.get("/ringfence/v1/extensions/my-pack/audit")
    assert (without.status_code, without.json()["error"]["hint"]) == (503, "RINGFENCE_OSV_DIR")
    engine.extensions.supply.findings = (FINDING,)
    answer = await client.get("/ringfence/v1/extensions/my-pack/audit")
    assert answer.json()["findings"][0]["id"] == "GHSA-a"
    assert "/secret" not in answer.text
    (listed,) = (await client.get("/ringfence/v1/extensions")).json()["extensions"]
    assert listed["vulnerabilities"] == {"high": 1}


async def test_a_pin_and_an_upgrade_reach_the_registry_and_a_wrong_pin_is_refused_at_once(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    pin = "a" * 64
    await add(client, pin=f"sha256:{pin}")
    (refused,) = await add(client, name="other", pin="sha256:short")
    assert refused["error"]["code"] == "extension-source"
    await add(client, archive=None, path="/my-pack/reload", upgrade="true")
    assert engine.extensions.asked_for == [(pin, False), (None, True)]


async def test_an_archive_that_is_not_what_was_pinned_does_not_take_the_place_of_the_original(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    await add(client)
    lines = await add(
        client, path="/my-pack/reload", archive=pack(evil__dot__py=b"", __init____dot__py=b""), pin="b" * 64
    )
    assert "and the pin says" in lines[-1]["error"]["message"]
    await add(client, archive=None, path="/my-pack/reload")
    assert set(engine.extensions.files) == {"__init__.py", "a.txt"}


async def test_an_update_that_asks_for_more_is_refused_with_a_key_that_says_yes(
    client: httpx2.AsyncClient, engine: FakeEngine
) -> None:
    await add(client)
    new = pack(__init____dot__py=b"NEW = 1", a__dot__txt=b"2")
    engine.extensions.differences = [Difference("requirement", "requests (new)", is_more=True)]

    error = (await add(client, archive=new, path="/my-pack/update"))[-1]["error"]
    assert error["code"] == "update-asks-more"
    assert error["more"] == ["requirement: requests (new)"]
    kept = Path(engine.extensions.infos[LOCAL_TENANT, "my-pack"].source.location)
    assert (kept / "__init__.py").read_bytes() == b"NODE_CLASS_MAPPINGS = {}", "the original is the old one"

    lines = await add(client, archive=new, path="/my-pack/update", consent=error["consent"])
    assert lines[-1]["result"]["name"] == "my-pack"
    assert (kept / "__init__.py").read_bytes() == b"NEW = 1"
    (refused,) = await add(client, archive=new, path="/my-pack/update", consent="whatever")
    assert (refused["status"], "consent" in refused["error"]["message"]) == (400, True)
    (unknown,) = [line for line in await add(client, path="/nobody/update") if "error" in line]
    assert unknown["error"]["code"] == "extension-unknown"


@pytest.mark.parametrize(
    "body",
    [
        {"prompts": "x"},
        {"prompts": [{"name": "x"}]},
        {"prompts": [{"body": {"prompt": {}}}]},
        {"nodes": 1},
        {"limit_s": 0},
        {"limit_s": True},
        {"limit_s": 10**9},
        {"prompts": [{"name": "x", "body": {"prompt": {}}}] * 101},
    ],
)
async def test_what_is_no_wish_to_learn_is_refused_before_anything_runs(
    client: httpx2.AsyncClient, body: dict[str, Any]
) -> None:
    assert (await client.post("/ringfence/v1/policies/blur/learn", json=body)).status_code == 400
