"""The flags of a build container, and how it reaches the index."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from policies import LOCAL_TENANT, seccomp_profile
from sandbox.egress import index_rules, serve_builds
from sandbox.errors import StartError
from sandbox.launcher import build_verb
from sandbox.launcher.build_verb import (
    INDEX_ONLY,
    BuildJob,
    BuildSettings,
    IndexSettings,
    command,
    container_options,
)
from sandbox.places import Places

JOB = BuildJob(
    id="abc",
    tenant=LOCAL_TENANT,
    directory=Path("/data/environments/.jobs/abc"),
    cache=Path("/data/environments/.caches/local/wheels"),
    network=True,
    source_builds=False,
    timeout_s=60,
)
SETTINGS = BuildSettings(image="ringfence-node:cpu", instance="test")


def test_a_build_container_is_locked_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    options = container_options(JOB, "install", SETTINGS, IndexSettings())
    for key in ("command", "environment", "image", "name", "entrypoint", "working_dir", "hostname"):
        del options[key]
    assert options == {
        "labels": {"ringfence.instance": "test", "ringfence.purpose": "build", "ringfence.tenant": "local"},
        "user": "199999:199999",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true", f"seccomp={seccomp_profile(outside=True)}"],
        "network_mode": "bridge",
        "ipc_mode": "private",
        "init": True,
        "mem_limit": 4 * 1024**3,
        "memswap_limit": 4 * 1024**3,
        "nano_cpus": 2_000_000_000,
        "pids_limit": 512,
        "tmpfs": {"/tmp": f"rw,nosuid,nodev,size={512 * 1024**2},mode=1777"},
        "volumes": {
            "/data/environments/.jobs/abc/in": {"bind": "/build/in", "mode": "ro"},
            "/data/environments/.jobs/abc/out": {"bind": "/build/out", "mode": "rw"},
            "/data/environments/.caches/local/wheels": {"bind": "/build/cache", "mode": "rw"},
        },
    }


def test_nobody_builds_as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    for uid in (0, 1000):
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        monkeypatch.setattr(os, "getegid", lambda: 1000)
        assert SETTINGS.user[0] != 0


def test_a_policy_without_build_network_has_none() -> None:
    options = container_options(replace(JOB, network=False), "install", SETTINGS, IndexSettings())
    assert options["network_mode"] == "none"


def test_paths_are_called_as_the_engine_calls_them() -> None:
    settings = replace(SETTINGS, engine_paths=((Path("/data"), Path("/srv/volume")),))
    volumes = container_options(JOB, "resolve", settings, IndexSettings())["volumes"]
    assert sorted(volumes)[1] == "/srv/volume/environments/.jobs/abc/in"


def test_what_is_built_from_source_installs_locked_tools_only() -> None:
    words = command(replace(JOB, source_builds=True), "install")
    assert words[words.index("--build-constraints") + 1] == "/build/in/tools.txt"
    assert {"--require-build-hashes", "--no-sources"} <= set(words)
    assert "--build-constraints" not in command(JOB, "install")


def test_versions_are_chosen_before_there_is_a_lock_of_tools_and_no_source_names_another_place() -> None:
    words = command(replace(JOB, source_builds=True), "resolve")
    assert "--require-build-hashes" not in words
    assert "--no-sources" in words


@pytest.mark.parametrize("source_builds", [True, False])
def test_build_tools_are_looked_for_without_running_anybodys_code(source_builds: bool) -> None:
    words = command(replace(JOB, source_builds=source_builds), "tools")
    assert words[words.index("--only-binary") + 1] == ":all:"
    assert "--generate-hashes" in words


@pytest.mark.parametrize("step", ["resolve", "install"])
def test_source_builds_have_to_be_allowed(step: build_verb.Step) -> None:
    assert "--only-binary" in command(JOB, step)
    assert "--only-binary" not in command(replace(JOB, source_builds=True), step)


def test_installing_takes_locked_hashes_only() -> None:
    assert {"--no-deps", "--require-hashes", "--compile-bytecode"} <= set(command(JOB, "install"))


def test_the_hosts_index_settings_are_passed_on(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(b"certificates")
    index = IndexSettings.from_environment(
        {
            "PIP_INDEX_URL": "https://user:secret@index.example/simple",
            "PIP_EXTRA_INDEX_URL": "https://more.example/simple",
            "https_proxy": "http://proxy.example:3128",
            "SSL_CERT_FILE": str(bundle),
            "AWS_SECRET_ACCESS_KEY": "no",
        }
    )
    assert index.ca_bundle == b"certificates"
    assert index.environment == {
        "UV_DEFAULT_INDEX": "https://user:secret@index.example/simple",
        "UV_INDEX": "https://more.example/simple",
        "https_proxy": "http://proxy.example:3128",
    }
    assert "secret" not in repr(index)
    variables = container_options(JOB, "resolve", SETTINGS, index)["environment"]
    assert variables["SSL_CERT_FILE"] == "/build/in/ca.pem"


def test_uvs_own_setting_goes_before_pips() -> None:
    index = IndexSettings.from_environment({"PIP_INDEX_URL": "https://a", "UV_INDEX_URL": "https://b"})
    assert index.environment == {"UV_INDEX_URL": "https://b"}


def test_a_build_that_reaches_the_index_only_has_no_network_and_the_proxys_socket() -> None:
    walled = replace(SETTINGS, network_mode=INDEX_ONLY, proxy=Path("/run/ringfence/test/egress/builds"))
    index = IndexSettings({"HTTPS_PROXY": "http://user:secret@proxy.example:3128", "no_proxy": "example.com"})
    options = container_options(JOB, "install", walled, index)
    assert options["network_mode"] == "none"
    assert options["volumes"]["/run/ringfence/test/egress/builds"] == {
        "bind": "/ringfence/egress",
        "mode": "ro",
    }
    assert options["command"][-len(command(JOB, "install")) :] == command(JOB, "install")
    assert "secret" not in str(options["environment"])
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "all_proxy"):
        assert options["environment"][name] == "http://127.0.0.1:3128"
    assert options["environment"]["no_proxy"] == ""


def test_a_policy_without_build_network_has_no_proxy_either() -> None:
    walled = replace(SETTINGS, network_mode=INDEX_ONLY, proxy=Path("/run/ringfence/test/egress/builds"))
    options = container_options(replace(JOB, network=False), "install", walled, IndexSettings())
    assert (options["network_mode"], len(options["volumes"])) == ("none", 3)
    assert options["command"] == command(JOB, "install")


@pytest.mark.parametrize(
    ("environment", "allowed", "private"),
    [
        ({}, set(), set()),
        ({"UV_DEFAULT_INDEX": "http://u:p@10.0.0.7:3141/root/pypi"}, {"10.0.0.7:3141"}, {"10.0.0.7:3141"}),
        (
            {"UV_INDEX": "studio=https://Index.example/simple https://b.example:8443/"},
            {"index.example:443", "b.example:8443"},
            {"index.example:443", "b.example:8443"},
        ),
        ({"UV_DEFAULT_INDEX": "file:///srv/wheels"}, set(), set()),
        ({"UV_DEFAULT_INDEX": "http://[bad"}, set(), set()),
    ],
)
def test_builds_reach_the_indexes_that_the_operator_names_and_no_other_host(
    environment: dict[str, str], allowed: set[str], private: set[str]
) -> None:
    rules = index_rules(environment)
    assert {str(each) for each in rules.allowed} == allowed
    assert {str(each) for each in rules.private} == private


@pytest.mark.anyio
async def test_builds_that_may_reach_the_index_only_need_one_that_is_named(tmp_path: Path) -> None:
    places = Places("test", tmp_path / "data", tmp_path / "shm", tmp_path / "run")
    with pytest.raises(StartError, match="no setting names it") as caught:
        async with serve_builds(places, SETTINGS, IndexSettings()):
            pass
    assert "UV_DEFAULT_INDEX" in caught.value.hint
