"""The command: as a subprocess against a live server, and in-process where no server is needed."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi import FastAPI

from api.cli.main import invoke
from api.cli.outputs import _create
from api.settings import Settings
from engine import PromptInvalidError
from policies import LOCAL_TENANT, TenantId
from sandbox import Finding
from tests.unit.api.fakes import PROMPT, FakeEngine
from tests.unit.api.live import serving

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).resolve().parents[3]
COMMAND = [sys.executable, "-c", "from api.cli import main; main()"]


@dataclass
class Ran:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Cli:
    url: str
    cwd: Path

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return {**kept, "PYTHONPATH": str(ROOT), "RINGFENCE_URL": self.url, "COLUMNS": "80", **more}

    async def __call__(self, *arguments: str, stdin: bytes | None = None, **environment: str) -> Ran:
        with anyio.fail_after(30):
            done = await anyio.run_process(
                [*COMMAND, *arguments],
                input=stdin,
                check=False,
                cwd=self.cwd,
                env=self.environment(**environment),
            )
        ran = Ran(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert "Traceback" not in ran.err, ran.err
        return ran


@pytest.fixture
async def cli(app: FastAPI, settings: Settings, tmp_path: Path) -> AsyncIterator[Cli]:
    (tmp_path / "prompt.json").write_text(json.dumps(PROMPT))
    async with serving(app, settings) as url:
        yield Cli(url, tmp_path)


@pytest.fixture
def runs(engine: FakeEngine) -> FakeEngine:
    """An engine that runs every prompt at once, and makes one picture."""

    async def run(tenant: TenantId, _prompt_id: str) -> None:
        await engine.run_one(tenant, {"1": {"images": [PICTURE], "text": ["a line\x1b[31m"]}})

    engine.on_submit = run
    return engine


PICTURE = {"filename": "a.png", "subfolder": "", "type": "output"}


def picture(settings: Settings, name: str = "a.png") -> Path:
    path = settings.data_dir / "tenants" / "local" / "output" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"picture")
    return path


async def test_run_prints_outputs_and_where_nodes_ran(cli: Cli, runs: FakeEngine, settings: Settings) -> None:
    path = picture(settings)
    ran = await cli("run", "prompt.json")
    assert ran.status == 0, ran.err
    assert str(path) in ran.out
    for text in ("blur-1", "0.01 s", "Blur it", "a line\\x1b[31m"):
        assert text in ran.out
    assert "\x1b" not in ran.out


async def test_run_prints_one_json_document(cli: Cli, runs: FakeEngine, settings: Settings) -> None:
    picture(settings)
    ran = await cli("run", "prompt.json", "--json")
    assert ran.status == 0
    assert ran.json["state"] == "completed"
    assert ran.json["nodes"][0]["extension"] == "blur"
    assert ran.json["nodes"][0]["seconds"] == 0.0125
    assert ran.json["outputs"][0]["url"].startswith(cli.url)


async def test_run_reads_stdin_and_whole_requests(cli: Cli, runs: FakeEngine) -> None:
    body = {"prompt": PROMPT, "extra_data": {"extra_pnginfo": {"workflow": {}}}}
    assert (await cli("run", "-", stdin=json.dumps(body).encode())).status == 0
    assert runs.requests[0].extra_data == {"extra_pnginfo": {"workflow": {}}}


async def test_run_fetches_files_without_trusting_their_names(
    cli: Cli, engine: FakeEngine, settings: Settings
) -> None:
    names = ["a.png", "..png", "\x1bx.png"]
    for name in names:
        picture(settings, name)

    async def run(tenant: TenantId, _prompt_id: str) -> None:
        images = [{"filename": name, "subfolder": "", "type": "output"} for name in names]
        await engine.run_one(tenant, {"1": {"images": images[:2]}})

    engine.on_submit = run
    (cli.cwd / "out").mkdir()
    (cli.cwd / "out" / "a.png").write_bytes(b"mine")
    ran = await cli("run", "prompt.json", "-o", "out", "--json")
    # "..png" holds "..", which the server refuses to serve.
    assert ran.status == 4
    assert (cli.cwd / "out" / "a.png").read_bytes() == b"mine"
    assert (cli.cwd / "out" / "a (1).png").read_bytes() == b"picture"


@pytest.mark.parametrize("name", ["../../x", "/etc/x", ".bashrc", "a\0b", "x\x1b[0m", "con:", "", "." * 300])
def test_names_from_a_pack_stay_in_the_directory(tmp_path: Path, name: str) -> None:
    descriptor, path = _create(tmp_path, name)
    os.close(descriptor)
    assert path.parent == tmp_path
    assert not path.name.startswith(".")
    assert path.name.isprintable()


async def test_run_uploads_only_what_it_is_told_to(cli: Cli, runs: FakeEngine, settings: Settings) -> None:
    (cli.cwd / "photo.jpg").write_bytes(b"jpeg")
    ran = await cli("run", "prompt.json", "--upload", "photo.jpg", "--upload", "photo.jpg=other.jpg")
    assert ran.status == 0, ran.err
    inputs = settings.data_dir / "tenants" / "local" / "input"
    assert sorted(path.name for path in inputs.iterdir()) == ["other.jpg", "photo.jpg"]
    assert (await cli("run", "prompt.json", "--upload", "missing.jpg")).status == 2


async def test_a_failed_prompt_is_status_1_with_the_nodes_error(cli: Cli, engine: FakeEngine) -> None:
    async def run(tenant: TenantId, _prompt_id: str) -> None:
        error = {
            "node_id": "1", "node_type": "Blur", "exception_type": "ringfence.EndedError",
            "exception_message": "extension 'blur' ended: memory cap 512 MiB\n",
        }  # fmt: skip
        await engine.run_one(tenant, end="execution_error", error=error)

    engine.on_submit = run
    ran = await cli("run", "prompt.json")
    assert ran.status == 1
    assert "node 1 (Blur) failed: ringfence.EndedError: extension 'blur' ended: memory cap 512 MiB" in ran.err
    as_json = await cli("run", "prompt.json", "--json")
    assert (as_json.status, as_json.json["state"]) == (1, "failed")


async def test_a_refused_prompt_is_status_4_with_every_node_error(cli: Cli, engine: FakeEngine) -> None:
    engine.invalid = PromptInvalidError(
        {
            "type": "prompt_outputs_failed_validation",
            "message": "not valid",
            "details": "d",
            "extra_info": {},
        },
        {"1": {"errors": [{"message": "Value too big", "details": "i"}], "class_type": "Blur"}},
    )
    ran = await cli("run", "prompt.json")
    assert ran.status == 4
    assert "node 1 (Blur): Value too big: i" in ran.err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        ("{", "not JSON"),
        ("[]", "not a prompt"),
        ("{}", "not a prompt"),
        ('{"1": {"inputs": {}}}', "node '1' has no class_type"),
        ('{"nodes": [], "links": []}', "editor's format"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_file_is_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, says: str
) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    assert invoke(["run", str(path)]) == 2
    assert says in capsys.readouterr().err


async def test_no_server_is_status_3_and_no_token_status_5(cli: Cli, app: FastAPI) -> None:
    for arguments in (["status"], ["run", "prompt.json"], ["extension", "list"]):
        ran = await cli(*arguments, "--url", "http://127.0.0.1:9")
        assert ran.status == 3
        assert "make up" in ran.err
    assert (await cli("status", "--url", "nonsense")).status == 2
    _, token = await app.state.services.tenants.create("a")
    for arguments in (["status"], ["run", "prompt.json"]):
        assert (await cli(*arguments)).status == 5
    assert (await cli("status", "--token", token)).status == 0
    (cli.cwd / "token").write_text(token + "\n")
    assert (await cli("status", RINGFENCE_TOKEN_FILE="token")).status == 0
    assert (await cli("tenant", "list", RINGFENCE_TOKEN=token)).status == 5


async def test_ctrl_c_cancels_the_prompt_and_is_status_130(cli: Cli, engine: FakeEngine) -> None:
    process = await anyio.open_process(
        [*COMMAND, "run", "prompt.json"], cwd=cli.cwd, env=cli.environment(), stderr=subprocess.PIPE
    )
    with anyio.fail_after(60):
        while not (await engine.storage.pending(LOCAL_TENANT)):  # noqa: ASYNC110 - storage offers no event
            await anyio.sleep(0.05)  # the other process says nothing until there is progress
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
    assert await engine.storage.pending(LOCAL_TENANT) == []
    await process.aclose()


async def test_run_survives_a_lost_connection(cli: Cli, engine: FakeEngine, app: FastAPI) -> None:
    async with anyio.create_task_group() as tasks:
        results: list[Ran] = []

        async def go() -> None:
            results.append(await cli("run", "prompt.json", "--json"))

        tasks.start_soon(go)
        with anyio.fail_after(60):
            while not (await engine.storage.pending(LOCAL_TENANT)):  # noqa: ASYNC110 - storage offers no event
                await anyio.sleep(0.05)
        engine.hub.close()  # ends every stream, so the server drops its sockets
        await engine.run_one(LOCAL_TENANT, {})
    assert results[0].status == 0, results[0].err
    assert results[0].json["state"] == "completed"


async def test_extensions_are_added_listed_reloaded_and_removed(cli: Cli, engine: FakeEngine) -> None:
    pack = cli.cwd / "my pack"
    (pack / "__pycache__").mkdir(parents=True)
    (pack / ".git").mkdir()
    (pack / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}")
    (pack / "__pycache__" / "x.pyc").write_text("")
    (pack / ".git" / "config").write_text("")
    (pack / "inside").symlink_to("__init__.py")
    (cli.cwd / "p.yaml").write_text("memory: 1GiB\n")
    added = await cli("extension", "add", "my pack", "--policy", "p.yaml")
    assert added.status == 0, added.err
    assert "added my-pack: 2 nodes (v1)" in added.out
    assert set(engine.extensions.files) == {"__init__.py", "inside"}
    assert engine.extensions.policies == [b"memory: 1GiB\n"]
    listed = await cli("extension", "list", "--json")
    assert [item["name"] for item in listed.json["extensions"]] == ["my-pack"]
    table = await cli("extension", "list")
    assert "my-pack" in table.out
    (pack / "new.py").write_text("")
    assert (await cli("extension", "reload", "my-pack")).status == 0
    assert "new.py" in engine.extensions.files
    again = await cli("extension", "add", "my pack")
    assert (again.status, "was added already" in again.err) == (1, True)
    assert (await cli("extension", "remove", "my-pack")).out == "removed my-pack\n"
    assert (await cli("extension", "remove", "my-pack")).status == 1
    (pack / "outside").symlink_to("/etc/passwd")
    refused = await cli("extension", "add", "my pack")
    assert (refused.status, "outside" in refused.err) == (2, True)
    assert (await cli("extension", "add", "nowhere")).status == 2
    assert (await cli("extension", "add", "https://host/x/y.git")).status == 0


async def test_sandboxes_are_shown_in_80_columns_with_their_whole_name(cli: Cli, engine: FakeEngine) -> None:
    name = "a-rather-long-sandbox-name-0123456789"
    engine.sandboxes.run(name, "local", "an-extension-with-a-long-name")
    table = await cli("sandbox", "list")
    assert name in table.out
    assert (await cli("sandbox", "list", "--json")).json["sandboxes"][0]["id"] == name
    assert "hello from" in (await cli("sandbox", "logs", name)).out
    assert (await cli("sandbox", "stop", name)).out == f"stopped {name}\n"
    assert (await cli("sandbox", "stop", "none")).status == 1


async def test_tenants_are_managed_from_the_command(cli: Cli) -> None:
    created = await cli("tenant", "create", "studio", "--json")
    token, operator = created.json["token"], created.json["operator_token"]
    assert (await cli("tenant", "list", "--token", operator)).out.splitlines()[2].startswith("studio")
    assert (await cli("tenant", "create", "studio", "--token", operator)).status == 1
    rotated = await cli("tenant", "rotate-token", "studio", "--token", operator)
    assert token not in rotated.out
    assert (await cli("status", "--token", token)).status == 5
    acting = await cli("status", "--json", "--token", operator, "--tenant", "studio")
    assert acting.json["tenant"] == "studio"


async def test_tokens_are_managed_and_a_tenant_is_removed_from_the_command(cli: Cli) -> None:
    created = await cli("tenant", "create", "studio", "--json")
    token, operator = created.json["token"], created.json["operator_token"]
    made = await cli(
        "token",
        "create",
        "ci",
        "--scope",
        "run",
        "--scope",
        "upload",
        "--expires",
        "30d",
        "--json",
        "--token",
        token,
    )
    secret = made.json["secret"]
    table = (await cli("token", "list", "--token", token)).out
    assert secret not in table
    assert "run upload" in table
    assert "in 30d" in table
    assert (await cli("status", "--token", secret)).status == 0
    assert (await cli("token", "list", "--token", secret)).status == 5
    assert (
        await cli("token", "create", "x", "--scope", "run", "--expires", "soon", "--token", token)
    ).status == 2
    assert "run upload" in (await cli("token", "list", "--token", operator, "--tenant", "studio")).out
    assert (await cli("token", "revoke", "ci", "--token", token)).out == "revoked ci\n"
    assert (await cli("status", "--token", secret)).status == 5
    removed = await cli("tenant", "remove", "studio", "--yes", "--token", operator)
    assert removed.out.startswith(
        "tenant studio is removed: 0 prompts ended, 0 sandboxes ended, 0 extensions"
    )
    assert (await cli("status", "--token", token)).status == 5


async def test_status_and_policy_show_ask_the_server(cli: Cli) -> None:
    assert "single-user" in (await cli("status")).out
    assert "memory" in (await cli("policy", "show", "blur")).out


def test_policies_are_checked_without_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("memory: 1GiB\n")
    bad.write_text("cpus: 1\nmemori: 1GiB\n")
    assert invoke(["policy", "check", str(good)]) == 0
    assert invoke(["policy", "check", str(good), str(bad)]) == 4
    said = capsys.readouterr()
    assert f"{bad}:2" in said.err
    assert "memory" in said.err  # what to write instead
    assert invoke(["policy", "check", "--json", str(bad)]) == 4
    assert json.loads(capsys.readouterr().out)["files"][0]["problems"][0]["line"] == 2
    assert invoke(["policy", "check", str(tmp_path / "none.yaml")]) == 2
    assert invoke(["policy", "show", "good", "--policies", str(tmp_path), "--json"]) == 0
    capsys.readouterr()
    assert invoke(["policy", "schema"]) == 0
    assert "properties" in json.loads(capsys.readouterr().out)
    assert invoke(["policy", "schema", "odd"]) == 2


def test_a_directory_of_policies_is_checked_as_a_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / "tenants" / "trial"
    theirs.mkdir(parents=True)
    (tmp_path / "default.yaml").write_text(
        "ceilings: {network: [a.com:443]}\ntenants: {trial: {ceilings: {memory: 1GiB}}}\n"
    )
    (tmp_path / "blur.yaml").write_text("memory: 6GiB\nnetwork: {allow: [a.com:443]}\n")
    (tmp_path / "one.yaml").write_text("group: g\npids: 50\n")
    (theirs / "blur.yaml").write_text("memory: 1GiB\n")
    assert invoke(["policy", "check", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path}/blur.yaml: good (reaches a.com:443)" in said
    assert f"{theirs}/blur.yaml: good" in said
    (theirs / "blur.yaml").write_text("memory: 2GiB\n")
    (tmp_path / "glow.yml").write_text("")
    (tmp_path / "two.yaml").write_text("group: g\npids: 60\n")
    assert invoke(["policy", "check", str(tmp_path)]) == 4
    said = capsys.readouterr().err
    assert "tenants/trial/blur.yaml:1: memory 2GiB is over the ceiling of 1GiB" in said
    assert "glow.yml: nobody reads this file" in said
    assert "share the sandbox group 'g' but differ in 'pids': 50" in said
    # One file of it is checked for the tenant in whose directory it lies.
    assert invoke(["policy", "check", str(theirs / "blur.yaml")]) == 4
    capsys.readouterr()
    assert invoke(["policy", "show", "blur", "--policies", str(tmp_path), "--tenant", "trial"]) == 4
    said = capsys.readouterr().err
    assert "tenants/trial/blur.yaml:1:1: memory 2GiB is over" in said
    (theirs / "blur.yaml").write_text("memory: 512MiB\n")
    assert invoke(["policy", "show", "blur", "--policies", str(tmp_path), "--tenant", "trial"]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line}
    assert rows["memory"] == ["512MiB", f"{tmp_path.name}/tenants/trial/blur.yaml:1"]


def test_what_a_new_policy_asks_for_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text("memory: 1GiB\n")
    new.write_text("memory: 2GiB\npids: 100\n")
    assert invoke(["policy", "diff", str(old), str(new), "--json"]) == 0
    changes = json.loads(capsys.readouterr().out)["changes"]
    assert [(change["key"], change["more"]) for change in changes] == [("memory", True), ("pids", False)]
    assert invoke(["policy", "diff", str(old), str(new)]) == 0
    assert "more   memory   1GiB     2GiB" in capsys.readouterr().out
    assert invoke(["policy", "diff", str(old), str(old)]) == 0
    assert "the two allow the same" in capsys.readouterr().out
    new.write_text("memory: 200GiB\n")
    assert invoke(["policy", "diff", str(old), str(new)]) == 4
    assert "over the ceiling" in capsys.readouterr().err


def test_the_doctor_needs_no_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGFENCE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    assert invoke(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert {check["name"]: check["verdict"] for check in report["checks"]}["engine"] == "missing"
    monkeypatch.setenv("RINGFENCE_PORT", "x")
    assert invoke(["doctor"]) == 2
    assert "RINGFENCE_PORT" in capsys.readouterr().err


def test_a_server_that_cannot_listen_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGFENCE_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("api.logging.configure", lambda *_: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert invoke(["serve", "--port", str(taken.getsockname()[1])]) == 1
    assert "RINGFENCE_PORT" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["bogus"], ["run"], ["extension", "bogus"], ["sandbox", "logs", "x", "-n", "0"]]
)
def test_wrong_arguments_are_status_2(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(list(arguments)) == 2
    assert "error:" in capsys.readouterr().err


def test_help_is_quick_and_loads_no_server(tmp_path: Path) -> None:
    code = (
        "import sys; from api.cli.main import invoke; invoke(['--help']);"
        "print(sorted({m.split('.')[0] for m in sys.modules} & "
        "{'fastapi','starlette','docker','sqlalchemy','pydantic','uvicorn','engine','sandbox','httpx2'}))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 5


async def test_what_an_extension_is_made_of_is_verified_billed_and_audited(
    cli: Cli, engine: FakeEngine
) -> None:
    (cli.cwd / "my pack").mkdir()
    (cli.cwd / "my pack" / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}")
    added = await cli("extension", "add", "my pack", "--pin", f"sha256:{'a' * 64}")
    assert "content: sha256:x" in added.out
    assert engine.extensions.asked_for == [("a" * 64, False)]
    assert (await cli("extension", "reload", "my-pack", "--upgrade")).status == 0
    assert engine.extensions.asked_for[-1] == (None, True)
    assert (await cli("extension", "verify")).out == "my-pack: as pinned, sha256:x\n"
    engine.extensions.supply.problems = ("it is not what was pinned",)
    changed = await cli("extension", "verify", "my-pack")
    assert (changed.status, "it is not what was pinned" in changed.out) == (1, True)
    assert (await cli("extension", "sbom", "my-pack")).json["bomFormat"] == "CycloneDX"
    assert (await cli("extension", "sbom", "my-pack", "--out", "bill.json")).status == 0
    assert '"CycloneDX"' in (cli.cwd / "bill.json").read_text()
    without = await cli("extension", "audit")
    assert (without.status, "no database" in without.err) == (1, True)
    engine.extensions.supply.findings = ()
    assert (await cli("extension", "audit")).status == 0
    engine.extensions.supply.findings = (
        Finding("victim", "1.0", "environment", "GHSA-a", ("CVE-1",), "high", 7.5, "a hole", "1.2"),
    )
    audited = await cli("extension", "audit", "my-pack")
    assert audited.status == 1
    for text in ("victim", "GHSA-a", "high", "1.2", "3 packages of 1 extension(s) against 7 entries"):
        assert text in audited.out
    assert "1 high; ringfence extension audit my-pack" in (await cli("extension", "list")).out
