"""Somebody has taken over the host and speaks to the launcher as it likes, byte by byte.

What reaches the launcher's own code is remembered by a stand-in for the engine: nothing of what is asked here may.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from policies import ExtensionName, SandboxId, TenantId
from runtime import wire
from sandbox import BuildSettings, ExtensionFiles, IndexSettings, LauncherClient, Places, StartError
from sandbox.launcher import build_verb as verb
from sandbox.launcher import channel
from sandbox.launcher.mounts import sandbox_mounts
from sandbox.launcher.service import ServiceLimits
from sandbox.launcher.settings import LaunchSettings
from sandbox.launcher.staging import StagedBuilder, checked_lock, checked_requirements
from sandbox.launcher.verbs import SandboxRequest
from tests.contract.kit import TENANT, Policies, places
from tests.contract.recorder import Recorder, until
from tests.contract.zones import LauncherZone

pytestmark = pytest.mark.anyio

HASH = "--hash=sha256:" + "a" * 64
LIMITS = ServiceLimits(sandboxes=3, builds=1, connections=12, request_s=0.3, orphan_s=0.3)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Intruder:
    """A host in somebody else's hands, and what of it got through."""

    def __init__(self, root: Path) -> None:
        self.places = places(root / "data")
        self.policies = Policies(root / "policies")
        self.behind = Recorder()
        self.core = self.places.data / "core"
        self.session = secrets.token_hex(16)
        self.zone: LauncherZone
        for directory in (
            self.core,
            self.places.tenant(TENANT) / "extensions" / "pack" / "hash",
            self.places.data / "tenants" / "other" / "extensions" / "pack" / "hash",
            self.places.environments / "key" / "site",
        ):
            directory.mkdir(parents=True)

    @property
    def code(self) -> str:
        return str(self.places.tenant(TENANT) / "extensions" / "pack" / "hash")

    async def send(self, body: bytes, *, frame: bool = True) -> Any:
        """One connection: what was answered, or None when it was hung up."""
        async with await anyio.connect_unix(self.places.launcher_socket) as stream:
            await stream.send(wire.HEADER.pack(len(body)) + body if frame else body)
            try:
                with anyio.fail_after(60):
                    return json.loads(await channel.receive(stream, limit=channel.MAX_ANSWER))
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return None

    async def ask(self, **message: Any) -> Any:
        """One request of the session."""
        return await self.send(json.dumps({"session": self.zone._session, **message}).encode())

    async def ensure(self, **changes: Any) -> Any:
        """An ``ensure`` that is right but for ``changes``."""
        digest = self.policies.store.effective(ExtensionName("pack")).digest()
        message = {
            "verb": "ensure", "sandbox": "box-1", "tenant": "local", "policy_digest": digest, "group": None,
            "extensions": [{"name": "pack", "source": self.code, "environment": None}],
        }  # fmt: skip
        return await self.ask(**{**message, **changes})

    async def build(self, **changes: Any) -> Any:
        """A ``build`` that is right but for ``changes``."""
        message = {
            "verb": "build", "id": "ab-cd", "job": "ab-cd", "tenant": "local", "extension": "pack",
            "group": None, "network": True, "source_builds": False, "has_constraints": False, "step": "resolve",
        }  # fmt: skip
        return await self.ask(**{**message, **changes})

    @property
    def got_through(self) -> int:
        return len(self.behind.started) + len(self.behind.built)


@pytest.fixture
async def intruder(tmp_path: Path) -> AsyncIterator[Intruder]:
    made = Intruder(tmp_path)
    settings = LaunchSettings(trusted_sources=(made.core,))
    made.zone = LauncherZone(
        made.places, made.policies.store, settings,
        limits=LIMITS, launcher=made.behind, builder=made.behind,
    )  # fmt: skip
    async with made.zone:
        yield made


def refusal(answer: Any) -> str:
    assert set(answer) == {"error"}, answer
    return str(answer["error"]["message"])


# -- what may be said at all ---------------------------------------------------------------------------------------


async def test_the_intruders_own_requests_work_so_the_refusals_below_mean_something(
    intruder: Intruder,
) -> None:
    assert (await intruder.ensure())["result"]["container"] == "c0ffee"
    first = await intruder.build()
    assert first == {"line": "resolve begins"}
    assert len(intruder.behind.started) == len(intruder.behind.built) == 1


@pytest.mark.parametrize(
    "extra",
    [
        {"image": "evil"}, {"mounts": ["/"]}, {"privileged": True}, {"user": "0"}, {"cap_add": ["SYS_ADMIN"]},
        {"runtime": "runc"}, {"network_mode": "host"}, {"memory": 1 << 50}, {"environment": {}}, {"command": ["sh"]},
        {"policy": "memory: 1TiB"}, {"uid": 0},
    ],
    ids=lambda extra: next(iter(extra)),
)  # fmt: skip
async def test_no_request_can_carry_what_a_container_is_made_of(
    intruder: Intruder, extra: dict[str, Any]
) -> None:
    assert "refused a request" in refusal(await intruder.ensure(**extra))
    assert "refused a request" in refusal(await intruder.build(**extra))
    assert intruder.got_through == 0


@pytest.mark.parametrize(
    "word", ["exec", "create", "pull", "adopt_policy", "ENSURE", "", 7, None, ["ensure"]]
)
async def test_a_verb_that_is_not_one_of_the_few_is_refused(intruder: Intruder, word: Any) -> None:
    assert "refused a request" in refusal(await intruder.ask(verb=word))


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 50_000, b'{"verb":"list","verb":"stop"}',
        b'{"verb": "list", "session": NaN}', b'{"verb":"list","session":"' + b"0" * 32 + b'"} trailing',
    ],
    ids=["empty", "half", "list", "null", "no utf-8", "nested", "twice", "nan", "trailing"],
)  # fmt: skip
async def test_what_is_no_request_is_refused_and_the_launcher_goes_on(
    intruder: Intruder, body: bytes
) -> None:
    answer = await intruder.send(body)
    assert answer is None or "refused a request" in refusal(answer)
    assert "result" in await intruder.ask(verb="list")


async def test_a_frame_over_the_limit_is_not_read(intruder: Intruder) -> None:
    assert await intruder.send(wire.HEADER.pack(1 << 30) + b"x", frame=False) is None
    assert "result" in await intruder.ask(verb="list")


async def test_a_connection_that_says_nothing_is_closed(intruder: Intruder) -> None:
    async with await anyio.connect_unix(intruder.places.launcher_socket) as stream:
        await stream.send(b"\0\0")
        with anyio.fail_after(60), pytest.raises(anyio.EndOfStream):
            await stream.receive()


async def test_connections_without_end_are_bounded_and_a_later_request_is_served(intruder: Intruder) -> None:
    held = [await anyio.connect_unix(intruder.places.launcher_socket) for _ in range(3 * LIMITS.connections)]
    try:
        await until(lambda: intruder.zone.service._open >= LIMITS.connections)
        assert intruder.zone.service._open <= LIMITS.connections
    finally:
        for stream in held:
            await stream.aclose()
    await until(lambda: intruder.zone.service._open <= 1)
    assert "result" in await intruder.ask(verb="list")


async def test_a_connection_carries_one_request(intruder: Intruder) -> None:
    intruder.behind.slow = True
    body = json.dumps({"verb": "image", "session": intruder.zone._session}).encode()
    message = json.dumps(
        {
            "session": intruder.zone._session, "verb": "ensure", "sandbox": "box-1", "tenant": "local",
            "policy_digest": "x", "group": None,
            "extensions": [{"name": "pack", "source": intruder.code, "environment": None}],
        }
    ).encode()  # fmt: skip
    async with await anyio.connect_unix(intruder.places.launcher_socket) as stream:
        await stream.send(wire.HEADER.pack(len(message)) + message)
        await until(lambda: intruder.behind.started)
        await stream.send(wire.HEADER.pack(len(body)) + body)
        with anyio.fail_after(60), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await stream.receive()
    await until(lambda: intruder.behind.stopped)
    assert intruder.zone.service._attendance.host is not None
    assert intruder.zone.service._attendance.host.live == set()


# -- who may speak -------------------------------------------------------------------------------------------------


async def test_another_uid_is_refused_by_the_kernels_word_even_where_it_reaches_the_socket(
    intruder: Intruder,
) -> None:
    path = intruder.places.launcher_socket
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o666)
    script = (
        "import json, socket, struct, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "b = json.dumps({'verb': 'list', 'session': sys.argv[2]}).encode()\n"
        "s.sendall(struct.pack('>I', len(b)) + b)\n"
        "print(len(s.recv(100)))\n"
    )
    command = [sys.executable, "-I", "-c", script, str(path), intruder.zone._session]
    done = await anyio.to_thread.run_sync(
        lambda: subprocess.run(command, user=65534, group=65534, extra_groups=[], capture_output=True, timeout=30)
    )  # fmt: skip
    assert done.stdout.strip() in (b"0", b""), done.stderr
    assert b"Permission" not in done.stderr


async def test_the_host_does_not_speak_to_a_launcher_of_another_uid(intruder: Intruder) -> None:
    client = LauncherClient(intruder.places.launcher_socket, launcher_uid=os.geteuid() + 1, patience_s=1)
    with pytest.raises(StartError, match=r"uid \d+ listens at"):
        async with client:
            pass


@pytest.mark.parametrize("session", ["0" * 32, "", "../x", None, "0" * 31])
async def test_a_session_that_did_not_attach_is_not_served(intruder: Intruder, session: Any) -> None:
    answer = await intruder.ensure(session=session)
    assert "does not know this host" in refusal(answer) or "refused a request" in refusal(answer)
    assert intruder.got_through == 0


# -- what may be named ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["sandbox", "tenant", "group"])
@pytest.mark.parametrize("name", ["../etc", "a/b", "..", "", "A B", "x\n", "x" * 200, 3, "a\0b"])
async def test_a_name_of_another_form_is_refused(intruder: Intruder, field: str, name: Any) -> None:
    assert "refused a request" in refusal(await intruder.ensure(**{field: name}))
    assert intruder.got_through == 0


def _sources(at: Intruder) -> dict[str, str]:
    own = at.places.tenant(TENANT)
    return {
        "root": "/",
        "etc": "/etc",
        "another tenant's": str(at.places.data / "tenants/other/extensions/pack/hash"),
        "the tenant's files": str(own / "input"),
        "all extensions": str(own / "extensions"),
        "the extension's record": str(own / "extensions/pack"),
        "another extension's": str(own / "extensions/other/hash"),
        "up and away": f"{at.code}/../../../../../..",
        "up at the end": str(own / "extensions/pack") + "/..",
        "the built-in nodes'": str(at.core),
        "the launcher's": str(at.places.launcher_data),
        "the policies": str(at.policies.directory),
        "relative": "etc",
    }


@pytest.mark.parametrize("which", [
    "root", "etc", "another tenant's", "the tenant's files", "all extensions", "the extension's record",
    "another extension's", "up and away", "up at the end", "the built-in nodes'", "the launcher's", "the policies",
    "relative",
])  # fmt: skip
async def test_code_is_mounted_only_from_where_this_tenant_keeps_it(intruder: Intruder, which: str) -> None:
    code = [{"name": "pack", "source": _sources(intruder)[which], "environment": None}]
    text = refusal(await intruder.ensure(extensions=code))
    assert "does not lie where" in text or "refused a request" in text
    assert intruder.got_through == 0


async def test_the_name_of_the_built_in_nodes_runs_no_other_code(intruder: Intruder) -> None:
    own = intruder.places.tenant(TENANT) / "extensions" / "core" / "hash"
    own.mkdir(parents=True)
    code = [{"name": "core", "source": str(own), "environment": None}]
    assert "does not lie where" in refusal(await intruder.ensure(extensions=code))
    code = [{"name": "core", "source": str(intruder.core), "environment": None}]
    assert "result" in await intruder.ensure(extensions=code)


@pytest.mark.parametrize(
    "where", ["/", "/usr", "{e}", "{e}/key", "{e}/key/site/..", "{e}/.jobs/site", "{e}/../site"]
)
async def test_an_environment_is_one_that_was_built(intruder: Intruder, where: str) -> None:
    place = where.replace("{e}", str(intruder.places.environments))
    code = [{"name": "pack", "source": intruder.code, "environment": place}]
    assert "no environment lies" in refusal(await intruder.ensure(extensions=code))
    assert intruder.got_through == 0


async def test_extensions_share_a_sandbox_only_by_their_policies(intruder: Intruder) -> None:
    own = intruder.places.tenant(TENANT) / "extensions"
    both = [
        {"name": name, "source": str(own / name / "hash"), "environment": None} for name in ("pack", "twin")
    ]
    assert "share no sandbox" in refusal(await intruder.ensure(extensions=both))
    assert "named twice" in refusal(await intruder.ensure(extensions=[both[0], both[0]]))
    intruder.policies.write("twin", "group: friends\n")
    assert "no member of the sandbox group" in refusal(
        await intruder.ensure(extensions=both, group="friends")
    )
    assert "no member of the sandbox group" in refusal(await intruder.ensure(group="friends"))
    assert intruder.got_through == 0


async def test_the_wider_policy_of_a_group_cannot_be_borrowed(intruder: Intruder) -> None:
    intruder.policies.write("rich", "group: rich\nmemory: 8GiB\n")
    assert "no member" in refusal(await intruder.ensure(group="rich"))
    assert intruder.got_through == 0


@pytest.mark.parametrize("box", ["in", "out", "socket"])
def test_a_link_where_a_sandboxs_own_directory_should_be_is_not_mounted(tmp_path: Path, box: str) -> None:
    here = Places("main", tmp_path / "data", tmp_path / "shm", tmp_path / "run")
    boxes = {
        "in": here.inbox(SandboxId("b")),
        "out": here.outbox(SandboxId("b")),
        "socket": here.socket_directory(SandboxId("b")),
    }
    for name, place in boxes.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        if name == box:
            place.symlink_to("/etc")
        else:
            place.mkdir()
    code = here.tenant(TENANT) / "extensions" / "pack" / "hash"
    code.mkdir(parents=True)
    policy = Policies(tmp_path / "policies").store.effective(ExtensionName("pack"))
    files = ExtensionFiles(ExtensionName("pack"), code, None, "")
    request = SandboxRequest(SandboxId("b"), TENANT, (files,), policy.digest())
    with pytest.raises(StartError, match="cannot be mounted"):
        sandbox_mounts(request, policy, here, LaunchSettings())


async def test_who_asks_what_the_launcher_is_takes_nothing_over_and_learns_no_names(
    intruder: Intruder,
) -> None:
    assert "result" in await intruder.ensure()
    about = json.dumps({"verb": "about"}).encode()
    told = (await intruder.send(about))["result"]
    assert set(told) == {"version", "channel", "has_host", "sandboxes", "policies", "build_network"}
    assert (told["has_host"], told["sandboxes"]) == (True, 1)
    ours = await anyio.to_thread.run_sync(intruder.policies.store.fingerprint)
    assert told["policies"] == ours
    for extra in ({"session": intruder.zone._session}, {"tenant": "local"}):
        refusal(await intruder.send(json.dumps({"verb": "about", **extra}).encode()))
    # The host is still the host.
    assert "result" in await intruder.ask(verb="list")
    assert intruder.behind.stopped == []


# -- how many ------------------------------------------------------------------------------------------------------


async def test_there_is_a_ceiling_for_sandboxes_that_no_host_moves(intruder: Intruder) -> None:
    for number in range(LIMITS.sandboxes):
        assert "result" in await intruder.ensure(sandbox=f"box-{number}")
    text = refusal(await intruder.ensure(sandbox="box-9"))
    assert "3 sandboxes run already, the most that the launcher allows" in text
    assert "result" in await intruder.ask(verb="stop", sandbox="box-0", grace_s=0)
    assert "result" in await intruder.ensure(sandbox="box-9")


async def test_a_tenant_gets_no_more_sandboxes_or_memory_than_its_quotas_on_disk(intruder: Intruder) -> None:
    intruder.policies.write("default", "quotas: {sandboxes: 2}\ntenants: {other: {quotas: {memory: 1GiB}}}\n")
    intruder.policies.write("pack", "memory: 600MiB\n")
    assert "result" in await intruder.ensure(sandbox="box-1")
    assert "result" in await intruder.ensure(sandbox="box-2")
    text = refusal(await intruder.ensure(sandbox="box-3"))
    assert "tenant 'local' has 2 sandboxes, as many as its quota 'sandboxes' allows" in text
    assert "default.yaml:1" in text
    # The same one again is none more, in whoever's name; nobody's place is another's; a place is free when it is left.
    assert "result" in await intruder.ensure(sandbox="box-2")
    intruder.policies.write("tenants/other/pack", "memory: 600MiB\n")
    of_other = {
        "tenant": "other",
        "policy_digest": intruder.policies.store.effective(ExtensionName("pack"), TenantId("other")).digest(),
        "extensions": [
            {"name": "pack", "source": intruder.code.replace("local", "other"), "environment": None}
        ],
    }
    assert "result" in await intruder.ask(verb="stop", sandbox="box-1", grace_s=0)
    assert "result" in await intruder.ensure(sandbox="box-4", **of_other)
    text = refusal(await intruder.ensure(sandbox="box-5", **of_other))
    assert "the sandboxes of tenant 'other' have 600 MiB and this one wants 600 MiB" in text
    assert "its quota 'memory' is 1 GiB" in text
    assert "default.yaml:2" in text
    assert "result" in await intruder.ensure(sandbox="box-6")


async def test_two_that_come_together_do_not_both_get_the_last_place(intruder: Intruder) -> None:
    intruder.policies.write("default", "quotas: {sandboxes: 1}\n")
    answers: list[Any] = []

    async def one(number: int) -> None:
        answers.append(await intruder.ensure(sandbox=f"box-{number}"))

    async with anyio.create_task_group() as group:
        for number in range(LIMITS.sandboxes):
            group.start_soon(one, number)
    assert sum("result" in answer for answer in answers) == 1
    assert len(intruder.behind.running) == 1


async def test_a_sandbox_that_is_stopped_while_it_starts_does_not_live_on_uncounted(
    intruder: Intruder,
) -> None:
    intruder.behind.gate = anyio.Event()
    async with anyio.create_task_group() as group:
        for number in range(LIMITS.sandboxes):
            group.start_soon(lambda number=number: intruder.ensure(sandbox=f"box-{number}"))
        await until(lambda: len(intruder.behind.started) == LIMITS.sandboxes)
        for number in range(LIMITS.sandboxes):
            assert "result" in await intruder.ask(verb="stop", sandbox=f"box-{number}", grace_s=0)
        assert "the most that the launcher allows" in refusal(await intruder.ensure(sandbox="box-9"))
        intruder.behind.gate.set()
    await until(lambda: not intruder.behind.running)
    assert "result" in await intruder.ensure(sandbox="box-9")


async def test_what_another_host_had_begun_when_this_one_came_is_nobodys(intruder: Intruder) -> None:
    intruder.behind.gate = anyio.Event()
    answers: list[Any] = []
    attach = {"session": "f" * 32, "verb": "attach", "version": channel.VERSION, "run": None, "since": 0}

    async def first() -> None:
        answers.append(await intruder.ensure())

    async with anyio.create_task_group() as group:
        group.start_soon(first)
        await until(lambda: intruder.behind.started)
        async with await anyio.connect_unix(intruder.places.launcher_socket) as stream:
            body = json.dumps(attach).encode()
            await stream.send(wire.HEADER.pack(len(body)) + body)
            await until(lambda: intruder.zone.service._attendance.host is None)
            intruder.behind.gate.set()
            with anyio.fail_after(30):
                attached = json.loads(await channel.receive(stream, limit=channel.MAX_ANSWER))
            assert "result" in attached
            assert intruder.behind.running == set()
        group.cancel_scope.cancel()
    assert not answers or answers == [None]


async def test_an_id_that_is_being_started_cannot_be_started_again(intruder: Intruder) -> None:
    intruder.behind.slow = True
    answers: list[Any] = []

    async def first() -> None:
        answers.append(await intruder.ensure())

    async with anyio.create_task_group() as group:
        group.start_soon(first)
        await until(lambda: intruder.behind.started)
        assert "being started already" in refusal(await intruder.ensure())
        group.cancel_scope.cancel()
    assert len(intruder.behind.started) == 1


async def test_builds_at_once_have_a_ceiling_of_their_own(intruder: Intruder) -> None:
    intruder.behind.slow = True

    async with await anyio.connect_unix(intruder.places.launcher_socket) as stream:
        body = json.dumps(
            {
                "session": intruder.zone._session, "verb": "build", "id": "ab-cd", "job": "ab-cd",
                "tenant": "local", "extension": "pack", "group": None, "network": True, "source_builds": False,
                "has_constraints": False, "step": "resolve",
            }
        ).encode()  # fmt: skip
        await stream.send(wire.HEADER.pack(len(body)) + body)
        await until(lambda: intruder.behind.built)
        assert "1 builds run already" in refusal(await intruder.build(job="ab-ce"))
    assert len(intruder.behind.built) == 1


# -- builds --------------------------------------------------------------------------------------------------------


async def test_a_build_gets_no_more_than_the_policy_allows(intruder: Intruder) -> None:
    assert "build.source_builds" in refusal(await intruder.build(source_builds=True))
    assert "build.source_builds" in refusal(await intruder.build(step="tools"))
    intruder.policies.write("pack", "build: {network: false}\n")
    assert "build.network" in refusal(await intruder.build())
    assert "neither an extension nor" in refusal(await intruder.build(extension=None))
    assert intruder.got_through == 0


@pytest.mark.parametrize("job", ["../../x", "/etc", "ab", "..", "a-b/c-d", "x" * 300, ".jobs-1"])
async def test_a_builds_directory_is_a_name_and_no_path(intruder: Intruder, job: str) -> None:
    assert "refused a request" in refusal(await intruder.build(job=job))
    assert "refused a request" in refusal(await intruder.build(id=job))
    assert intruder.got_through == 0


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://evil.example/simple", "-i https://evil.example", "--find-links /", "-e .",
        "-r /etc/passwd",
        "--extra-index-url=https://evil.example", "--no-binary :all:", "./local", "/etc/passwd", "../up",
        "git+https://evil.example/x", "https://evil.example/x.whl", "x @ https://evil.example/x.whl", "x @ file:///etc",
        "${HOME}", "numpy\x00", "numpy\r--pre", "numpy; os_name", "numpy --config-settings a=b", "x.whl",
    ],
)  # fmt: skip
def test_a_list_of_requirements_holds_names_and_versions_only(line: str) -> None:
    with pytest.raises(StartError):
        checked_requirements(f"numpy<2\n{line}\n", "in/requirements.in")
    with pytest.raises(StartError):
        checked_lock(f"numpy==2.0 {HASH}\n{line} {HASH}\n", "in/lock.txt")


@pytest.mark.parametrize(
    "entry",
    ["numpy==2.0", f"numpy>=2 {HASH}", f"numpy {HASH}", f"numpy==2.* {HASH}", "numpy==2.0 --hash=md5:aa",
     f"numpy==2.0 {HASH} --no-deps", f"numpy==2.0,!=2.1 {HASH}"],
)  # fmt: skip
def test_an_entry_of_a_lock_has_one_version_and_its_hashes(entry: str) -> None:
    with pytest.raises(StartError):
        checked_lock(entry + "\n", "in/lock.txt")


def test_a_lock_as_uv_writes_it_is_kept() -> None:
    text = f"numpy==2.0 \\\n    {HASH} \\\n    {HASH.replace('a' * 64, 'b' * 64)}  # via -r in\nsix==1.17.0 {HASH}\n"
    assert checked_lock(text, "in/lock.txt") == (
        f"numpy==2.0 {HASH} {HASH.replace('a' * 64, 'b' * 64)}\nsix==1.17.0 {HASH}\n"
    )


Spoil = Callable[[Path], None]


def _replaced(name: str, how: Callable[[Path], Any]) -> Spoil:
    def spoil(job: Path) -> None:
        (job / name).unlink()
        how(job / name)

    return spoil


SPOILED: dict[str, tuple[Spoil, str]] = {
    "a link to a secret": (
        _replaced("in/requirements.in", lambda path: path.symlink_to("/etc/passwd")),
        "cannot be read",
    ),
    "a pipe that nobody fills": (_replaced("in/requirements.in", os.mkfifo), "not a plain file"),
    "a giant": (
        _replaced("in/requirements.in", lambda path: path.write_bytes(b"#" * (5 << 20))),
        "more than 4 MiB",
    ),
    "no text": (_replaced("in/overrides.txt", lambda path: path.write_bytes(b"\xff")), "not UTF-8"),
    "an option among the requirements": (
        _replaced("in/requirements.in", lambda path: path.write_text("numpy\n--no-binary :all:\n")),
        "a build was refused",
    ),
    "a path among the overrides": (
        _replaced("in/overrides.txt", lambda path: path.write_text("torch @ file:///etc\n")),
        "a build was refused",
    ),
    "an option": (
        _replaced("out/lock.txt", lambda path: path.write_text("--index-url https://evil.example\n")),
        "a build was refused",
    ),
}


def _job(here: Places) -> verb.BuildJob:
    directory = here.environments / verb.JOBS / "ab-cd"
    for name in ("in", "out"):
        (directory / name).mkdir(parents=True)
    (directory / "in" / verb.REQUIREMENTS).write_text("numpy<2\n")
    (directory / "in" / verb.OVERRIDES).write_text("torch ; python_version < '0'\n")
    (directory / "out" / verb.LOCK).write_text("numpy==1.26.4\n")
    return verb.BuildJob(
        id="ab-cd", tenant=TENANT, directory=directory, cache=here.data / "elsewhere",
        network=True, source_builds=False, timeout_s=30,
    )  # fmt: skip


def _staged(here: Places, behind: Any) -> StagedBuilder:
    return StagedBuilder(here, behind, BuildSettings(image="x"), IndexSettings(ca_bundle=b"certificates"))


@pytest.mark.parametrize("which", list(SPOILED))
async def test_a_builds_lists_are_plain_files_that_hold_requirements(tmp_path: Path, which: str) -> None:
    here, behind = places(tmp_path), Recorder()
    job = _job(here)
    spoil, text = SPOILED[which]
    spoil(job.directory)
    with anyio.fail_after(60), pytest.raises(StartError, match=text):
        await _staged(here, behind).run(job, "resolve", lambda _: None)
    assert behind.built == []


async def test_what_is_installed_is_a_lock_that_was_checked(tmp_path: Path) -> None:
    here, behind = places(tmp_path), Recorder()
    job = _job(here)
    (job.directory / "in" / verb.LOCK).write_text("numpy==1.26.4\n")
    with pytest.raises(StartError, match="one version and its hashes"):
        await _staged(here, behind).run(job, "install", lambda _: None)
    assert behind.built == []


@pytest.mark.parametrize(
    ("tools", "text"),
    [
        ("setuptools\n", "one version and its hashes"),
        ("setuptools==80.0\n", "one version and its hashes"),
        ("setuptools==80.* --hash=sha256:" + "0" * 64, "one version and its hashes"),
        (f"--index-url https://evil.example\nsetuptools==80.0 {HASH}\n", "a build was refused"),
        (f"setuptools @ file:///x.whl {HASH}\n", "a build was refused"),
        (None, "cannot be read"),
    ],
)
async def test_what_a_source_build_may_install_is_a_lock_that_was_checked(
    tmp_path: Path, tools: str | None, text: str
) -> None:
    here, behind = places(tmp_path), Recorder()
    job = replace(_job(here), source_builds=True)
    (job.directory / "in" / verb.LOCK).write_text(f"numpy==1.26.4 {HASH}\n")
    if tools is not None:
        (job.directory / "in" / verb.TOOLS).write_text(tools)
    with pytest.raises(StartError, match=text):
        await _staged(here, behind).run(job, "install", lambda _: None)
    assert behind.built == []


async def test_code_of_a_build_reaches_the_index_only_unless_the_operator_chose_another_network(
    tmp_path: Path,
) -> None:
    here, behind = places(tmp_path), Recorder()
    job = replace(_job(here), source_builds=True)
    for name, text in (
        (verb.TOOLS, ""),
        (verb.WANTED_TOOLS, "wheel\n"),
        (verb.LOCK, f"numpy==1.26.4 {HASH}\n"),
    ):
        (job.directory / "in" / name).write_text(text)
    (job.directory / "out" / verb.TOOLS).write_text("")
    fallen_back = BuildSettings(
        image="x", network_mode="bridge", open_because="no setting names the package index"
    )
    builder = StagedBuilder(here, behind, fallen_back, IndexSettings())
    steps: tuple[verb.Step, ...] = ("resolve", "install")
    for step in steps:
        with pytest.raises(
            StartError, match="reach all that the engine's network 'bridge' reaches: no setting"
        ) as caught:
            await builder.run(job, step, lambda _: None)
        assert "RINGFENCE_BUILD_NETWORK=bridge" in caught.value.hint
    assert behind.built == []
    # What runs nobody's code, or reaches nothing, needs no such wall.
    await builder.run(job, "tools", lambda _: None)
    await builder.run(replace(job, source_builds=False), "install", lambda _: None)
    await builder.run(replace(job, network=False), "install", lambda _: None)
    chosen = replace(fallen_back, open_because="")
    await StagedBuilder(here, behind, chosen, IndexSettings()).run(job, "install", lambda _: None)
    assert len(behind.built) == 4


async def test_build_tools_come_from_the_wheels_cache_and_source_builds_have_one_of_their_own(
    tmp_path: Path,
) -> None:
    here, behind = places(tmp_path), Recorder()
    job = replace(_job(here), source_builds=True)
    (job.directory / "in" / verb.LOCK).write_text(f"numpy==1.26.4 {HASH}\n")
    (job.directory / "in" / verb.TOOLS).write_text(f"setuptools==80.0 {HASH}\n")
    (job.directory / "in" / verb.WANTED_TOOLS).write_text("setuptools>=40\n")
    (job.directory / "out" / verb.TOOLS).write_text("")
    steps: tuple[verb.Step, ...] = ("tools", "install")
    for step in steps:
        await _staged(here, behind).run(job, step, lambda _: None)
    wheels = here.launcher_data / "caches" / "local" / "wheels"
    # What runs strangers' code must not write where other builds install from; looking for wheels runs none.
    assert [each.cache == wheels for each in behind.built] == [True, False]


async def test_a_builds_directory_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    here, behind = places(tmp_path), Recorder()
    job = _job(here)
    job.directory.rename(tmp_path / "moved")
    job.directory.symlink_to(tmp_path / "moved")
    with pytest.raises(StartError, match="cannot be opened"):
        await _staged(here, behind).run(job, "resolve", lambda _: None)
    assert behind.built == []


async def test_a_build_container_mounts_the_launchers_copy_and_none_of_the_hosts_directories(
    tmp_path: Path,
) -> None:
    here = places(tmp_path)
    seen: dict[str, str] = {}

    def look(job: verb.BuildJob) -> None:
        # The host changes its mind after the launcher looked.
        (asked.directory / "in" / verb.REQUIREMENTS).write_text("-e /\n")
        for file in sorted((job.directory / "in").iterdir()):
            seen[file.name] = file.read_text()
        (job.directory / "out" / verb.LOCK).write_text(f"numpy==1.26.4 {HASH}\n")

    class Look(Recorder):
        async def run(self, job: verb.BuildJob, step: verb.Step, line: verb.Line) -> verb.BuildOutcome:
            await anyio.to_thread.run_sync(look, job)
            return await super().run(job, step, line)

    behind, asked = Look(), _job(here)
    await _staged(here, behind).run(asked, "resolve", lambda _: None)
    (job,) = behind.built
    assert job.directory.is_relative_to(here.launcher_data)
    assert job.cache == here.launcher_data / "caches" / "local" / "wheels"
    assert seen["requirements.in"] == "numpy<2\n"
    assert seen["ca.pem"] == "certificates"
    assert (asked.directory / "out" / verb.LOCK).read_text() == f"numpy==1.26.4 {HASH}\n"
    assert not job.directory.exists()


async def test_where_builds_reach_is_the_launchers_own_setting(tmp_path: Path) -> None:
    here, behind = places(tmp_path), Recorder()
    await _staged(here, behind).run(_job(here), "resolve", lambda _: None)
    own = BuildSettings(image="own", network_mode="bridge")
    options = await anyio.to_thread.run_sync(
        lambda: verb.container_options(behind.built[0], "resolve", own, IndexSettings())
    )
    assert (options["image"], options["network_mode"]) == ("own", "bridge")


# -- policies --------------------------------------------------------------------------------------------------------


def test_a_policy_that_the_host_can_write_stays_below_the_ceilings_and_the_operators_own_file(
    tmp_path: Path,
) -> None:
    from policies import CeilingError, PolicyStore

    store = PolicyStore(tmp_path / "own", adopted=tmp_path / "adopted")
    for directory in ("own", "adopted"):
        (tmp_path / directory).mkdir()
    (tmp_path / "adopted" / "pack.yaml").write_text("memory: 1024GiB\n")
    with pytest.raises(CeilingError):
        store.effective(ExtensionName("pack"))
    (tmp_path / "adopted" / "pack.yaml").write_text("memory: 3GiB\n")
    assert store.effective(ExtensionName("pack")).memory == 3 << 30
    (tmp_path / "own" / "pack.yaml").write_text("memory: 1GiB\n")
    assert store.effective(ExtensionName("pack")).memory == 1 << 30
    # Neither the ceilings themselves, nor what the built-in nodes may use.
    (tmp_path / "adopted" / "default.yaml").write_text("ceilings: {memory: 1024GiB}\n")
    (tmp_path / "adopted" / "core.yaml").write_text("memory: 7GiB\n")
    assert store.effective(ExtensionName("core")).memory != 7 << 30
    (tmp_path / "adopted" / "pack2.yaml").write_text("memory: 1024GiB\n")
    with pytest.raises(CeilingError):
        store.effective(ExtensionName("pack2"))


def test_no_uid_outside_the_range_is_given_whatever_the_book_says(tmp_path: Path) -> None:
    from sandbox.launcher.uids import UidBook

    book = tmp_path / "uids.json"
    book.write_text('{"local/pack": 0, "local/other": 1000}')
    assert UidBook(book, 200_000, 10).assign("local/pack", set()) == 200_000


def test_the_host_loads_nothing_of_the_engine() -> None:
    script = "import sys, api.wiring, api.server; sys.exit('docker' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=120, check=False).returncode == 0
