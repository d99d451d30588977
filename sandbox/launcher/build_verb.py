"""The build verb: what may be asked of a build container, and every flag it runs with.

A build container resolves and installs the packages of one extension. Unlike a sandbox it may reach the package
index, so nothing of the extension itself is in it: it sees a list of names, versions and the caches of one tenant.
With ``source_builds`` it runs strangers' setup code; the walls are then what keeps that code harmless.

The caller sends data only (a job directory with lists of requirements); the commands are made here. ``image`` tells
what the node image holds. The engine itself is talked to in ``build.py``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from policies import ExtensionName, TenantId, seccomp_profile
from runtime import wire

Step = Literal["resolve", "tools", "install"]
Line = Callable[[str], None]

TMP: Final = "/tmp"  # noqa: S108  (a tmpfs of the build container)
UV: Final = "/opt/uv/bin/uv"
PYTHON: Final = "/opt/venv/bin/python"
FACTS: Final = "/opt/venv/ringfence-image.json"
IN: Final = "/build/in"
OUT: Final = "/build/out"
CACHE: Final = "/build/cache"

REQUIREMENTS: Final = "requirements.in"
CONSTRAINTS: Final = "constraints.txt"
OVERRIDES: Final = "overrides.txt"
LOCK: Final = "lock.txt"
WANTED_TOOLS: Final = "tools.in"
TOOLS: Final = "tools.txt"
"""What builds from source may install to run with, locked."""
CA_BUNDLE: Final = "ca.pem"
SITE: Final = "site"
BUILDS: Final = "builds"
"""The name of all builds at the egress proxy."""
INDEX_ONLY: Final = "index"
"""A network mode: none, and the way to the package index through the host's proxy."""
JOBS: Final = ".jobs"
"""Where below the environments a caller prepares its jobs."""


@dataclass(frozen=True, slots=True)
class NodeImage:
    """What the image of every sandbox holds."""

    id: str
    variant: str
    python: str
    machine: str
    packages: Mapping[str, str]
    """Canonical name to version."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Packages this image had to go without, each with the reason its build gave."""
    licences: Mapping[str, str] = field(default_factory=dict)
    """Of its packages, as those name them; an image from before this has none."""


@dataclass(frozen=True, slots=True)
class BuildJob:
    """One build: a directory that the caller prepared, and the extension's share of the policy.

    ``directory`` holds ``in/`` (mounted read-only) and ``out/`` (the step's results).
    """

    id: str
    tenant: TenantId
    directory: Path
    cache: Path
    """Of packages, kept between builds; the launcher has its own, whatever stands here."""
    network: bool
    source_builds: bool
    timeout_s: float
    has_constraints: bool = False
    extension: ExtensionName | None = None
    """Whose policy allows this; None when it is a group's."""
    group: str | None = None


@dataclass(frozen=True, slots=True)
class BuildOutcome:
    """How a step ended."""

    exit_code: int
    lines: tuple[str, ...]
    """The end of what it printed, made safe."""
    seconds: float
    limit: str = ""
    """``time``, ``memory`` or ``disk`` when a cap ended it."""


class EnvironmentBuilder(Protocol):
    """Runs build steps in containers; the launcher implements it."""

    async def image(self) -> NodeImage:
        """The node image as the engine has it now. Raises: StartError when there is none or no engine."""

    async def run(self, job: BuildJob, step: Step, line: Line) -> BuildOutcome:
        """Run one step, handing on what it prints. Raises: StartError when the container cannot be started."""

    async def sweep(self) -> int:
        """Remove build containers that an earlier host left behind; returns how many."""


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """How a build reaches the package index; may hold credentials, so it is never logged."""

    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca_bundle: bytes | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> IndexSettings:
        """The host's own settings, in the standard variables of pip and uv."""
        found = {name: environment[name] for name in _PASSED if environment.get(name)}
        for theirs, ours in (("PIP_INDEX_URL", "UV_DEFAULT_INDEX"), ("PIP_EXTRA_INDEX_URL", "UV_INDEX")):
            if environment.get(theirs) and not {ours, *_ELDERS[ours]} & found.keys():
                found[ours] = environment[theirs]
        bundle = environment.get("SSL_CERT_FILE")
        return cls(found, Path(bundle).read_bytes() if bundle and Path(bundle).is_file() else None)


_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_ELDERS: Mapping[str, tuple[str, ...]] = {
    "UV_DEFAULT_INDEX": ("UV_INDEX_URL",),
    "UV_INDEX": ("UV_EXTRA_INDEX_URL",),
}
_PASSED = (
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "UV_INDEX_STRATEGY",
    *_PROXIES,
    *(name.upper() for name in _PROXIES),
)


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """The caps of build containers; the operator's, no policy reaches them but for time and network."""

    image: str
    instance: str = "default"
    network_mode: str = "bridge"
    """Network of builds that may reach the index; ``host`` where the engine's bridge reaches nothing, ``index`` for
    none but the host's proxy to it."""
    open_because: str = ""
    """Why builds reach more than the index though nobody chose that; builds from source, which run strangers' code, are
    refused then."""
    proxy: Path | None = None
    """Where the socket of that proxy is, with the network mode ``index``."""
    memory: int = 4 * 1024**3
    cpus: float = 2.0
    pids: int = 512
    nofile: int = 4096
    tmp: int = 512 * 1024**2
    file_size: int = 8 * 1024**3
    uid: int = 199_999
    """Who builds when the host is root; otherwise the host's own uid does, which is not root either."""
    engine_paths: tuple[tuple[Path, Path], ...] = ()
    """``(here, there)``: how directories of ours are called where the engine runs; empty when names agree."""

    @property
    def user(self) -> tuple[int, int]:
        """uid and gid that the build runs as and that its directories belong to."""
        return (self.uid, self.uid) if os.geteuid() == 0 else (os.geteuid(), os.getegid())

    def engine_path(self, path: Path) -> str:
        """``path`` as the engine calls it."""
        for here, there in self.engine_paths:
            if path.is_relative_to(here):
                return str(there / path.relative_to(here))
        return str(path)


# What a build from source needs in order to run is installed from the lock of build tools or not at all, and a source
# cannot name another place for it. Not when versions are chosen, which happens before there is a lock: there uv 0.13.9
# waits for ever once two sources were refused the same tool.
_LOCKED_TOOLS: Final = [
    "--build-constraints", f"{IN}/{TOOLS}", "--require-build-hashes",
    "--preview-features", "build-dependency-hashes",
]  # fmt: skip


def command(job: BuildJob, step: Step) -> list[str]:
    """The one command of a step."""
    wheels_only = ["--only-binary", ":all:"]
    if step == "tools":
        # No stranger's code runs in this step: a build tool without a wheel is not to be had.
        return [
            UV, "pip", "compile", f"{IN}/{WANTED_TOOLS}",
            "--output-file", f"{OUT}/{TOOLS}",
            "--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links",
            *wheels_only,
        ]  # fmt: skip
    wheels = ["--no-sources"] if job.source_builds else wheels_only
    if step == "resolve":
        return [
            UV, "pip", "compile", f"{IN}/{REQUIREMENTS}",
            *(["--constraints", f"{IN}/{CONSTRAINTS}"] if job.has_constraints else []),
            "--overrides", f"{IN}/{OVERRIDES}",
            # The file is there already and holds the image's own versions: uv keeps to them where it can.
            "--output-file", f"{OUT}/{LOCK}",
            "--generate-hashes", "--no-header", "--annotation-style", "line",
            "--no-emit-index-url", "--no-emit-find-links",
            *wheels,
        ]  # fmt: skip
    return [
        UV, "pip", "install",
        "--requirements", f"{IN}/{LOCK}",
        "--target", f"{OUT}/{SITE}",
        "--no-deps", "--require-hashes", "--link-mode", "copy", "--compile-bytecode",
        *wheels,
        *(_LOCKED_TOOLS if job.source_builds else []),
    ]  # fmt: skip


def environment(job: BuildJob, index: IndexSettings) -> dict[str, str]:
    """The environment variables of a build."""
    variables = {
        **index.environment,
        "PATH": "/opt/venv/bin:/usr/local/bin:/usr/bin:/bin",
        "HOME": TMP,
        "LANG": "C.UTF-8",
        "TMPDIR": f"{CACHE}/unpacked",
        "UV_CACHE_DIR": f"{CACHE}/uv",
        "UV_PYTHON": PYTHON,
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NO_CONFIG": "1",
        "UV_NO_PROGRESS": "1",
        "UV_HTTP_TIMEOUT": "60",
        "NO_COLOR": "1",
    }
    if not job.network:
        variables["UV_OFFLINE"] = "1"  # says so at once, instead of trying until it gives up
    if index.ca_bundle is not None:
        variables["SSL_CERT_FILE"] = f"{IN}/{CA_BUNDLE}"
    return variables


_THROUGH_PROXY: Final = "; ".join(
    (
        "import os, sys",
        "from ringfence_runtime import egress",
        "egress.start(sys.argv[1])",
        "os.execv(sys.argv[2], sys.argv[2:])",
    )
)


def through_proxy(settings: BuildSettings, job: BuildJob) -> bool:
    """Whether this build reaches the index by the host's proxy."""
    return job.network and settings.network_mode == INDEX_ONLY


def _proxies() -> dict[str, str]:
    # In both spellings: what the operator's own settings say of proxies is for the host, not for in here.
    proxy = f"http://127.0.0.1:{wire.EGRESS_PORT}"
    found = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), proxy) | {"no_proxy": ""}
    return {**found, **{name.upper(): value for name, value in found.items()}}


def container_options(
    job: BuildJob, step: Step, settings: BuildSettings, index: IndexSettings
) -> dict[str, Any]:
    """The container of a step, in the words of the docker SDK; pure, so that one test shows every flag."""
    uid, gid = settings.user
    through = through_proxy(settings, job)
    # A package's build is as much a stranger's code as a node is.
    profile = seccomp_profile(network=through, outside=job.network and not through)
    exit_ = {}
    if through:
        if settings.proxy is None:
            raise ValueError("builds that reach the index only need the place of its proxy")
        exit_[settings.engine_path(settings.proxy)] = {
            "bind": wire.EGRESS_SOCKET.rpartition("/")[0],
            "mode": "ro",
        }
    return {
        "image": settings.image,
        "command": [PYTHON, "-c", _THROUGH_PROXY, wire.EGRESS_SOCKET, *command(job, step)]
        if through
        else command(job, step),
        "entrypoint": [],
        "name": f"ringfence-{settings.instance}-build-{job.id}-{step}",
        "labels": {
            "ringfence.instance": settings.instance,
            "ringfence.purpose": "build",
            "ringfence.tenant": job.tenant,
        },
        "environment": {**environment(job, index), **(_proxies() if through else {})},
        "working_dir": TMP,
        "hostname": "build",
        "user": f"{uid}:{gid}",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true", f"seccomp={profile}"],
        "network_mode": settings.network_mode if job.network and not through else "none",
        "ipc_mode": "private",
        "init": True,  # a build that leaves processes behind still ends
        "mem_limit": settings.memory,
        "memswap_limit": settings.memory,
        "nano_cpus": int(settings.cpus * 1e9),
        "pids_limit": settings.pids,
        "tmpfs": {TMP: f"rw,nosuid,nodev,size={settings.tmp},mode=1777"},
        "volumes": {
            settings.engine_path(job.directory / "in"): {"bind": IN, "mode": "ro"},
            settings.engine_path(job.directory / "out"): {"bind": OUT, "mode": "rw"},
            settings.engine_path(job.cache): {"bind": CACHE, "mode": "rw"},
            **exit_,
        },
    }
