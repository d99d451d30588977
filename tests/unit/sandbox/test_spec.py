"""The container that a policy becomes: the whole of it in one snapshot, so that a wall that moves shows in review.

To take a new snapshot after an intended change: RINGFENCE_UPDATE_SNAPSHOTS=1 pytest tests/unit/sandbox/test_spec.py
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from policies import ExtensionName, PolicyStore, SandboxId, TenantId, seccomp_profile
from runtime.files import COPIED_AT_ONCE
from sandbox import ExtensionFiles, Places, StartError
from sandbox.launcher.mounts import sandbox_mounts
from sandbox.launcher.settings import LaunchSettings, TestOverride
from sandbox.launcher.spec import Identity, Mount, container_spec
from sandbox.launcher.verbs import SandboxRequest

SNAPSHOTS = Path(__file__).parent / "snapshots"
BLUR = ExtensionName("blur")
TENANT = TenantId("local")
BOX = SandboxId("local-blur-1")


def policy(tmp_path: Path, text: str) -> Any:
    (tmp_path / "blur.yaml").write_text(text)
    return PolicyStore(tmp_path).effective(BLUR)


def config(tmp_path: Path, text: str, mounts: tuple[Mount, ...] = ()) -> dict[str, Any]:
    effective = policy(tmp_path, text)
    identity = Identity("main", BOX, TENANT, (BLUR,), "digest", 200_007)
    return dict(container_spec(identity, effective, mounts, image="ringfence-node:cpu").config)


def check(name: str, found: dict[str, Any]) -> None:
    profiles = {
        f"seccomp={seccomp_profile()}": "seccomp=<profile>",
        f"seccomp={seccomp_profile(gpus=True)}": "seccomp=<profile for GPUs>",
        f"seccomp={seccomp_profile(network=True)}": "seccomp=<profile for a network>",
        f"seccomp={seccomp_profile(gpus=True, gvisor=True)}": "seccomp=<profile for GPUs in gVisor>",
    }
    options = found["HostConfig"]["SecurityOpt"]
    found["HostConfig"]["SecurityOpt"] = [profiles.get(item, item) for item in options]
    text = json.dumps(found, indent=1, sort_keys=True) + "\n"
    path = SNAPSHOTS / f"{name}.json"
    if os.environ.get("RINGFENCE_UPDATE_SNAPSHOTS"):
        path.write_text(text)
    assert text == path.read_text()


def test_spec_of_an_ordinary_extension(tmp_path: Path) -> None:
    mounts = (
        Mount(Path("/data/tenants/local/extensions/blur/source"), "/ringfence/code/blur"),
        Mount(Path("/dev/shm/ringfence/main/sandboxes/local-blur-1/out"), "/ringfence/out", writable=True),
    )
    check("ordinary", config(tmp_path, "memory: 512MiB\ncpus: 1.5\nenvironment: {MODE: fast}\n", mounts))


def test_spec_with_gpus_under_gvisor_over_stdio(tmp_path: Path) -> None:
    gpu = "GPU-00000000-0000-0000-0000-000000000001"
    check(
        "gpu_gvisor_stdio",
        config(tmp_path, f"isolation: gvisor\npids: 512\ntransport: stdio\ngpus: ['{gpu}']\n"),
    )


def test_what_a_worker_copies_at_once_goes_past_the_caches(tmp_path: Path) -> None:
    said = dict(entry.split("=", 1) for entry in config(tmp_path, "")["Env"])["GLIBC_TUNABLES"]
    assert int(said.removeprefix("glibc.cpu.x86_non_temporal_threshold=")) <= COPIED_AT_ONCE


def test_the_seccomp_profile_is_sent_as_text_and_denies_by_default(tmp_path: Path) -> None:
    options = config(tmp_path, "")["HostConfig"]["SecurityOpt"]
    profile = json.loads(options[1].removeprefix("seccomp="))
    assert options[0] == "no-new-privileges:true"
    assert profile["defaultAction"] in ("SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS")


def test_only_a_policy_with_gpus_gets_the_profile_for_gpus(tmp_path: Path) -> None:
    gpu = "GPU-00000000-0000-0000-0000-000000000001"
    with_gpus = config(tmp_path, f"gpus: ['{gpu}']\n")["HostConfig"]["SecurityOpt"]
    assert f"seccomp={seccomp_profile(gpus=True)}" in with_gpus
    assert f"seccomp={seccomp_profile()}" in config(tmp_path, "")["HostConfig"]["SecurityOpt"]


def test_no_container_without_gpus_can_be_given_some_by_its_image(tmp_path: Path) -> None:
    assert "NVIDIA_VISIBLE_DEVICES=void" in config(tmp_path, "")["Env"]


# -- mounts --------------------------------------------------------------------------------------------------


class Yard:
    """A data directory with one extension."""

    def __init__(self, tmp_path: Path) -> None:
        self.places = Places("main", tmp_path / "data", tmp_path / "shm", tmp_path / "run")
        for made in (self.places.inbox(BOX), self.places.outbox(BOX), self.places.socket_directory(BOX)):
            made.mkdir(parents=True)
        self.source = self.places.tenant(TENANT) / "extensions" / "blur" / "source"
        self.source.mkdir(parents=True)
        self.policies = tmp_path / "policies"
        self.policies.mkdir()

    def mounts(
        self,
        text: str = "",
        *,
        source: Path | None = None,
        environment: Path | None = None,
        override: TestOverride | None = None,
        settings: LaunchSettings | None = None,
    ) -> dict[str, tuple[str, bool]]:
        files = ExtensionFiles(BLUR, source or self.source, environment, "hash")
        effective = policy(self.policies, text)
        request = SandboxRequest(BOX, TENANT, (files,), effective.digest())
        made = sandbox_mounts(request, effective, self.places, settings or LaunchSettings(), override)
        return {mount.target: (str(mount.source), mount.writable) for mount in made}


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


def test_only_what_the_policy_names_is_mounted(yard: Yard) -> None:
    text = "paths:\n  - {tenant: input}\n  - {tenant: output, access: rw}\n  - {tenant: user/notes, access: rw}\n"
    root = yard.places.tenant(TENANT)
    assert yard.mounts(text) == {
        "/ringfence/code/blur": (str(yard.source), False),
        "/ringfence/in": (str(yard.places.inbox(BOX)), False),
        "/ringfence/out": (str(yard.places.outbox(BOX)), True),
        "/ringfence/socket": (str(yard.places.socket_directory(BOX)), False),
        "/app/input": (f"{root}/input", False),
        "/app/output": (f"{root}/output/blur", True),
        "/app/user/notes": (f"{root}/user/notes/blur", True),
    }
    assert (root / "output").stat().st_mode & 0o7777 == 0o1777


def test_the_members_of_a_group_share_one_folder_that_no_extension_can_have(yard: Yard) -> None:
    effective = policy(yard.policies, "group: studio\npaths:\n  - {tenant: output, access: rw}\n")
    files = ExtensionFiles(BLUR, yard.source, None, "hash")
    request = SandboxRequest(BOX, TENANT, (files,), effective.digest(), group="studio")
    mounts = sandbox_mounts(request, effective, yard.places, LaunchSettings())
    found = {mount.target: mount.source for mount in mounts}
    assert found["/app/output"] == yard.places.tenant(TENANT) / "output" / "_studio"


def test_a_sandbox_that_talks_over_stdio_mounts_no_socket(yard: Yard) -> None:
    assert "/ringfence/socket" not in yard.mounts("transport: stdio\n")


def test_the_environment_is_mounted_read_only(yard: Yard) -> None:
    environment = yard.places.environments / "key"
    environment.mkdir(parents=True)
    assert yard.mounts(environment=environment)["/ringfence/env"] == (str(environment), False)


@pytest.mark.parametrize("place", ["/etc", "/", "/var/run"])
def test_code_from_outside_the_tenants_extensions_is_refused(yard: Yard, place: str) -> None:
    with pytest.raises(StartError):
        yard.mounts(source=Path(place))


def test_another_tenants_extension_is_refused(yard: Yard) -> None:
    other = yard.places.tenant(TenantId("other")) / "extensions" / "blur" / "source"
    other.mkdir(parents=True)
    with pytest.raises(StartError, match="outside"):
        yard.mounts(source=other)


def test_a_name_that_only_begins_like_the_root_is_refused(yard: Yard) -> None:
    near = yard.places.tenant(TENANT) / "extensions-evil"
    near.mkdir()
    with pytest.raises(StartError, match="outside"):
        yard.mounts(source=near)


def test_an_extension_that_is_a_link_is_refused(yard: Yard, tmp_path: Path) -> None:
    link = yard.source.with_name("link")
    link.symlink_to("/etc")
    with pytest.raises(StartError, match="leads to /etc"):
        yard.mounts(source=link)


@pytest.mark.parametrize("area", ["output", "output/blur"])
def test_a_link_where_a_tenant_directory_should_be_is_refused(yard: Yard, area: str) -> None:
    place = yard.places.tenant(TENANT) / area
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to("/etc")
    with pytest.raises(StartError, match="is a link"):
        yard.mounts("paths:\n  - {tenant: output, access: rw}\n")


@pytest.mark.parametrize("is_held", [True, False], ids=["held by another start", "refused for good"])
def test_a_directory_that_another_start_shares_and_holds_just_now_is_mounted(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, is_held: bool
) -> None:
    """Without CAP_FOWNER only its owner sets a directory's mode, and that is nobody while it is held."""
    settings, share = LaunchSettings(), os.fchmod

    def another_was_first(directory: int, mode: int) -> None:
        monkeypatch.undo()
        share(directory, mode)
        if is_held:
            os.fchown(directory, settings.holding_uid, -1)
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchmod", another_was_first)
    text = "paths:\n  - {tenant: output, access: rw}\n"
    if is_held:
        assert "/app/output" in yard.mounts(text, settings=settings)
    else:
        with pytest.raises(PermissionError):
            yard.mounts(text, settings=settings)


def test_a_directory_that_a_sandbox_made_is_not_mounted_for_another(yard: Yard) -> None:
    yard.mounts("paths:\n  - {tenant: output, access: rw}\n")
    planted = yard.places.tenant(TENANT) / "output" / "blur"
    os.chown(planted, 200_001, 200_001)
    with pytest.raises(StartError, match="made by a sandbox"):
        yard.mounts("paths:\n  - {tenant: output, access: rw}\n")


def test_paths_are_named_as_the_engine_calls_them(yard: Yard) -> None:
    settings = LaunchSettings(engine_paths=((yard.places.data, Path("/srv/ringfence")),))
    found = yard.mounts(settings=settings)
    assert found["/ringfence/code/blur"][0] == "/srv/ringfence/tenants/local/extensions/blur/source"


def test_only_an_explicit_override_replaces_the_runtime(yard: Yard) -> None:
    assert not any("ringfence_runtime" in target for target in yard.mounts())
    found = yard.mounts(override=TestOverride(Path("/somewhere")))
    assert found["/opt/ringfence/ringfence_runtime"] == ("/somewhere", False)


def test_a_sandbox_with_a_network_differs_from_an_ordinary_one_in_these_places_only(tmp_path: Path) -> None:
    (tmp_path / "default.yaml").write_text(
        "ceilings: {network: any, secrets: {API_KEY: 'api.example.com:443'}}\n"
    )
    plain = config(tmp_path, "")
    network = config(tmp_path, 'network: {allow: ["api.example.com:443"]}\n')
    secret = config(
        tmp_path,
        'network: {allow: ["api.example.com:443"]}\n'
        'secrets: [{name: API_KEY, host: "api.example.com:443", header: Authorization}]\n',
    )
    assert network["Cmd"] == [*plain["Cmd"], "--egress", "/ringfence/egress/proxy.sock"]
    security = network["HostConfig"]["SecurityOpt"]
    assert f"seccomp={seccomp_profile(network=True)}" in security
    added = set(network["Env"]) - set(plain["Env"])
    assert "HTTPS_PROXY=http://127.0.0.1:3128" in added
    assert {item.split("=")[0].lower() for item in added} == {
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "no_proxy",
    }
    assert set(plain["Env"]) - set(network["Env"]) == {"HF_HUB_OFFLINE=1"}
    more = set(secret["Env"]) - set(network["Env"])
    assert "API_KEY=ringfence-secret-API_KEY" in more
    assert "SSL_CERT_FILE=/ringfence/egress/ca.pem" in more
    for other in (network, secret):
        for found in (plain, other):
            found.pop("Cmd"), found.pop("Env"), found["HostConfig"].pop("SecurityOpt", None)
        assert other == plain
        plain |= {"Cmd": [], "Env": []}


def test_the_proxys_directory_is_mounted_read_only_and_only_with_a_network(tmp_path: Path) -> None:
    (tmp_path / "default.yaml").write_text("ceilings: {network: any}\n")
    places = Places("main", tmp_path / "data", tmp_path / "shm", tmp_path / "run")
    source = places.tenant(TENANT) / "extensions" / "blur" / "source"
    own = (places.inbox(BOX), places.outbox(BOX), places.socket_directory(BOX), places.egress_directory(BOX))
    for directory in (source, *own):
        directory.mkdir(parents=True)
    request = SandboxRequest(BOX, TENANT, (ExtensionFiles(BLUR, source, None, content_hash="x"),), "digest")
    for text, wanted in (("", []), ('network: {allow: ["api.example.com:443"]}\n', [False])):
        mounts = sandbox_mounts(request, policy(tmp_path, text), places, LaunchSettings())
        assert [item.writable for item in mounts if item.target == "/ringfence/egress"] == wanted
