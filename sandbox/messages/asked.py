"""What a worker may ask for or report."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints

from runtime import wire
from sandbox.messages.envelope import MAX_ID, NodeId, Text
from sandbox.strict import Name, Strict
from sandbox.values import MAX_FILE_BYTES

LOG_LIMIT: Final = 64 * 1024
PREVIEW_LIMIT: Final = 8 * 1024 * 1024

FileName = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Bytes = Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]
_Number = Annotated[float, Field(strict=False, allow_inf_nan=False, ge=-1e15, le=1e15)]


class Allocate(Strict):
    """``shm/allocate``: a file of this size, please."""

    bytes: Bytes


class Discard(Strict):
    """``shm/discard``."""

    file: FileName


class Preview(Strict):
    """A preview image in an allocated file."""

    format: Literal["JPEG", "PNG"]
    file: FileName
    nbytes: Annotated[int, Field(ge=1, le=PREVIEW_LIMIT)]


class ProgressReport(Strict):
    """``node/progress``."""

    call: Annotated[int, Field(ge=0, le=MAX_ID)]
    node_id: NodeId
    value: _Number
    max: _Number
    preview: Preview | None
    legacy: bool


class NodeText(Strict):
    """``node/text``."""

    node_id: NodeId
    text: Text


class LogPiece(Strict):
    """``log``."""

    stream: Literal["stdout", "stderr"]
    text: Annotated[str, StringConstraints(max_length=LOG_LIMIT)]
    dropped: Annotated[int, Field(ge=0, le=2**53)]


class SentEvent(Strict):
    """``event/send``."""

    event: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    data: Any
    sid: Annotated[str, StringConstraints(max_length=128)] | None


class Seen(Strict):
    """``watch/seen``: a claim of a watched worker."""

    kind: Literal["connect", "read", "write", "variable", "tmp", "scratch", "nofile"]
    name: Annotated[str, StringConstraints(max_length=1024)]
    value: Annotated[int, Field(ge=1, le=MAX_ID)]


class StateGet(Strict):
    """``state/get``."""

    call: Annotated[int, Field(ge=0, le=MAX_ID)]


class StateSet(Strict):
    """``state/set``."""

    call: Annotated[int, Field(ge=0, le=MAX_ID)]
    values: Annotated[dict[Name, Any], Field(max_length=wire.MAX_STATE_NAMES)]


class StateDelete(Strict):
    """``state/delete``."""

    call: Annotated[int, Field(ge=0, le=MAX_ID)]
    names: Annotated[list[Name], Field(max_length=wire.MAX_STATE_NAMES)]


class ResourceGet(Strict):
    """``resource/get``: a path inside the sandbox, without links and dots in it."""

    path: Annotated[str, StringConstraints(min_length=2, max_length=4096, pattern=r"^/[^\x00]+$")]
