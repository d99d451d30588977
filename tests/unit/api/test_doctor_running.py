"""The doctor on what runs: the launcher, the policies that both see, what builds and sandboxes reach, the costs."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from api import doctor_running
from api.doctor_check import Check, Ran
from api.launching import build_reach, places_of, policies_of
from api.settings import Settings
from runtime import wire
from tests.unit.api.conftest import make_settings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    run = tempfile.mkdtemp(prefix="rf-")  # a socket's path has to be short
    yield make_settings(tmp_path, run_dir=run)
    shutil.rmtree(run)


def look(settings: Settings) -> dict[str, Check]:
    return {check.name: check for check in doctor_running.examine(settings)}


def about(settings: Settings, **changes: Any) -> dict[str, Any]:
    told = {
        "version": "0.1.0", "channel": 1, "has_host": True, "sandboxes": 2,
        "policies": policies_of(settings).fingerprint(), "build_network": build_reach(settings).network,
    }  # fmt: skip
    return {"result": {**told, **changes}}


@contextmanager
def launcher(settings: Settings, answer: bytes) -> Iterator[list[bytes]]:
    """Somebody at the launcher's socket who answers once."""
    path = places_of(settings).launcher_socket
    path.parent.mkdir(parents=True)
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                heard.append(connection.recv(4096))
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield heard
        thread.join()


def framed(message: Any) -> bytes:
    return wire.encode_frame(message, limit=65536)


def test_a_launcher_is_told_with_its_version_process_and_host(settings: Settings) -> None:
    with launcher(settings, framed(about(settings))) as heard:
        checks = look(settings)
    assert checks["launcher"].verdict == "ok"
    for words in ("version 0.1.0", "channel 1", "a host is attached", "2 sandboxes", "process "):
        assert words in checks["launcher"].found
    assert checks["policies"].verdict == checks["launcher's builds"].verdict == "ok"
    assert json.loads(heard[0][wire.HEADER.size :]) == {"verb": "about"}


def test_other_policies_and_another_network_of_builds_are_said(settings: Settings) -> None:
    with launcher(settings, framed(about(settings, policies="0" * 64, build_network="host"))):
        checks = look(settings)
    assert "goes by other files (000000000000)" in checks["policies"].found
    assert "with network 'host'" in checks["launcher's builds"].found


def test_none_at_all_is_a_warning_and_needs_no_launcher(settings: Settings) -> None:
    checks = look(settings)
    assert checks["launcher"].verdict == "warning"
    assert "make up" in checks["launcher"].advice
    assert "policies" not in checks


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"\xff" * 64, framed({"result": {"version": "x"}}), framed({"hello": 1}),
        framed({"error": {"code": "sandbox_start_failed", "message": "no", "hint": ""}}), framed({})[:-1],
    ],
    ids=["silence", "noise", "half the facts", "no answer", "a refusal", "half a frame"],
)  # fmt: skip
def test_one_that_answers_in_no_known_way_is_named_as_such(settings: Settings, answer: bytes) -> None:
    with launcher(settings, answer):
        check = look(settings)["launcher"]
    assert check.verdict == "missing"
    assert check.found


def test_a_policy_file_that_changes_changes_the_fingerprint(settings: Settings) -> None:
    store = policies_of(settings)
    before = store.fingerprint()
    place = settings.policies_path / "tenants" / "studio"
    place.mkdir(parents=True)
    (place / "blur.yaml").write_text("memory: 1GiB\n")
    changed = store.fingerprint()
    (place / "blur.yaml").write_text("memory: 2GiB\n")
    assert len({before, changed, store.fingerprint()}) == 3
    (place / "notes.txt").write_text("no policy")
    assert policies_of(settings).fingerprint() == store.fingerprint()


def test_what_builds_and_sandboxes_reach_is_said(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = look(settings)
    assert (checks["builds"].verdict, checks["egress"].found) == ("warning", "no policy allows any; directly")
    assert "no setting names the package index" in checks["builds"].found
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://index.example/simple")
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert look(settings)["builds"].verdict == "ok"

    settings.policies_path.mkdir(parents=True, exist_ok=True)
    (settings.policies_path / "default.yaml").write_text("ceilings: {network: any}\n")
    (settings.policies_path / "asks.yaml").write_text('network: {allow: ["api.example.com:443"]}\n')
    assert look(settings)["egress"].found == "1 extensions may: asks; directly"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        proxy = f"http://user:secret@127.0.0.1:{closed.getsockname()[1]}"
        through = settings.model_copy(
            update={"egress_proxy": make_settings(tmp_path, egress_proxy=proxy).egress_proxy}
        )
        silent = look(through)["egress"]
        assert silent.verdict == "warning"
        assert "does not answer" in silent.found
        closed.listen()
        assert f"through 127.0.0.1:{closed.getsockname()[1]}, which answers" in look(through)["egress"].found
    assert "secret" not in silent.found + silent.advice


def test_what_each_runtime_costs_is_measured_and_compared() -> None:
    asked: list[str] = []

    def run(command: Sequence[str]) -> Ran:
        runtime = command[command.index("--runtime") + 1]
        asked.append(runtime)
        assert ("--network", "none") in pairwise(command)
        slow = 1 if runtime == "runc" else 3
        return Ran(0, json.dumps({"count": 0.1 * slow, "ask": 0.02 * slow}), "")

    good = [Check("engine", "ok", ""), Check("gvisor", "ok", "")]
    one, two = doctor_running.costs("image", doctor_running.usable_runtimes(good), run=run)
    assert asked == ["runc"] * 4 + ["runsc"] * 4
    assert "100 ms for 1,000,000 steps of arithmetic, 1.0 us a system call" in one.found
    assert "300 ms" in two.found
    assert ", 3.0, 3.0 times the first)" in two.found


def test_a_runtime_that_is_not_there_is_not_measured_and_one_that_fails_says_why() -> None:
    well = [Check("engine", "ok", ""), Check("gvisor", "warning", "")]
    assert doctor_running.usable_runtimes(well) == [("runc", "runc")]
    assert doctor_running.usable_runtimes([]) == []
    (failed,) = doctor_running.costs("image", [("runc", "runc")], run=lambda _: Ran(125, "", "no such image"))
    assert (failed.verdict, failed.found) == ("warning", "cannot be measured: no such image")
