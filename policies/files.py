"""Where policy files lie: the operator's directory, and a place for those that were adopted.

    policies/default.yaml                      defaults and ceilings, for everybody
    policies/<extension>.yaml                  an extension of the tenant `local`, the one of single-user mode
    policies/tenants/<tenant>/<extension>.yaml an extension of another tenant
    policies/core.yaml                         the built-in nodes, for every tenant that has no file of its own for them

A file is for one extension of one tenant: two tenants' packs may have the same name and nothing else in common.
What lies nearly right (`Blur.yaml` or `blur.yml` for the extension `blur`) is an error and not "no file", since
somebody who wrote it counts on it. Links are followed only inside the directory: a file that could be changed from
elsewhere, such as a pack's own directory, is no policy.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from policies.errors import NameInvalidError, PolicyError
from policies.load import Loaded, load_defaults, load_policy, read_file
from policies.model import DefaultsFile, PartialPolicy
from policies.names import (
    CORE_EXTENSION,
    LOCAL_TENANT,
    ExtensionName,
    TenantId,
    parse_extension_name,
    parse_tenant_id,
)
from policies.places import own_part
from policies.text import safe_text

SHIPPED = Path(__file__).parent
"""Where `default.yaml` and `core.yaml` come from when the operator's directory does not have its own."""

TENANTS: Final = "tenants"
_DEFAULTS: Final = "default.yaml"
_LARGEST: Final = 4 * 1024 * 1024

LoadedT = TypeVar("LoadedT", bound=Loaded[Any])
_Stamp = tuple[int, ...]


class PolicyFiles:
    """Finds, reads and keeps policy files; parses a file only when it changed. Safe to share between threads."""

    def __init__(self, directory: Path, adopted: Path | None = None) -> None:
        self.directory = directory.absolute()
        # Apart from the operator's own files where whoever adopts may not write those.
        self.adopted = self.directory if adopted is None else adopted.absolute()
        self._cache: dict[Path, tuple[_Stamp, Loaded[Any]]] = {}

    def defaults(self) -> Loaded[DefaultsFile]:
        """`default.yaml`, or the shipped one. Raises: PolicyError."""
        own = self._own(self.directory, self.directory, _DEFAULTS, load_defaults)
        found = own or self._cached(SHIPPED / _DEFAULTS, "shipped default.yaml", load_defaults)
        return found or load_defaults(b"", _DEFAULTS)

    def extension(self, extension: ExtensionName, tenant: TenantId) -> Loaded[PartialPolicy] | None:
        """What somebody wrote for this extension of this tenant; None if nobody did. Raises: PolicyError."""
        name = f"{extension}.yaml"
        operators = self.operators(extension, tenant)
        if operators is not None:
            return operators
        if extension == CORE_EXTENSION:  # never an adopted one: its code is ours, its policy the operator's
            shared = self._own(self.directory, self.directory, name, load_policy)
            return shared or self._cached(SHIPPED / name, f"shipped {name}", load_policy)
        if self.adopted == self.directory:
            return None
        return self._own(self.adopted, _folder(self.adopted, tenant), name, load_policy)

    def operators(self, extension: ExtensionName, tenant: TenantId) -> Loaded[PartialPolicy] | None:
        """The same, of the operator's own files only."""
        if tenant == LOCAL_TENANT:
            stray = self.directory / TENANTS / LOCAL_TENANT / f"{extension}.yaml"
            if os.path.lexists(stray):
                raise PolicyError(
                    f"policies of the tenant '{LOCAL_TENANT}' lie in '{self.directory.name}' itself",
                    hint="move the file there",
                    file=self.shown(stray),
                )
        return self._own(self.directory, _folder(self.directory, tenant), f"{extension}.yaml", load_policy)

    def target(self, extension: ExtensionName, tenant: TenantId) -> Path:
        """Where an adopted policy is written."""
        return _folder(self.adopted, tenant) / f"{extension}.yaml"

    def place_to_write(self, extension: ExtensionName, tenant: TenantId) -> str:
        """The operator's file that holds for this extension, or the one to make and what it has to begin as.

        Words for errors, from names alone: nothing is read, and a file that is wrong is somebody else's error.
        """
        own = own_part(extension, tenant)
        shown = self.shown(self.directory / own)
        if os.path.lexists(self.directory / own):
            return shown
        shared = f"{CORE_EXTENSION}.yaml"
        if extension == CORE_EXTENSION:
            is_own = tenant != LOCAL_TENANT and os.path.lexists(self.directory / shared)
            basis = self.shown(self.directory / shared) if is_own else f"the shipped {shared}"
        elif self.adopted != self.directory and os.path.lexists(self.adopted / own):
            basis = self.shown(self.adopted / own)
        else:
            return f"{shown} (a new file)"
        return f"{shown} (a copy of {basis})"

    def extensions(self, tenant: TenantId) -> tuple[ExtensionName, ...]:
        """The extensions of `tenant` that have a file (or a shipped one), by name."""
        stems = {str(CORE_EXTENSION)}
        for root in {self.directory, self.adopted}:
            stems |= {
                name.removesuffix(".yaml") for name in _names(_folder(root, tenant)) if name.endswith(".yaml")
            }
        names = []
        for stem in sorted(stems - {_DEFAULTS.removesuffix(".yaml")}):
            try:
                names.append(parse_extension_name(stem))
            except NameInvalidError:
                continue  # an editor's or a packager's file; no extension can have that name
        return tuple(names)

    def tenants(self) -> tuple[TenantId, ...]:
        """The tenants that have files of their own or a section in `default.yaml`, by name."""
        found = set(self.defaults().value.tenants or ())
        for root in {self.directory, self.adopted}:
            for name in _names(root / TENANTS):
                try:
                    found.add(parse_tenant_id(name))
                except NameInvalidError:
                    continue
        return tuple(TenantId(name) for name in sorted(found))

    def fingerprint(self) -> str:
        """A digest of the names and contents of all files that could be a policy, the shipped ones included."""
        whole = hashlib.sha256()
        for root in (SHIPPED, self.directory, self.adopted):
            folders = [root]
            if root is not SHIPPED:
                folders += [root / TENANTS / name for name in sorted(_names(root / TENANTS))]
            for folder in folders:
                for name in sorted(name for name in _names(folder) if name.endswith((".yaml", ".yml"))):
                    whole.update(f"{folder.relative_to(root)}/{name}\0".encode("utf-8", "surrogateescape"))
                    whole.update(_content(folder / name))
        return whole.hexdigest()

    def shown(self, path: Path) -> str:
        """`policies/blur.yaml`: the directory's name, not its place, because this text reaches tenants."""
        for root in (self.directory, self.adopted):
            if path.is_relative_to(root):
                return f"{root.name}/{path.relative_to(root)}"
        return path.name

    def _own(
        self, root: Path, folder: Path, name: str, load: Callable[[bytes, str], LoadedT]
    ) -> LoadedT | None:
        path, names = folder / name, _names(folder)
        if name not in names:
            wanted = {name.casefold(), f"{name.removesuffix('.yaml')}.yml".casefold()}
            near = sorted(other for other in names if other.casefold() in wanted)
            if near:
                raise PolicyError(
                    f"this is not the file of '{name.removesuffix('.yaml')}', though its name is nearly that",
                    hint=f"call it '{name}', or move it away",
                    file=self.shown(folder / safe_text(near[0], 80)),
                )
            return None
        try:
            real = path.resolve(strict=True)
        except FileNotFoundError:
            if path.is_symlink():
                raise PolicyError(
                    "this link leads nowhere", hint="remove it", file=self.shown(path)
                ) from None
            return None
        except (OSError, RuntimeError):
            raise PolicyError(
                "this link cannot be followed", hint="remove it", file=self.shown(path)
            ) from None
        if not real.is_relative_to(root.resolve()):
            raise PolicyError(
                "this link leads out of the directory of policies, where somebody else may change what it says",
                hint="put a copy of the file here, after reading it",
                file=self.shown(path),
            )
        return self._cached(real, self.shown(path), load)

    def _cached(self, path: Path, shown: str, load: Callable[[bytes, str], LoadedT]) -> LoadedT | None:
        try:
            known = self._cache.get(path)
            if known and known[0] == _stamp(path.stat()) and known[1].file == shown:
                return known[1]  # type: ignore[return-value]  # what `load` made for this path before
            raw, status = read_file(path, shown)
        except FileNotFoundError:
            return None
        loaded = load(raw, shown)
        self._cache[path] = (_stamp(status), loaded)
        return loaded


def _folder(root: Path, tenant: TenantId) -> Path:
    return root if tenant == LOCAL_TENANT else root / TENANTS / parse_tenant_id(tenant)


def _names(folder: Path) -> frozenset[str]:
    try:
        return frozenset(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except OSError as error:
        raise PolicyError(
            f"cannot be listed: {error.strerror}", hint="check its owner and mode", file=folder.name
        ) from None


def _stamp(status: os.stat_result) -> _Stamp:
    # ctime too: mtime can be set back by whoever copies files with their times.
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev)


def _content(path: Path) -> bytes:
    """A digest of a plain file's first bytes, more than any policy has; of anything else, and nothing is waited for."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b"unreadable"
    with os.fdopen(fd, "rb") as stream:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return b"no file"
        return hashlib.sha256(stream.read(_LARGEST)).digest()
