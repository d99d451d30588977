"""Runs attacks in a container that is like a sandbox, or like one without a wall, and hears what they gained."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import requests

from sandbox.launcher.spec import Mount
from tests.security.flags import INSTANCE, LIMITS, UID, sandbox_config
from tests.security.weakenings import WEAKENINGS

HERE = Path(__file__).parent
#: CAP_SYS_CHROOT, permitted and effective, as a file's attribute.
CHROOT_ATTRIBUTE = struct.pack("<5I", 0x02000001, 1 << 18, 0, 0, 0)
DEADLINE_S = 120


class Range:
    """What the attacks may find: files, a socket, a process and shared memory that stand for the machine's."""

    def __init__(self, root: Path, api: Any) -> None:
        sys.path.insert(0, str(HERE / "assault"))
        try:
            import around
        finally:
            sys.path.pop(0)
        self.root, self.api = root, api
        root.chmod(0o755)
        code = root / "code"
        shutil.copytree(HERE / "assault", code, ignore=shutil.ignore_patterns("__pycache__"))
        for name, data in (("setuid", around.WHO), ("capable", around.ROOTED)):
            (code / name).write_bytes(data)
            (code / name).chmod(0o755)
        (code / "setuid").chmod(0o4755)
        os.setxattr(code / "capable", "security.capability", CHROOT_ATTRIBUTE)
        for name in ("in", "out", "socket", "machine"):
            (root / name).mkdir()
        (root / "in" / "input").write_text("an input")
        (root / "in" / "private").write_text("root's")
        (root / "in" / "private").chmod(0o600)
        (root / "out" / "output").write_text("an output")
        os.chown(root / "out" / "output", UID, UID)
        (root / "machine" / "sentinel").write_text("the machine's")
        (root / "machine").chmod(0o755)
        self._stack = contextlib.ExitStack()
        self._server = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        self._server.bind(str(root / "docker.sock"))
        (root / "docker.sock").chmod(0o666)
        self._server.listen()
        self._abstract = f"ringfence-range-{os.getpid()}"
        second = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        second.bind("\0" + self._abstract)
        second.listen()
        self._shared = Path(f"/dev/shm/ringfence-range-{os.getpid()}")
        self._shared.write_text("of others")
        self._victim = subprocess.Popen(["sleep", "600"])

    def close(self) -> None:
        """Everything of it."""
        self._victim.kill()
        self._victim.wait()
        self._shared.unlink()
        self._stack.close()

    def _mounts(self) -> tuple[Mount, ...]:
        targets = {"code": "code/evil", "in": "in", "out": "out", "socket": "socket"}
        return tuple(
            Mount(self.root / name, f"/ringfence/{target}", writable=name == "out")
            for name, target in targets.items()
        )

    def attack(
        self, isolation: str, names: Sequence[str], weakening: str = "", runtime: str = ""
    ) -> dict[str, str]:
        """What each attack gained, by its name; nothing where a wall held."""
        spec = sandbox_config(isolation, self._mounts())
        limits = LIMITS[isolation]
        told = {
            "attacks": list(names),
            "pid": self._victim.pid,
            "sentinel": str(self.root / "machine" / "sentinel"),
            "shm": self._shared.name,
            "abstract": self._abstract,
            "shm_size": spec["HostConfig"]["ShmSize"],
            "fsize": next(item["Hard"] for item in spec["HostConfig"]["Ulimits"] if item["Name"] == "fsize"),
            "isolation": isolation,
            **limits,
        }
        spec["Cmd"] = ["-I", "/ringfence/code/evil/run.py", json.dumps(told)]
        if runtime:
            spec["HostConfig"]["Runtime"] = runtime
        if weakening:
            WEAKENINGS[weakening](spec)
        heard = {}
        for line in self._run(spec):
            with contextlib.suppress(ValueError):
                found = json.loads(line)
                heard[found["attack"]] = found
        missing = set(names) - heard.keys()
        assert not missing, f"nothing was heard of {sorted(missing)}"
        self.held = {name: found["held"] for name, found in heard.items()}
        return {name: found["won"] for name, found in heard.items()}

    def _run(self, spec: dict[str, Any]) -> list[str]:
        name = f"ringfence-{INSTANCE}-{os.urandom(4).hex()}"
        container = self.api.create_container_from_config(spec, name=name)["Id"]
        report = self.root / "out" / "report"
        report.write_text("")
        report.chmod(0o666)
        try:
            self.api.start(container)
            with contextlib.suppress(requests.exceptions.RequestException):
                self.api.wait(container, timeout=DEADLINE_S)
        finally:
            self.api.remove_container(container, force=True, v=True)
        return report.read_text("utf-8").splitlines()


@contextlib.contextmanager
def shooting_range(root: Path, api: Any) -> Iterator[Range]:
    """One, and nothing of it afterwards."""
    made = Range(root, api)
    try:
        yield made
    finally:
        made.close()
