"""What this machine lacks for running Ringfence, and what to do about each.

Works without a server: ``ringfence doctor`` calls ``examine`` itself, and so does the server's own route. What runs,
and what runtimes cost, is ``doctor_running.py``'s to look at. Uses the docker *command*, because the checks must also
explain a machine on which the engine does not answer. Nothing here starts a container; that limits really hold is
proved by the launcher's self-test when the server starts.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from api import runtime_versions
from policies import safe_text, seccomp_profile
from sandbox import (
    SELF_TEST_FILE,
    AdvisoryDatabase,
    AdvisoryDatabaseError,
    read_kept,
    refused_flag,
)

Verdict = Literal["ok", "warning", "missing"]

ENGINE_WANTED = (20, 10)
COMPOSE_WANTED = (2, 0)
BUILDX_WANTED = (0, 10)
PYTHON_WANTED = (3, 11)
SHM_WANTED = 1024**3
DISK_WANTED = 5 * 1024**3
OPEN_FILES_NEEDED = 1024
OPEN_FILES_WANTED = 16384
OPEN_FILES_ADVICE = (
    "raise the hard limit: ulimit -Hn 65536, LimitNOFILE= of a systemd unit, --ulimit of a container"
)
_TIMEOUT_S = 20


class Wanted(Protocol):
    """The settings that the checks look at."""

    @property
    def data_dir(self) -> Path: ...
    @property
    def shm_dir(self) -> Path: ...
    @property
    def node_image(self) -> str: ...
    @property
    def osv_dir(self) -> Path | None: ...


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: what was found, and, unless that is good, what to do."""

    name: str
    verdict: Verdict
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Ran:
    code: int
    out: str
    err: str


Run = Callable[[Sequence[str]], Ran]


def examine(settings: Wanted, *, run: Run | None = None) -> list[Check]:
    """Look at everything. Blocks for a few seconds at most."""
    run = run or run_command
    info = _engine_info(run)
    checks = [_python(), _client(), _engine(info)]
    if isinstance(info, dict):
        checks += [
            _cgroups(info),
            _seccomp(info),
            _runtimes(info),
            _versions(run),
            *_proofs(settings.data_dir),
        ]
        checks += [_compose(run), _buildx(run), _node_image(run, settings.node_image)]
    checks += [_own_profile(), _open_files(), _shm(settings.shm_dir), _data_dir(settings.data_dir)]
    return [*checks, _advisories(settings.osv_dir)]


def report(checks: Sequence[Check]) -> dict[str, Any]:
    """The checks as one JSON document."""
    return {
        "ok": all(check.verdict != "missing" for check in checks),
        "checks": [asdict(check) for check in checks],
    }


def _advisories(path: Path | None) -> Check:
    if path is None or path.is_char_device():
        return Check("vulnerabilities", "ok", "no database is set (RINGFENCE_OSV_DIR); nothing is looked up")
    try:
        facts = AdvisoryDatabase(path).facts()
    except AdvisoryDatabaseError as error:
        return Check("vulnerabilities", "warning", error.message, error.hint)
    found = f"{facts.entries} entries, the newest of {facts.newest or 'an unknown date'}"
    if facts.refused:
        return Check(
            "vulnerabilities",
            "warning",
            f"{found}; {facts.refused} cannot be read",
            "fetch the database again",
        )
    return Check("vulnerabilities", "ok", found)


def _python() -> Check:
    found = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info[:2] < PYTHON_WANTED:
        return Check("python", "missing", found, "install Python 3.11 or newer")
    return Check("python", "ok", found)


def _client() -> Check:
    path = shutil.which("docker")
    if path is None:
        return Check(
            "docker client",
            "missing",
            "no command 'docker'",
            "run 'make engine' (Debian: apt-get install docker.io), or use the image of the host, which needs none",
        )
    return Check("docker client", "ok", path)


def _engine_info(run: Run) -> dict[str, Any] | str:
    ran = run(["docker", "info", "--format", "{{json .}}"])
    if ran.code != 0:
        return ran.err or ran.out or "no answer"
    try:
        info = json.loads(ran.out)
    except ValueError:
        return "an answer that is not JSON"
    errors = info.get("ServerErrors") if isinstance(info, dict) else ["no object"]
    return "; ".join(map(str, errors)) if errors else info


def _engine(info: dict[str, Any] | str) -> Check:
    where = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if isinstance(info, str):
        lower = info.lower()
        if "permission denied" in lower:
            advice = "run as root, or add this user to the group 'docker' and log in again"
        elif "no such file" in lower and "docker" not in lower:
            advice = "run 'make engine', which installs and starts one"
        else:
            advice = "start it: 'make engine' (or: systemctl start docker); is DOCKER_HOST right?"
        return Check("engine", "missing", f"none answers at {where}: {safe_text(info, 160)}", advice)
    version = str(info.get("ServerVersion", ""))
    found = f"{version} at {where}, storage {info.get('Driver', '?')}"
    if _numbers(version) < ENGINE_WANTED:
        return Check("engine", "missing", found, f"version {_dotted(ENGINE_WANTED)} or newer is needed")
    return Check("engine", "ok", found)


def _cgroups(info: dict[str, Any]) -> Check:
    found = f"version {info.get('CgroupVersion', '?')}, driver {info.get('CgroupDriver', '?')}"
    absent = [
        name
        for name, key in (
            ("memory", "MemoryLimit"),
            ("swap", "SwapLimit"),
            ("cpu quota", "CpuCfsQuota"),
            ("pids", "PidsLimit"),
        )
        if info.get(key) is False
    ]
    if absent:
        return Check(
            "cgroups",
            "missing",
            f"{found}; no limit on: {', '.join(absent)}",
            "mount the controllers (docs/install.md, 'cgroups'); swap needs the kernel option swapaccount=1",
        )
    return Check("cgroups", "ok", f"{found}; memory, swap, cpu and pids can be limited")


def _seccomp(info: dict[str, Any]) -> Check:
    options = " ".join(str(option) for option in info.get("SecurityOptions") or ())
    if "seccomp" not in options:
        return Check(
            "seccomp",
            "missing",
            "the engine has none",
            "use a kernel and engine with seccomp (CONFIG_SECCOMP)",
        )
    return Check("seccomp", "ok", "the engine filters system calls")


def _runtimes(info: dict[str, Any]) -> Check:
    names = sorted(str(name) for name in info.get("Runtimes") or ())
    if any("runsc" in name for name in names):
        flags = [str(flag) for flag in (info["Runtimes"].get("runsc") or {}).get("runtimeArgs") or ()]
        forbidden = refused_flag(flags)
        if forbidden:
            return Check(
                "gvisor", "missing", f"runsc is started with {forbidden}", "remove the flag from daemon.json"
            )
        return Check("gvisor", "ok", "runtime 'runsc' is there: policies may say 'isolation: gvisor'")
    return Check(
        "gvisor",
        "warning",
        "no runtime 'runsc': policies that say 'isolation: gvisor' are refused",
        "optional: 'make engine' installs it where the distribution has it (docs/install.md, 'gVisor')",
    )


def _versions(run: Run) -> Check:
    """The runtimes' versions against known escapes; never "missing": our own walls stand in front of each."""
    versions = _component_versions(run)
    shown = ", ".join(f"{name} {version}" for name, version in versions.items()) or "they cannot be read"
    found = runtime_versions.open_to(versions)
    if not versions:
        return Check("runtime versions", "warning", shown, "is the docker client newer than the engine?")
    if not found:
        return Check(
            "runtime versions", "ok", f"{shown}: none of the escapes known on {runtime_versions.CHECKED}"
        )
    words = "; ".join(f"{escape.cve} ({escape.component}: {escape.what})" for escape in found)
    return Check(
        "runtime versions",
        "warning",
        f"{shown}: not known to be mended: {words}",
        "take the distribution's updates; 'isolation: gvisor' puts another kernel between a pack and runc's",
    )


def _component_versions(run: Run) -> dict[str, str]:
    ran = run(["docker", "version", "--format", "{{json .Server.Components}}"])
    versions: dict[str, str] = {}
    try:
        components = json.loads(ran.out) if ran.code == 0 else []
        for part in components:
            name = str(part["Name"]).lower()
            if name in {"runc", "containerd", "engine"}:
                short, whole = str(part["Version"]), str((part.get("Details") or {}).get("GitCommit", ""))
                # Debian's full version, the revision that was mended included, stands where upstream has a commit.
                versions[name] = safe_text(whole if whole.startswith(short) else short, 60)
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}
    runsc = run(["runsc", "--version"])
    words = runsc.out.split()
    if runsc.code == 0 and words[:2] == ["runsc", "version"] and len(words) > 2:
        versions["gvisor"] = safe_text(words[2], 60)
    return versions


def _proofs(data_dir: Path) -> list[Check]:
    """What the launcher's self-test proved here, from inside a sandbox; each runtime with its walls."""
    checks = []
    for entry in read_kept(data_dir / "launcher" / SELF_TEST_FILE).values():
        day = datetime.fromtimestamp(entry["at"], UTC).strftime("%Y-%m-%d %H:%M")
        walls = ", ".join(
            f"{proof['name']} ({safe_text(str(proof['seen']), 60)})" for proof in entry["proofs"]
        )
        checks.append(Check(f"self-test {entry['isolation']}", "ok", f"proved {day} UTC: {walls}"))
    return checks


def _compose(run: Run) -> Check:
    return _plugin(run, "compose", COMPOSE_WANTED, ["docker", "compose", "version", "--short"])


def _buildx(run: Run) -> Check:
    return _plugin(run, "buildx", BUILDX_WANTED, ["docker", "buildx", "version"])


def _plugin(run: Run, name: str, wanted: tuple[int, ...], command: list[str]) -> Check:
    ran = run(command)
    advice = f"run 'make engine', or install the docker plugin '{name}' {_dotted(wanted)} or newer"
    if ran.code != 0:
        return Check(name, "warning", "not installed (only 'make up' needs it)", advice)
    version = next((word for word in ran.out.split() if re.match(r"v?\d+\.\d", word)), ran.out.strip())
    if _numbers(version) < wanted:
        return Check(name, "warning", version, advice)
    return Check(name, "ok", version)


def _node_image(run: Run, image: str) -> Check:
    ran = run(["docker", "image", "inspect", image, "--format", "{{.Id}} {{.Size}}"])
    if ran.code != 0:
        return Check(
            "node image", "missing", f"no image '{image}'", "run 'make images', or set RINGFENCE_NODE_IMAGE"
        )
    identity, _, size = ran.out.strip().partition(" ")
    shown = _size(int(size)) if size.isdigit() else "?"
    return Check("node image", "ok", f"{image} ({identity.removeprefix('sha256:')[:12]}, {shown})")


def _own_profile() -> Check:
    try:
        calls = len({name for entry in json.loads(seccomp_profile())["syscalls"] for name in entry["names"]})
    except (OSError, ValueError, KeyError) as error:
        return Check(
            "seccomp profile", "missing", f"cannot be read: {type(error).__name__}", "install Ringfence again"
        )
    return Check("seccomp profile", "ok", f"{calls} system calls allowed by name, all others refused")


def _open_files() -> Check:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # the server raises its own limit to this one
    if hard == resource.RLIM_INFINITY:
        return Check("open files", "ok", "no limit")
    found = f"at most {hard} per process"
    if hard < OPEN_FILES_NEEDED:
        return Check("open files", "missing", found, OPEN_FILES_ADVICE)
    if hard < OPEN_FILES_WANTED:
        return Check("open files", "warning", found, OPEN_FILES_ADVICE)
    return Check("open files", "ok", found)


def _shm(directory: Path) -> Check:
    place = _existing(directory)
    kind = _file_system(place)
    if kind != "tmpfs":
        return Check(
            "shared memory",
            "missing",
            f"{directory} is on {kind or 'an unknown file system'}, not on a tmpfs",
            "set RINGFENCE_SHM_DIR to a directory below /dev/shm; in a container, mount the machine's /dev/shm",
        )
    space = os.statvfs(place)
    total, free = space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize
    found = f"{_size(free)} of {_size(total)} free in {directory}"
    if total < SHM_WANTED:
        return Check(
            "shared memory",
            "warning",
            found,
            "tensors live there; make it larger: mount -o remount,size=8G /dev/shm (a container: --shm-size)",
        )
    return Check("shared memory", "ok", found)


def _data_dir(directory: Path) -> Check:
    place = _existing(directory)
    if not os.access(place, os.W_OK | os.X_OK):
        return Check(
            "data directory",
            "missing",
            f"{directory} cannot be written by uid {os.geteuid()}",
            "run as its owner, or set RINGFENCE_DATA_DIR to a directory of your own",
        )
    free = shutil.disk_usage(place).free
    found = f"{directory}, {_size(free)} free"
    if free < DISK_WANTED:
        advice = "environments with their own torch take 2 GiB each; make room, or set RINGFENCE_DATA_DIR"
        return Check("data directory", "warning", found, advice)
    return Check("data directory", "ok", found)


def _existing(path: Path) -> Path:
    """The path itself, or the nearest directory above it that exists."""
    for candidate in (path, *path.parents):
        if candidate.is_dir():
            return candidate
    return Path("/")


def _file_system(path: Path) -> str:
    best, kind = -1, ""
    resolved = path.resolve()
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for line in mounts.splitlines():
        fields = line.split()
        mount = Path(fields[1].replace("\\040", " "))
        if resolved.is_relative_to(mount) and len(mount.parts) >= best:
            best, kind = len(mount.parts), fields[2]
    return kind


def _size(nbytes: int) -> str:
    return f"{nbytes / 1024**3:.1f} GiB"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def run_command(command: Sequence[str]) -> Ran:
    """Run it, whatever comes of it."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        return Ran(127, "", f"no command '{command[0]}'")
    except subprocess.TimeoutExpired:
        return Ran(124, "", f"no answer within {_TIMEOUT_S} s")
    return Ran(done.returncode, done.stdout, done.stderr.strip())
