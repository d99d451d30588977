"""What is remembered of each extension between restarts: one ``meta.json`` each, and its nodes' descriptions.

The files are the host's own and are still read strictly: a damaged one costs its extension a reload, never the start
of the host. Nothing here talks to a sandbox.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from policies import ExtensionName, TenantId
from sandbox import KeptLock
from sandbox.calls import LoadedExtension

logger = logging.getLogger(__name__)

State = Literal["building", "ready", "failed"]
SandboxState = Literal["cold", "warm", "quarantined"]

META = "meta.json"


class Origin(BaseModel):
    """Where an extension was taken from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["directory", "file", "git", "built-in"]
    location: str
    """A path of this machine or a URL without credentials."""
    ref: str | None = None
    commit: str | None = None


class Failure(BaseModel):
    """Why an extension is not ready (or why its last reload changed nothing)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: str
    message: str
    hint: str = ""


class Record(BaseModel):
    """One extension of one tenant, as stored."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    name: str
    sequence: int
    """Order of adding: among packs that offer the same class the last one wins."""
    origin: Origin
    state: State
    content_hash: str
    added_ms: int
    updated_ms: int
    failure: Failure | None = None
    environment_key: str | None = None
    image_id: str | None = None
    lock_digest: str | None = None
    """Of the lock that its environment was made from; the lock lies beside the record."""
    environment_empty: bool = False
    """The environment adds nothing to the image, so there is no directory to mount."""
    policy_digest: str | None = None
    policy_adopted: bool = False
    """Its policy file came with ``add``, so it goes with ``remove``."""
    operator_added: bool = False
    """The operator added it, so a policy file of its name is meant for it."""
    api: str | None = None
    nodes: int = 0
    asks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """Of building its environment."""
    load_notes: tuple[str, ...] = ()
    """Of loading it in its sandbox."""

    @property
    def version(self) -> str:
        """What a node's result depends on besides its inputs: code, packages and image."""
        return f"{self.content_hash}/{self.environment_key}/{self.image_id}"


@dataclass(frozen=True, slots=True)
class ExtensionInfo:
    """One extension, for people and for the API."""

    name: ExtensionName
    tenant: TenantId
    state: State
    sandbox: SandboxState
    """Whether a sandbox of it runs now."""
    api: str | None
    node_count: int
    content_hash: str
    environment_key: str | None
    """None: the image's own packages are enough."""
    lock_digest: str | None
    """Which versions and files it runs with, by hash; None: no package of its own."""
    policy_digest: str | None
    source: Origin
    error: Failure | None
    asks: tuple[str, ...]
    """What its isolation manifest asked for; it was not granted."""
    notes: tuple[str, ...]
    core: bool
    added_ms: int
    updated_ms: int
    outdated: str = ""
    """Why its nodes are listed as they were known before, if they are."""


@dataclass(frozen=True, slots=True)
class PackFiles:
    """Where a ready pack lies, for whoever shows files of it to a browser."""

    name: ExtensionName
    code: Path
    given: str
    """What its directory was called where it was taken from; files may name each other by it."""
    web_directory: str | None
    """As its worker said: relative to ``code``, and not to be trusted."""
    web_files: bool
    """The policy lets its web directory be served."""


_DESCRIPTIONS: TypeAdapter[LoadedExtension] = TypeAdapter(LoadedExtension)


def description_key(content_hash: str, environment_key: str | None, image_id: str, policy_digest: str) -> str:
    """Names the cached descriptions: they hold as long as none of the four changed."""
    parts = "\n".join((content_hash, environment_key or "", image_id, policy_digest))
    return hashlib.sha256(parts.encode()).hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file so that a reader, or a restart after a crash, sees the old or the new one, never a part."""
    handle, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_record(directory: Path, record: Record) -> None:
    """Store a record in its extension's directory."""
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / META, record.model_dump_json(indent=2).encode() + b"\n")


def read_record(directory: Path) -> Record | None:
    """The record of an extension's directory; None (and a warning) when there is none that can be read."""
    try:
        return Record.model_validate_json((directory / META).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        logger.warning("%s cannot be read and is ignored: %s", directory / META, error)
        return None


def write_lock(directory: Path, content_hash: str, lock: KeptLock | None) -> None:
    """Keep the lock of a version of the extension."""
    path = directory / _lock_name(content_hash)
    if lock is None:
        path.unlink(missing_ok=True)
    else:
        write_atomically(path, lock.model_dump_json(indent=2).encode() + b"\n")


def read_lock(directory: Path, content_hash: str) -> KeptLock | None:
    """The lock that a version of the extension was built with, else that of the version before it, if there is any."""
    own = directory / _lock_name(content_hash)
    for path in (own, *sorted(directory.glob("lock-*.json"))):
        try:
            return KeptLock.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValidationError) as error:
            logger.warning("%s cannot be read and is ignored: %s", path, error)
    return None


def drop_locks(directory: Path, *, keep: str) -> None:
    """Forget the locks of other versions."""
    for path in directory.glob("lock-*.json"):
        if path.name != _lock_name(keep):
            path.unlink(missing_ok=True)


def _lock_name(content_hash: str) -> str:
    return f"lock-{content_hash[:32]}.json"


def write_descriptions(directory: Path, key: str, loaded: LoadedExtension) -> None:
    """Store what a worker said of the extension's nodes; older descriptions go."""
    path = directory / f"nodes-{key[:32]}.json"
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _DESCRIPTIONS.dump_json(loaded))
    for old in directory.glob("nodes-*.json"):
        if old != path:
            old.unlink(missing_ok=True)


def read_descriptions(directory: Path, key: str) -> LoadedExtension | None:
    """The stored descriptions of that key, if there are any."""
    return _read(directory / f"nodes-{key[:32]}.json")


def last_descriptions(directory: Path) -> LoadedExtension | None:
    """The stored descriptions whatever they are of, if there are any."""
    for path in sorted(directory.glob("nodes-*.json")):
        return _read(path)
    return None


def _read(path: Path) -> LoadedExtension | None:
    try:
        return _DESCRIPTIONS.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError, json.JSONDecodeError) as error:
        logger.warning("%s cannot be read and is ignored: %s", path, error)
        return None
