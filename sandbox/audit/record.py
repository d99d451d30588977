"""One record of the audit log: its schema, its bounds, and the hash that ties it to the one before.

A line is the record's JSON, ended by ``,"hash":"<sha256 of all before it in the line>"}``; the record itself holds the
hash of the line before (``prev``). So each line can be checked by its bytes alone, and none can be changed, left out or
put in between without every later line being made anew. Text is made safe here, once, whoever it came from.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from policies import safe_text

MAX_LINE: Final = 16 * 1024
"""Bytes of one line; what is longer loses its details, and says so."""
GENESIS: Final = "0" * 64
"""``prev`` of the very first record."""
_TEXT: Final = 1_000
_NAME: Final = 200
_ITEMS: Final = 64
_NUMBERS: Final = (bool, int, float)
_HASH: Final = re.compile(rb',"hash":"([0-9a-f]{64})"\}\Z')
_HASH_LENGTH: Final = len(',"hash":""}') + 64


class AuditEvent(StrEnum):
    """What happened. A name is never used for something else later."""

    AUDIT_OPENED = "audit-opened"
    AUDIT_LOST = "audit-lost"
    """Records could not be kept: ``count`` of them."""
    # -- the host's
    PROMPT_QUEUED = "prompt-queued"
    PROMPT_ENDED = "prompt-ended"
    REFUSED = "refused"
    """A request that was turned away: by a quota, a policy, a scope or a limit."""
    CHANGED = "changed"
    """A request that changed something: tokens, tenants, extensions, policies, sandboxes, sessions, the queue."""
    LOGGED_IN = "logged-in"
    LOGIN_FAILED = "login-failed"
    ROUTE_CALLED = "route-called"
    EGRESS = "egress"
    WALL_MET = "wall-met"
    """A node failed at a wall of its policy (a path, the network, memory, processes), as its own error tells."""
    SANDBOX_LOST = "sandbox-lost"
    """The end of a sandbox as the host explains it: which limit, its figure and its line."""
    # -- the launcher's
    SANDBOX_STARTED = "sandbox-started"
    SANDBOX_REFUSED = "sandbox-refused"
    SANDBOX_ENDED = "sandbox-ended"
    BUILD_STARTED = "build-started"
    BUILD_REFUSED = "build-refused"
    BUILD_ENDED = "build-ended"
    HOST_ATTACHED = "host-attached"
    HOST_REFUSED = "host-refused"


class Outcome(StrEnum):
    """What became of it."""

    OK = "ok"
    DENIED = "denied"
    FAILED = "failed"


AuditValue = str | int | float | bool | Sequence[str] | Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Entry:
    """What somebody wants recorded; bounded and made safe when it is written."""

    event: AuditEvent
    outcome: Outcome = Outcome.OK
    tenant: str = ""
    extensions: Sequence[str] = ()
    sandbox: str = ""
    prompt: str = ""
    by: str = ""
    """Who: ``operator``, ``token NAME``, ``session of NAME``; empty for Ringfence itself."""
    address: str = ""
    policy: str = ""
    """Digest of the effective policy."""
    text: str = ""
    denied_by: str = ""
    """The line of the policy that denied it, as ``file:line``."""
    would_allow: str = ""
    """What to write, and where, to allow it."""
    details: Mapping[str, AuditValue] | None = None


def nowhere(_entry: Entry) -> None:
    """For who has no audit log."""


_Name = Annotated[str, StringConstraints(max_length=_NAME + 40)]
_Text = Annotated[str, StringConstraints(max_length=_TEXT + 40)]
_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    """A record as it is kept. Whoever reads one reads it through this: a line of another form is no record."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    seq: int = Field(ge=1)
    at: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")]
    writer: Literal["host", "launcher"]
    event: _Name
    outcome: _Name
    tenant: _Name = ""
    extensions: tuple[_Name, ...] = ()
    sandbox: _Name = ""
    prompt: _Name = ""
    by: _Name = ""
    address: _Name = ""
    policy: _Name = ""
    text: _Text = ""
    denied_by: _Text = ""
    would_allow: _Text = ""
    details: dict[str, Any] = Field(default_factory=dict)
    prev: _Digest
    hash: _Digest

    @property
    def when(self) -> datetime:
        """The time of it."""
        return datetime.strptime(self.at, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


class NotARecordError(ValueError):
    """A line is no record, or its bytes are not those that were written."""


def line_of(entry: Entry, *, writer: str, seq: int, at: datetime, prev: str) -> tuple[bytes, str]:
    """The line to be written (newline included), and its hash."""
    fields: dict[str, Any] = {
        "seq": seq,
        "at": stamp(at),
        "writer": writer,
        "event": str(entry.event),
        "outcome": str(entry.outcome),
    }
    for name, limit in (("tenant", _NAME), ("sandbox", _NAME), ("prompt", _NAME), ("by", _NAME),
                        ("address", _NAME), ("policy", _NAME), ("text", _TEXT), ("denied_by", _TEXT),
                        ("would_allow", _TEXT)):  # fmt: skip
        if text := getattr(entry, name):
            fields[name] = safe_text(str(text), limit)
    if entry.extensions:
        fields["extensions"] = _strings(entry.extensions)
    if entry.details:
        fields["details"] = {
            safe_text(str(key), 60): _value(value) for key, value in list(entry.details.items())[:_ITEMS]
        }
    body = _body(fields, prev)
    if len(body) > MAX_LINE - _HASH_LENGTH - 1:
        fields["details"] = {"left_out": f"details of {len(body)} bytes; a record has at most {MAX_LINE}"}
        fields["extensions"] = fields.get("extensions", [])[:8]
        body = _body(fields, prev)
    digest = hashlib.sha256(body).hexdigest()
    return body + f',"hash":"{digest}"}}\n'.encode("ascii"), digest


def read_line(line: bytes) -> Record:
    """The record in a line (without its newline).

    Raises:
        NotARecordError: it has another form, or its hash is not that of its bytes.
    """
    found = _HASH.search(line) if len(line) <= MAX_LINE else None
    if found is None:
        raise NotARecordError("no record stands here")
    if hashlib.sha256(line[: found.start()]).hexdigest() != found[1].decode("ascii"):
        raise NotARecordError("its bytes are not those that were written: the hash differs")
    try:
        return Record.model_validate_json(line)
    except ValidationError as error:
        raise NotARecordError(f"it has another form ({error.error_count()} fields)") from None


def stamp(at: datetime) -> str:
    """A time as records say it."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def _body(fields: dict[str, Any], prev: str) -> bytes:
    # ASCII: what is written is what is hashed, whatever reads it later.
    whole = {**fields, "prev": prev}
    try:
        body = orjson.dumps(whole)
    except TypeError:  # a number of a class of its own
        body = b"\xff"
    return (body if body.isascii() else json.dumps(whole, separators=(",", ":")).encode("ascii"))[:-1]


def _value(value: AuditValue) -> Any:
    if isinstance(value, _NUMBERS):
        # A JSON number that others cannot read would make the line unreadable.
        return value if isinstance(value, bool) or abs(value) < 2**53 else str(value)  # NaN, too
    if isinstance(value, str):
        return safe_text(value, _TEXT)
    if isinstance(value, Mapping):
        return {
            safe_text(str(key), _NAME): safe_text(str(each), _NAME)
            for key, each in list(value.items())[:_ITEMS]
        }
    return _strings(value)


def _strings(values: Sequence[str]) -> list[str]:
    shown = [safe_text(str(each), _NAME) for each in values[:_ITEMS]]
    return [*shown, f"{len(values) - _ITEMS} more"] if len(values) > _ITEMS else shown
