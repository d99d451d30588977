"""What the doctor finds of the container engine: the engine itself, what it can limit, its runtimes, its images.

Through the docker *command*, because the checks must also explain a machine on which the engine does not answer.
Nothing here starts a container; that limits really hold is proved by the launcher's self-test when the server starts.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from api import runtime_versions
from api.doctor_check import Check, Run, size_text
from policies import safe_text
from sandbox import SELF_TEST_FILE, read_kept, refused_flag

ENGINE_WANTED = (20, 10)
COMPOSE_WANTED = (2, 0)
BUILDX_WANTED = (0, 10)


def examine(run: Run, *, data_dir: Path, node_image: str) -> list[Check]:
    """Look at the engine, and at what is on it when it answers. Blocks for a few seconds at most."""
    info = _engine_info(run)
    checks = [_client(), _engine(info)]
    if isinstance(info, dict):
        checks += [_cgroups(info), _seccomp(info), _runtimes(info), _versions(run), *_proofs(data_dir)]
        checks += [_compose(run), _buildx(run), _node_image(run, node_image)]
    return checks


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
    shown = size_text(int(size)) if size.isdigit() else "?"
    return Check("node image", "ok", f"{image} ({identity.removeprefix('sha256:')[:12]}, {shown})")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
