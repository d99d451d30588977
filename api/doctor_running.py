"""What the doctor finds of what runs, and of where the settings lead: launcher, builds, egress, costs of runtimes.

Asks the launcher without taking it over, so a running host notices nothing. Starts containers for ``costs`` only.
"""

from __future__ import annotations

import json
import socket
import statistics
import time
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from api.doctor_check import Check, Run, run_command
from api.launching import build_reach, places_of, policies_of
from api.settings import Settings
from policies import LOCAL_TENANT, PolicyError, PolicyStore, safe_text
from sandbox import INDEX_ONLY, LauncherFacts, StartError, ask_launcher

_PROXY_S: Final = 3.0
_SHOWN: Final = 8
_RUNS: Final = 3
#: What a node does all the time, in small: arithmetic, and asking the kernel.
_WORK: Final = """
import json, os, time
def took(what):
    best = 1e9
    for _ in range(5):
        began = time.perf_counter()
        what()
        best = min(best, time.perf_counter() - began)
    return best
def count():
    total = 0
    for n in range(1_000_000):
        total += n
def ask():
    for _ in range(20_000):
        os.stat("/")
print(json.dumps({"count": took(count), "ask": took(ask)}))
"""


def examine(settings: Settings) -> list[Check]:
    """Look at what runs. Blocks for a few seconds at most."""
    return [*_launcher(settings), _builds(settings), _egress(settings)]


def _launcher(settings: Settings) -> list[Check]:
    path = places_of(settings).launcher_socket
    if not path.exists():
        return [
            Check(
                "launcher", "warning", f"none listens at {path}", "start one: 'make up', or 'ringfence serve'"
            )
        ]
    try:
        facts = ask_launcher(path)
    except StartError as error:
        return [Check("launcher", "missing", error.message, error.hint or "see the launcher's log")]
    said = facts.about
    found = (
        f"version {safe_text(said.version, 60)}, channel {said.channel}, process {facts.pid} of uid {facts.uid}; "
        f"{'a host is attached' if said.has_host else 'no host is attached'}, {said.sandboxes} sandboxes"
    )
    checks = [Check("launcher", "ok", found)]
    return [*checks, _same_policies(settings, facts), _same_builds(settings, facts)]


def _same_policies(settings: Settings, facts: LauncherFacts) -> Check:
    try:
        ours = policies_of(settings).fingerprint()
    except PolicyError as error:
        return Check("policies", "missing", str(error), error.hint)
    if ours == facts.about.policies:
        return Check("policies", "ok", f"launcher and host see the same files ({ours[:12]})")
    return Check(
        "policies",
        "warning",
        f"the launcher goes by other files ({facts.about.policies[:12]}) than are seen here ({ours[:12]})",
        "is RINGFENCE_POLICIES_DIR the same for both, and the image as new as this program? A start under a policy "
        "that differs is refused",
    )


def _same_builds(settings: Settings, facts: LauncherFacts) -> Check:
    ours, theirs = build_reach(settings).network, safe_text(facts.about.build_network, 40)
    if ours == facts.about.build_network:
        return Check("launcher's builds", "ok", f"network '{theirs}', as here")
    return Check(
        "launcher's builds",
        "warning",
        f"the launcher builds with network '{theirs}', here it would be '{ours}'",
        "give both the same RINGFENCE_BUILD_NETWORK and index settings",
    )


def _builds(settings: Settings) -> Check:
    reach = build_reach(settings)
    if reach.network == INDEX_ONLY:
        return Check("builds", "ok", "they reach the package index and nothing else")
    found = f"they reach all that the engine's network '{reach.network}' reaches"
    if reach.because:
        return Check(
            "builds",
            "warning",
            f"{found}: {reach.because}; builds from source are refused",
            "name the index in UV_DEFAULT_INDEX",
        )
    return Check(
        "builds",
        "warning",
        f"{found} (RINGFENCE_BUILD_NETWORK)",
        "leave it out, and name the index in UV_DEFAULT_INDEX",
    )


def _egress(settings: Settings) -> Check:
    try:
        allowed = _with_a_network(policies_of(settings))
    except PolicyError as error:
        return Check("egress", "warning", f"the policies cannot be read: {error}", error.hint)
    whose = (
        f"{len(allowed)} extensions may: {', '.join(allowed[:_SHOWN])}" if allowed else "no policy allows any"
    )
    if settings.egress_proxy is None:
        return Check("egress", "ok", f"{whose}; directly")
    try:
        return Check("egress", "ok", f"{whose}; through {_reached(settings.egress_proxy)}, which answers")
    except OSError as error:
        return Check(
            "egress",
            "warning",
            f"{whose}; the proxy of RINGFENCE_EGRESS_PROXY does not answer from here: {error.strerror or error}",
            "start it, or correct the setting: no sandbox reaches what its policy allows",
        )


def _with_a_network(policies: PolicyStore) -> list[str]:
    return sorted(
        str(name) if tenant == LOCAL_TENANT else f"{tenant}/{name}"
        for tenant in {LOCAL_TENANT, *policies.tenants()}
        for name in policies.extensions(tenant)
        if policies.effective(name, tenant).network
    )


def usable_runtimes(checks: Sequence[Check]) -> list[tuple[str, str]]:
    """What the engine can run, by what ``examine`` of this machine found: what a policy calls it, what the engine."""
    well = {check.name for check in checks if check.verdict == "ok"}
    pairs = ((("runc", "runc"), "engine"), (("gvisor", "runsc"), "gvisor"))
    return [pair for pair, name in pairs if name in well]


def costs(image: str, runtimes: Sequence[tuple[str, str]], *, run: Run | None = None) -> list[Check]:
    """What each runtime costs here, measured: a start to the first line of Python, arithmetic, and system calls.

    ``runtimes``: as ``usable_runtimes`` gives them. Takes some seconds.
    """
    figures = {isolation: _measured(image, run or run_command, runtime) for isolation, runtime in runtimes}
    first = next((found for found in figures.values() if not isinstance(found, str)), None)
    return [_cost(isolation, found, first) for isolation, found in figures.items()]


def _cost(isolation: str, found: dict[str, float] | str, first: dict[str, float] | None) -> Check:
    name = f"cost of {isolation}"
    if isinstance(found, str):
        return Check(name, "warning", f"cannot be measured: {found}", "run 'make images', or 'make engine'")
    text = (
        f"{found['start']:.2f} s from nothing to Python and back, {found['count'] * 1000:.0f} ms for 1,000,000 steps "
        f"of arithmetic, {found['ask'] / 20_000 * 1e6:.1f} us a system call"
    )
    if first is not None and first is not found:
        times = ", ".join(f"{found[key] / first[key]:.1f}" for key in ("start", "count", "ask"))
        text += f" ({times} times the first)"
    return Check(name, "ok", text)


def _measured(image: str, run: Run, runtime: str) -> dict[str, float] | str:
    command = (
        "docker", "run", "--rm", "--runtime", runtime, "--network", "none", "--read-only", "--cap-drop", "ALL",
        "--security-opt", "no-new-privileges", "--user", "65534:65534", "--entrypoint", "/opt/venv/bin/python",
        image, "-I", "-c",
    )  # fmt: skip
    starts = []
    for _ in range(_RUNS):
        began = time.perf_counter()
        ran = run([*command, "pass"])
        starts.append(time.perf_counter() - began)
        if ran.code != 0:
            return safe_text(ran.err or ran.out or f"exit {ran.code}", 200)
    ran = run([*command, _WORK])
    try:
        worked = json.loads(ran.out)
        return {
            "start": statistics.median(starts),
            "count": float(worked["count"]),
            "ask": float(worked["ask"]),
        }
    except (ValueError, KeyError, TypeError):
        return safe_text(ran.err or "an answer that is none", 200)


def _reached(proxy: SecretStr) -> str:
    parts = urlsplit(proxy.get_secret_value())
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=_PROXY_S):
        return f"{parts.hostname}:{parts.port}"
