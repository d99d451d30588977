"""Which directories of the machine a sandbox sees, checked before the engine is asked.

The launcher's half of the allowlist: what a request names must lie where this tenant's things lie, links resolved,
and no directory that another sandbox could have swapped for a link is ever handed to the engine, which would follow
it as root. What the host could swap meanwhile is held still (``holding.py``).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from policies import EffectivePolicy, HostPath, TenantPath, own_folder
from runtime import wire
from sandbox.errors import StartError
from sandbox.launcher.settings import LaunchSettings, TestOverride
from sandbox.launcher.spec import RUNTIME_IN_IMAGE, Mount
from sandbox.launcher.verbs import SandboxRequest
from sandbox.places import Places

# Sticky: a sandbox may add to a shared directory but not rename or remove what is not its own, so the folder that we
# made for another extension cannot become a link between our look and the engine's.
_SHARED_MODE = 0o1777
_AREAS = frozenset({"input", "output", "temp", "models", "user"})


def sandbox_mounts(
    request: SandboxRequest,
    policy: EffectivePolicy,
    places: Places,
    settings: LaunchSettings,
    override: TestOverride | None = None,
) -> list[Mount]:
    """Every mount of a sandbox; makes the tenant directories that its policy names. Blocking.

    Raises:
        StartError: a path is missing, lies elsewhere than it should, or is a link.
    """
    mounts: list[Mount] = []
    roots = (places.tenant(request.tenant) / "extensions", *settings.trusted_sources)
    for files in request.extensions:
        source = _inside(files.source, roots, f"the code of extension '{files.name}'")
        mounts.append(Mount(source, f"{wire.CODE_DIRECTORY}/{files.name}"))
    environment = request.extensions[0].environment
    if any(files.environment != environment for files in request.extensions):
        raise StartError(
            f"the extensions {', '.join(request.names)} share a sandbox but need different environments",
            "give them equal requirements, or separate sandboxes",
        )
    if environment is not None:
        mounts.append(
            Mount(_inside(environment, (places.environments,), "the environment"), wire.ENVIRONMENT_DIRECTORY)
        )
    mounts.append(Mount(_own(places.inbox(request.sandbox), places.shm_root), wire.IN_DIRECTORY))
    # Writable as a mount, so that the files in it can be filled; the directory itself belongs to us.
    outbox = _own(places.outbox(request.sandbox), places.shm_root)
    mounts.append(Mount(outbox, wire.OUT_DIRECTORY, writable=True))
    if policy.transport == "socket":
        door = _own(places.socket_directory(request.sandbox), places.run_root)
        mounts.append(Mount(door, str(Path(wire.SOCKET_PATH).parent)))
    if policy.network:
        exit_ = _own(places.egress_directory(request.sandbox), places.run_root)
        mounts.append(Mount(exit_, str(Path(wire.EGRESS_SOCKET).parent)))
    mounts += _policy_mounts(request, policy, places, settings)
    if override is not None and override.runtime_source is not None:
        mounts.append(Mount(override.runtime_source, RUNTIME_IN_IMAGE))
    return [Mount(settings.engine_path(item.source), item.target, item.writable) for item in mounts]


def _policy_mounts(
    request: SandboxRequest, policy: EffectivePolicy, places: Places, settings: LaunchSettings
) -> list[Mount]:
    mounts: list[Mount] = []
    own = own_folder(request.names[0], request.group)
    for entry in policy.paths:
        if isinstance(entry, HostPath):
            mounts.append(Mount(_unchanged(Path(entry.host)), entry.mount, entry.access == "rw"))
            continue
        parts = _folder(entry)
        # An own folder stands where packs look for the whole directory.
        place = parts if entry.scope == "tenant" else (*parts, own)
        source = _tenant_directory(places.tenant(request.tenant), place, settings)
        mounts.append(Mount(source, "/".join((wire.APP_DIRECTORY, *parts)), entry.access == "rw"))
    return mounts


def _folder(entry: TenantPath) -> tuple[str, ...]:
    parts = tuple(entry.tenant.split("/"))
    if parts[0] not in _AREAS or any(part in ("", ".", "..") for part in parts):
        raise StartError(f"the policy names a directory that tenants do not have: {entry.tenant!r:.80}")
    return parts


def _tenant_directory(root: Path, parts: tuple[str, ...], settings: LaunchSettings) -> Path:
    """Make ``root/parts`` directory by directory, following no link.

    Each level is ours and sticky (below the first) before the next is looked at.
    """
    root.mkdir(parents=True, exist_ok=True)
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            try:
                os.mkdir(part, _SHARED_MODE, dir_fd=here)
            except FileExistsError:
                pass
            shown = f"{root.name}/{'/'.join(parts)}"
            try:
                there = os.open(
                    part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here
                )
            except OSError as error:
                raise StartError(
                    f"the tenant directory {shown} cannot be mounted: '{part}' is {_kind(part, here)}",
                    "remove it or make it a plain directory",
                ) from error
            os.close(here)
            here = there
            status = os.fstat(here)
            if status.st_uid == settings.holding_uid:
                continue  # ours, and another start holds it at this moment
            if status.st_uid != os.geteuid():
                raise StartError(
                    f"the tenant directory {shown} cannot be mounted: '{part}' was made by a sandbox",
                    "rename it; Ringfence makes its own",
                )
            if stat.S_IMODE(status.st_mode) != _SHARED_MODE:
                _share(here, settings.holding_uid)
    finally:
        os.close(here)
    return root.joinpath(*parts)


def _share(directory: int, holding_uid: int) -> None:
    """Make it what a directory of many is, unless another start has done so and holds it by now."""
    try:
        os.fchmod(directory, _SHARED_MODE)
    except PermissionError:  # only an owner sets modes, where CAP_FOWNER is not held
        if os.fstat(directory).st_uid != holding_uid:
            raise


def _kind(name: str, directory: int) -> str:
    try:
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except OSError:
        return "not readable"
    return "a link" if stat.S_ISLNK(mode) else "not a directory"


def _inside(path: Path, roots: tuple[Path, ...], what: str) -> Path:
    resolved = _unchanged(path)
    if not any(resolved.is_relative_to(root.resolve()) for root in roots):
        raise StartError(
            f"{what} lies outside the directories it may lie in",
            f"add it with 'ringfence extension add' (found at {path})",
        )
    return resolved


def _own(path: Path, root: Path) -> Path:
    """``path`` of ours below the operator's ``root`` (which may be a link), if it is a directory and no link."""
    expected = root.resolve() / path.relative_to(root)
    if _unchanged(expected).is_dir():
        return path
    raise StartError(f"{path} cannot be mounted: it is not a directory")


def _unchanged(path: Path) -> Path:
    """``path``, if it exists and no component of it is a link by now."""
    try:
        resolved = path.resolve(strict=True)
    except OSError as error:
        raise StartError(
            f"{path} cannot be mounted: {error.strerror}", "create it, or change the policy"
        ) from error
    if resolved != path.absolute():
        # Paths were resolved when policy and extension were read; a link since then was put there by somebody.
        raise StartError(f"{path} cannot be mounted: it leads to {resolved}", "use the place itself")
    return resolved
