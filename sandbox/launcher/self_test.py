"""Proof, before anybody's code runs in a runtime, that its walls stand on this machine.

A container made like every sandbox tries each wall from inside (``self_test_probe.py``) and is at last killed by its
own memory cap. A runtime that fails is refused for sandboxes; the engine's word, or its lack of a warning, is not
enough: there are flags (gVisor's ``--ignore-cgroups``) and kernels under which every cap is set and none holds.

What was proved holds for this runtime's binary and flags, engine, kernel boot and image, and for the test as it is; it
is kept in the data directory, so it costs once. A failure is kept for the life of the process only. Everything here
blocks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from policies import EffectivePolicy, ExtensionName, PolicyStore, SandboxId, TenantId
from sandbox.errors import RuntimeRefusedError, StartError
from sandbox.launcher import self_test_verdict
from sandbox.launcher.container_engine import remove_container
from sandbox.launcher.self_test_record import keep, read_kept
from sandbox.launcher.self_test_verdict import (
    MEMORY,
    MEMORY_TO_FORK,
    NOFILE,
    PIDS,
    TMP,
    UID,
    Proof,
    judge,
    refused_flag,
)
from sandbox.launcher.spec import LABEL, RUNTIMES, Identity, container_spec

log = logging.getLogger(__name__)

PURPOSE: Final = "self-test"
_PROBE: Final = Path(__file__).with_name("self_test_probe.py").read_text("utf-8")
_TEST: Final = (
    *(Path(each).read_text("utf-8") for each in (__file__, self_test_verdict.__file__)),
    _PROBE,
)
"""What an earlier version of any of these proved proves nothing: it may have been content with less. Read once, as this
process runs them: what lies there later is another version's."""
_DEADLINE_S: Final = 60.0
_LOOK_S: Final = 0.05
_WORD_S: Final = 10.0
"""For so long the engine's word that memory ran out may come after its word that the probe was killed."""
_TRIES: Final = 3
_KILLED: Final = 128 + signal.SIGKILL


class SelfTest:
    """Asks the engine behind ``api`` (the SDK's low-level client) for probes; remembers what they proved."""

    def __init__(self, api: Any, image: str, instance: str, kept: Path) -> None:
        self._api = api
        self._image = image
        self._instance = instance
        self._kept = kept
        self._closing = threading.Event()

    def close(self) -> None:
        """Let a probe that runs come to its end soon."""
        self._closing.set()

    def sweep(self) -> None:
        """Remove probes that a killed launcher left."""
        labels = [f"{LABEL}.instance={self._instance}", f"{LABEL}.purpose={PURPOSE}"]
        for container in self._api.containers(all=True, filters={"label": labels}):
            remove_container(self._api, container["Id"])

    def require(self, isolation: str) -> None:
        """Return when this runtime is proved here.

        Raises:
            RuntimeRefusedError: a wall does not stand; says which.
            StartError: the runtime is not there.
        """
        info = self._api.info()
        flags = _flags(info, isolation)
        forbidden = refused_flag(flags)
        if forbidden:
            raise RuntimeRefusedError(
                f"isolation '{isolation}' is refused: the engine starts {RUNTIMES[isolation]} with {forbidden}",
                "remove the flag from daemon.json and let the engine read it again (systemctl reload docker)",
            )
        key = self._key(info, isolation, flags)
        with _lock(key):
            proofs = _memory.get(key) or self._read(key)
            if proofs is None:
                began = time.monotonic()
                proofs = prove(self._api, isolation, self._image, self._instance, info, self._closing)
                log.info("self-test of isolation '%s' took %.1f s", isolation, time.monotonic() - began)
                if all(proof.holds for proof in proofs):
                    keep(self._kept, key, isolation, proofs)
            _memory[key] = proofs
        failed = [proof for proof in proofs if not proof.holds]
        if failed:
            words = "; ".join(f"{proof.name}: {proof.seen}" for proof in failed)
            raise RuntimeRefusedError(
                f"isolation '{isolation}' is refused, its self-test failed here: {words}",
                "mend it and start Ringfence again; what this machine lacks, 'ringfence doctor' says",
            )

    def _key(self, info: Mapping[str, Any], isolation: str, flags: Sequence[str]) -> str:
        image = self._api.inspect_image(self._image)["Id"]
        known = [
            isolation,
            list(flags),
            _binary(info, isolation),
            [
                info.get(name)
                for name in ("ID", "ServerVersion", "KernelVersion", "CgroupVersion", "CgroupDriver")
            ],
            [(info.get(name) or {}).get("ID") for name in ("RuncCommit", "ContainerdCommit")],
            image,
            _boot(),
            container_spec(_identity("", "key"), _policy(isolation), (), image=image).config,
            _TEST,
        ]
        return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()

    def _read(self, key: str) -> tuple[Proof, ...] | None:
        entry = read_kept(self._kept).get(key)
        return tuple(Proof(**item) for item in entry["proofs"]) if entry else None


_memory: dict[str, tuple[Proof, ...]] = {}
_locks: dict[str, threading.Lock] = {}


def _lock(key: str) -> threading.Lock:
    return _locks.setdefault(key, threading.Lock())


def prove(
    api: Any,
    isolation: str,
    image: str,
    instance: str,
    info: Mapping[str, Any],
    closing: threading.Event,
    weaken: Mapping[str, Any] | None = None,
) -> tuple[Proof, ...]:
    """Run the probe and judge it. ``weaken`` is laid over the container's settings, by tests of this module.

    Raises:
        RuntimeRefusedError: the probe did not come to an end in time; that is not remembered.
    """
    # gVisor ends at its pids cap, so that takes a container of its own; the last part is the one that fills memory.
    parts = ("all",) if isolation == "runc" else ("pids", "walls")
    for _ in range(_TRIES):
        heard, ends = _probe(api, isolation, image, instance, parts, closing, weaken)
        # Killed, and nobody says by whom: on a machine under load the engine's OOM watcher loses the kernel's word when
        # the container's cgroup is gone before it looks. Or a gVisor whose own threads met the cap before its first
        # word, or one that took so much memory for its processes that it met that cap. Silence is no proof; another
        # probe may give one.
        is_unexplained = any("SIGKILL" in end for end in ends.values())
        is_unheard = "pids" in parts and not any("pids" in str(fact.get("fact")) for fact in heard)
        is_starved = "oom" in ends.get("pids", frozenset())
        if not (is_unexplained or is_unheard or is_starved):
            break
    return judge(isolation, heard, ends, kernel=str(info.get("KernelVersion", "")))


def _probe(
    api: Any,
    isolation: str,
    image: str,
    instance: str,
    parts: Sequence[str],
    closing: threading.Event,
    weaken: Mapping[str, Any] | None,
) -> tuple[list[dict[str, Any]], dict[str, frozenset[str]]]:
    """What the containers of one probe said, and how each of them ended."""
    probes: dict[str, str] = {}
    since = time.time() - 1
    try:
        for part in parts:
            probes[part] = _start(api, isolation, image, instance, part, weaken)
        ends = {part: _end(api, container, since, closing) for part, container in probes.items()}
        return [fact for container in probes.values() for fact in _facts(api, container)], ends
    finally:
        for container in probes.values():
            with contextlib.suppress(Exception):
                remove_container(api, container)


def _start(
    api: Any, isolation: str, image: str, instance: str, part: str, weaken: Mapping[str, Any] | None
) -> str:
    policy = _policy(isolation)
    if part == "pids":
        policy = policy.model_copy(update={"memory": MEMORY_TO_FORK})
    spec = container_spec(_identity(instance, part), policy, (), image=image)
    wanted = {
        "part": part,
        "memory": MEMORY[isolation],
        "pids": PIDS[isolation],
        "nofile": NOFILE,
        "tmp": TMP,
    }
    config: dict[str, Any] = dict(spec.config)
    config["Cmd"] = ["-I", "-c", _PROBE, json.dumps(wanted)]
    config["Labels"] = {**config["Labels"], f"{LABEL}.purpose": PURPOSE}
    # The probe's few lines are read when it is dead. Nothing else differs from a sandbox.
    logs = {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}}
    weaker = dict(weaken or {})
    config["HostConfig"] = {**config["HostConfig"], "LogConfig": logs, **weaker.pop("HostConfig", {})}
    config.update(weaker)
    container = str(api.create_container_from_config(config, name=f"{spec.name}-{os.urandom(4).hex()}")["Id"])
    try:
        api.start(container)
    except BaseException:
        remove_container(api, container)
        raise
    return container


def _end(api: Any, container: str, since: float, closing: threading.Event) -> frozenset[str]:
    """``die``, ``oom`` or both, as soon as there is either; ``SIGKILL`` too where it was killed and no ``oom`` came.

    Not the engine's ``wait``: a gVisor whose helper was killed at the memory cap never ends by itself.
    """
    deadline = time.monotonic() + _DEADLINE_S
    patience: float | None = None
    filters = {"container": [container], "event": ["die", "oom"]}
    while time.monotonic() < deadline and not closing.is_set():
        stream = api.events(since=f"{since:.3f}", until=f"{time.time():.3f}", filters=filters, decode=True)
        found = frozenset(str(event.get("status")) for event in stream)
        if "oom" in found:
            return found
        if "die" in found:
            # The engine's two words come by different ways, either first: the state has both, once both are there.
            state = api.inspect_container(container)["State"]
            if state.get("OOMKilled"):
                return found | {"oom"}
            if state.get("ExitCode") != _KILLED:
                return found
            patience = time.monotonic() + _WORD_S if patience is None else patience
            if time.monotonic() >= patience:
                return found | {"SIGKILL"}
        closing.wait(_LOOK_S)
    raise RuntimeRefusedError(
        f"the self-test did not end within {_DEADLINE_S:.0f} s"
        if not closing.is_set()
        else "Ringfence is shutting down",
        "this machine may be overloaded: try again",
    )


def _facts(api: Any, container: str) -> list[dict[str, Any]]:
    facts = []
    for line in api.logs(container).decode("utf-8", "replace").splitlines():
        with contextlib.suppress(ValueError):
            fact = json.loads(line)
            if isinstance(fact, dict):
                facts.append(fact)
    return facts


def _identity(instance: str, part: str) -> Identity:
    name = ExtensionName("self-test")
    return Identity(instance, SandboxId(f"self-test-{part}"), TenantId("local"), (name,), "self-test", UID)


@cache
def _policy(isolation: str) -> EffectivePolicy:
    shipped = PolicyStore(Path("/nonexistent")).effective(ExtensionName("self-test"))
    limits = {"memory": MEMORY[isolation], "pids": PIDS[isolation], "nofile": NOFILE, "tmp": TMP}
    return shipped.model_copy(update={"isolation": isolation, **limits})


def _flags(info: Mapping[str, Any], isolation: str) -> tuple[str, ...]:
    known = (info.get("Runtimes") or {}).get(RUNTIMES[isolation])
    if known is None:
        raise StartError(
            f"the policy's isolation needs a runtime that this container engine lacks: {RUNTIMES[isolation]}",
            "run 'make engine', which installs it where the distribution has it, or write 'isolation: runc'",
        )
    return tuple(map(str, known.get("runtimeArgs") or ()))


def _binary(info: Mapping[str, Any], isolation: str) -> str:
    """The hash of the runtime's program, where we see it; else the engine's own words in the key must do."""
    path = (info.get("Runtimes") or {}).get(RUNTIMES[isolation], {}).get("path") or ""
    found = shutil.which(path)
    if found is None:
        return str(path)
    status = Path(found).stat()
    return _hash(found, status.st_size, status.st_mtime_ns)


@cache
def _hash(path: str, _size: int, _mtime: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return str(time.time() - time.monotonic())
