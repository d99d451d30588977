"""Policies as strict, frozen models: what a file says, what `default.yaml` says, and what holds in the end.

- `PartialPolicy`: one file or the `defaults` section; a key that is not written is `None`.
- `DefaultsFile`: `default.yaml` as a whole, with the operator's ceilings and allowlist roots.
- `EffectivePolicy`: every key resolved, with the source of each value; what a sandbox is started from.

The descriptions below the partial keys are the ones editors show (JSON Schema) and `docs/policy-reference.md`
explains at length. Here is no YAML, no file system and no merging.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
)

from policies.egress import ExactDestination, Network, NetworkCeiling, NetworkEntry, Secret, Secrets
from policies.errors import place
from policies.fields import (
    BuildSeconds,
    Count,
    Cpus,
    GpuCount,
    Gpus,
    Group,
    Memory,
    MessageSize,
    Nofile,
    PathRoot,
    Pids,
    Seconds,
    Size,
    TenantName,
    TmpfsSize,
    VariableName,
    VariablesCeiling,
    VariableValue,
    check_variable_count,
)
from policies.path_entries import HostPath, Paths, TenantPath
from policies.quotas import PartialQuotas
from policies.strict import Strict, listed

Isolation = Literal["runc", "gvisor"]
Transport = Literal["socket", "stdio"]
Layer = Literal["built-in", "defaults", "extension", "ceiling"]


Environment = Annotated[dict[VariableName, VariableValue], AfterValidator(check_variable_count)]


# --- what a file says -----------------------------------------------------------------------------------------


class PartialTimeouts(Strict):
    """How long things may take before the sandbox is ended."""

    import_s: Seconds | None = Field(default=None, alias="import")
    """Loading the extension, from the start of the worker to its list of nodes."""
    call_s: Seconds | None = Field(default=None, alias="call")
    """One call of a node."""
    idle_s: Seconds | None = Field(default=None, alias="idle")
    """How long an unused sandbox is kept warm."""
    grace_s: Seconds | None = Field(default=None, alias="grace")
    """How long an interrupted or stopping worker may take before its sandbox is ended."""


class PartialLimits(Strict):
    """What an extension may send back."""

    output_bytes: Size | None = None
    """All outputs of one node call together."""
    outputs: Count | None = None
    """Number of values (list items counted) that one node call returns."""
    log_rate: Count | None = None
    """Log lines per second; what is over is dropped and counted."""
    log_bytes: Size | None = None
    """Log kept per sandbox; older lines go first."""
    expansion_nodes: Count | None = None
    """Nodes that one call may add to the graph by expansion."""
    expansion_depth: Count | None = None
    """How deep expansions may lie inside each other; a loop by expansion is one deeper with each turn."""
    message_bytes: MessageSize | None = None
    """One message to the host (at most 64MiB); tensors do not travel in messages."""


class PartialBuild(Strict):
    """How the extension's Python environment is built, before any of its code runs."""

    network: bool | None = None
    """Whether the build container reaches the package index; the sandbox never does."""
    timeout_s: BuildSeconds | None = Field(default=None, alias="timeout")
    """The whole build."""
    source_builds: bool | None = None
    """Whether packages without a wheel may be built, which runs their code at build time."""


class _Values(Strict):
    """The keys that an extension's file and `defaults` have in common."""

    memory: Memory | None = None
    """Memory cap of the sandbox, swap included; over it the kernel kills."""
    cpus: Cpus | None = None
    """CPU time per second of wall time; 0.5 is half a core."""
    pids: Pids | None = None
    """Processes and threads together."""
    nofile: Nofile | None = None
    """Open files per process."""
    tmp: TmpfsSize | None = None
    """Size of /tmp; what lies there counts against `memory`."""
    scratch: TmpfsSize | None = None
    """Size of the throwaway writable tree (the pack's own folder, HOME, caches); counts against `memory`."""
    shared_memory: Size | None = None
    """Bytes of live outputs the sandbox may hold in /dev/shm."""
    disk: TmpfsSize | None = None
    """Bytes that it may add to its writable directories on disk from one call to the next; over it, it is ended."""
    disk_files: Count | None = None
    """Files and directories that it may add there."""
    isolation: Isolation | None = None
    """`runc` (namespaces and seccomp) or `gvisor` (a kernel of its own; slower system calls)."""
    transport: Transport | None = None
    """How the host talks to the worker: `socket`, or `stdio` where no socket can be mounted."""
    network: NetworkEntry | None = None
    """`none`, or where it may connect to: `{allow: ["name:port", ...]}`."""
    secrets: Secrets | None = None
    """Values that the proxy fills in on requests to one host; replaces the list of the layer below as a whole."""
    gpus: Gpus | None = None
    """GPUs by UUID or index; 0 or an empty list for none."""
    routes: bool | None = None
    """Whether HTTP routes that it registers are served, and its prompt handlers are called."""
    web_files: bool | None = None
    """Whether its web directory is served, whose scripts run in the user's browser with the user's rights."""
    environment: Environment | None = None
    """Environment variables for the worker, added to those of the layer below."""
    paths: Paths | None = None
    """All directories the extension sees; replaces the list of the layer below as a whole."""
    timeouts: PartialTimeouts | None = None
    """How long things may take."""
    limits: PartialLimits | None = None
    """What may be sent back."""
    build: PartialBuild | None = None
    """How its environment is built."""


class PartialPolicy(_Values):
    """One extension's policy file: only what differs from the defaults."""

    group: Group | None = None
    """Extensions with the same group (and equal policies) share one sandbox and can share live objects."""


class DefaultValues(_Values):
    """The `defaults` section: holds for every extension that does not say otherwise. It has no `group`."""


class TimeoutCeilings(Strict):
    """The longest timeouts a policy may name."""

    import_s: Seconds | None = Field(default=None, alias="import")
    """Most for `timeouts.import`."""
    call_s: Seconds | None = Field(default=None, alias="call")
    """Most for `timeouts.call`."""
    idle_s: Seconds | None = Field(default=None, alias="idle")
    """Most for `timeouts.idle`."""
    grace_s: Seconds | None = Field(default=None, alias="grace")
    """Most for `timeouts.grace`."""


class Ceilings(Strict):
    """What no extension's policy may go over."""

    memory: Memory | None = None
    """Most for `memory`."""
    cpus: Cpus | None = None
    """Most for `cpus`."""
    pids: Pids | None = None
    """Most for `pids`."""
    nofile: Nofile | None = None
    """Most for `nofile`."""
    tmp: TmpfsSize | None = None
    """Most for `tmp`."""
    scratch: TmpfsSize | None = None
    """Most for `scratch`."""
    shared_memory: Size | None = None
    """Most for `shared_memory`."""
    disk: TmpfsSize | None = None
    """Most for `disk`."""
    disk_files: Count | None = None
    """Most for `disk_files`."""
    gpus: GpuCount | None = None
    """Largest number of GPUs."""
    routes: bool | None = None
    """Whether `routes` may be true."""
    web_files: bool | None = None
    """Whether `web_files` may be true."""
    isolation: Isolation | None = None
    """The least that `isolation` may be: `gvisor` demands it."""
    network: NetworkCeiling | None = None
    """What `network` may name at most: none, any, or a list of `name:port`."""
    secrets: dict[VariableName, ExactDestination] | None = None
    """The secrets that `secrets` may name, each with the one host it may be for."""
    environment: VariablesCeiling | None = None
    """The variables that `environment` may name: any, or a list of names and `PREFIX*`."""
    timeouts: TimeoutCeilings | None = None
    """Longest timeouts."""
    limits: PartialLimits | None = None
    """Most for each of `limits`."""
    build: PartialBuild | None = None
    """Most for each of `build`."""


class TenantSection(Strict):
    """What differs for one tenant."""

    ceilings: Ceilings | None = None
    """Lower ceilings for this tenant; the general ones hold as well."""
    path_roots: Annotated[tuple[PathRoot, ...], BeforeValidator(listed)] | None = None
    """Where this tenant's `host` paths may lie, inside the general `path_roots`; all of those unless named."""
    quotas: PartialQuotas | None = None
    """What this tenant may use in all, where that differs from the general `quotas`."""


class DefaultsFile(Strict):
    """`default.yaml`: what holds for all extensions, and what the operator does not allow to be exceeded."""

    defaults: DefaultValues | None = None
    """Values for every key an extension's file does not write."""
    ceilings: Ceilings | None = None
    """What no extension's file may go over."""
    path_roots: Annotated[tuple[PathRoot, ...], BeforeValidator(listed)] | None = None
    """Directories of the machine below which `host` paths may lie; none unless named."""
    tenants: dict[TenantName, TenantSection] | None = None
    """Per tenant: lower ceilings, fewer path roots, other quotas."""
    quotas: PartialQuotas | None = None
    """What each tenant may use in all."""


# --- what holds in the end ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value of an effective policy comes from."""

    layer: Layer
    """`ceiling` means: nobody wrote a value for this extension, and the default was lowered to the ceiling."""
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        return place(self.file, self.line) if self.file else self.layer


class Timeouts(Strict):
    """Seconds; see `PartialTimeouts`."""

    import_s: float
    call_s: float
    idle_s: float
    grace_s: float


class Limits(Strict):
    """Bytes and counts; see `PartialLimits`."""

    output_bytes: int
    outputs: int
    log_rate: int
    """Lines per second."""
    log_bytes: int
    expansion_nodes: int
    expansion_depth: int
    message_bytes: int


class Build(Strict):
    """See `PartialBuild`."""

    network: bool
    timeout_s: float
    source_builds: bool


class EffectivePolicy(Strict):
    """Everything one sandbox may use, resolved: sizes in bytes, times in seconds, host paths without links."""

    memory: int
    cpus: float
    pids: int
    nofile: int
    tmp: int
    scratch: int
    shared_memory: int
    disk: int
    disk_files: int
    isolation: Isolation
    transport: Transport
    network: Network
    """Empty: nothing but loopback."""
    secrets: tuple[Secret, ...]
    gpus: tuple[str, ...]
    """UUIDs or indices; empty for none."""
    routes: bool
    """HTTP routes and prompt handlers of the pack are used."""
    web_files: bool
    """The pack's web directory is served."""
    environment: Annotated[
        Mapping[str, str], AfterValidator(MappingProxyType), PlainSerializer(dict, return_type=dict[str, str])
    ]
    paths: tuple[TenantPath | HostPath, ...]
    timeouts: Timeouts
    limits: Limits
    build: Build
    group: str | None = None
    sources: Annotated[Mapping[str, Source], AfterValidator(MappingProxyType)] = Field(
        default_factory=dict, exclude=True, repr=False
    )
    """By dotted key as written in a file (`timeouts.import`, `environment.FOO`); not part of the digest."""

    def source(self, key: str) -> Source:
        """Where `key` (dotted, as in a file) comes from; for messages such as "memory cap ... (blur.yaml:7)"."""
        return self.sources.get(key, Source("built-in"))

    def digest(self) -> str:
        """SHA-256 of the canonical JSON of all values: same digest, same walls, whatever file said so."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
