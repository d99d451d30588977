"""What host and launcher say to each other, as data: one request per connection, frames, credentials.

A connection carries one request of the host and what the launcher answers to it: an error or a result, before that
any number of lines (a build) or events (``attach``). Hanging up takes a request back. Frames are those of the workers'
protocol (``runtime.wire``), parsed by the same parser of hostile JSON; a message with a key that is not declared here
is refused. Ids are checked here, so that nothing behind it sees another form; what they may name is for ``gate.py``.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar

import anyio
from anyio.abc import UNIXSocketStream
from pydantic import AfterValidator, Field, StringConstraints, TypeAdapter, ValidationError

from policies import (
    RingfenceError,
    parse_extension_name,
    parse_sandbox_group,
    parse_sandbox_id,
    parse_tenant_id,
    safe_text,
)
from runtime import wire
from sandbox.errors import RuntimeRefusedError, StartError
from sandbox.hostile_json import parse
from sandbox.strict import Strict

VERSION: Final = 1
MAX_REQUEST: Final = 128 * 1024
MAX_ANSWER: Final = 2 * 1024 * 1024
MAX_EXTENSIONS: Final = 64
MAX_LOG: Final = 256 * 1024
_CREDENTIALS: Final = struct.Struct("3i")


def _named(parser: Any) -> AfterValidator:
    def check(text: str) -> str:
        try:
            return str(parser(text))
        except RingfenceError as error:
            raise ValueError(error.message) from None

    return AfterValidator(check)


Tenant = Annotated[str, _named(parse_tenant_id)]
Extension = Annotated[str, _named(parse_extension_name)]
Sandbox = Annotated[str, _named(parse_sandbox_id)]
Group = Annotated[str, _named(parse_sandbox_group)]
Place = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^/[^\x00-\x1f]*$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-zA-Z-]{1,128}$")]
Session = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Job = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{1,64}-[0-9a-f]{1,64}$")]


class _Request(Strict):
    session: Session


class Attach(_Request):
    """The host's first word and its standing connection: events from number ``since`` on, of launcher run ``run``."""

    verb: Literal["attach"]
    version: Literal[1]
    run: Session | None
    since: Annotated[int, Field(ge=0)]


class About(Strict):
    """Who the launcher is: nothing is taken over or changed by it, so it needs no session."""

    verb: Literal["about"]


class Detach(_Request):
    """The host ends: whatever it still has is ended."""

    verb: Literal["detach"]


class Code(Strict):
    """One extension of an ``ensure``."""

    name: Extension
    source: Place
    environment: Place | None


class Ensure(_Request):
    """``Launcher.ensure``."""

    verb: Literal["ensure"]
    sandbox: Sandbox
    tenant: Tenant
    extensions: Annotated[list[Code], Field(min_length=1, max_length=MAX_EXTENSIONS)]
    policy_digest: Digest
    group: Group | None


class Stop(_Request):
    """``Launcher.stop``."""

    verb: Literal["stop"]
    sandbox: Sandbox
    grace_s: Annotated[float, Field(ge=0, le=600)]


class List(_Request):
    """``Launcher.list``."""

    verb: Literal["list"]


class Stats(_Request):
    """``Launcher.stats``."""

    verb: Literal["stats"]
    sandbox: Sandbox


class Logs(_Request):
    """``Launcher.logs``."""

    verb: Literal["logs"]
    sandbox: Sandbox
    limit: Annotated[int, Field(ge=1, le=MAX_LOG)]


class Image(_Request):
    """``EnvironmentBuilder.image``."""

    verb: Literal["image"]


class Build(_Request):
    """``EnvironmentBuilder.run``: the lists of requirements lie in the job's directory, which is known by its name."""

    verb: Literal["build"]
    id: Job
    job: Job
    tenant: Tenant
    extension: Extension | None
    group: Group | None
    network: bool
    source_builds: bool
    has_constraints: bool
    step: Literal["resolve", "tools", "install"]


class Sweep(_Request):
    """``EnvironmentBuilder.sweep``."""

    verb: Literal["sweep"]


Request = About | Attach | Detach | Ensure | Stop | List | Stats | Logs | Image | Build | Sweep
_REQUESTS: Final[TypeAdapter[Request]] = TypeAdapter(Annotated[Request, Field(discriminator="verb")])


# -- what the launcher answers -----------------------------------------------------------------------------------


class Told(Strict):
    """What ``about`` answers."""

    version: Annotated[str, StringConstraints(max_length=64)]
    channel: int
    has_host: bool
    sandboxes: int
    policies: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """Of all policy files, as the launcher sees them."""
    build_network: Annotated[str, StringConstraints(max_length=64)]


class Launched(Strict):
    """A ``LaunchedSandbox``; with ``stdio`` one more byte follows the frame, and its stream comes with that byte."""

    sandbox: Sandbox
    tenant: Tenant
    extensions: list[Extension]
    container: Annotated[str, StringConstraints(max_length=128)]
    uid: int
    running: bool
    stdio: bool
    multiplexed: bool
    code_root: Annotated[str, StringConstraints(max_length=4096)]
    seconds: dict[str, float]
    """Step to its time, in order."""


class Listed(Strict):
    """What ``list`` answers."""

    sandboxes: list[Launched]


class Ended(Strict):
    """An ``Ending``."""

    exit_code: int | None
    oom_killed: bool
    oom_events: int
    pids_refused: int
    killed_by_us: bool
    last_words: str


class Used(Strict):
    """A ``Usage``."""

    memory: int | None
    pids: int | None
    oom_kills: int | None
    pids_refused: int | None
    cpu_s: float | None
    memory_peak: int | None = None
    file_cache: int | None = None
    pids_peak: int | None = None


class Text(Strict):
    """What ``logs`` answers."""

    text: str


class Done(Strict):
    """An answer that says no more than that it is done; ``sweep`` counts."""

    count: int


class ImageFacts(Strict):
    """A ``NodeImage``."""

    id: str
    variant: str
    python: str
    machine: str
    packages: dict[str, str]
    absent: dict[str, str]
    licences: dict[str, str]


class Outcome(Strict):
    """A ``BuildOutcome``."""

    exit_code: int
    lines: list[str]
    seconds: float
    limit: str


class Attached(Strict):
    """The answer to ``attach``; ``complete`` is false when events between ``since`` and ``seq`` are lost."""

    run: Session
    seq: int
    complete: bool


class Event(Strict):
    """One ``LauncherEvent``."""

    seq: int
    sandbox: Sandbox
    kind: Literal["died", "oom"]


class Refusal(Strict):
    """Why there is no result."""

    code: Literal["sandbox_start_failed", "runtime_refused"]
    message: str
    hint: str

    def error(self) -> StartError:
        """As whoever asked raises it; its text comes from another process."""
        kind = RuntimeRefusedError if self.code == RuntimeRefusedError.code else StartError
        return kind(safe_text(self.message, 2_000), safe_text(self.hint, 500))


class RefusedError(StartError):
    """A request that the launcher does not even look into; the connection ends."""


AnswerT = TypeVar("AnswerT", bound=Strict)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a Unix socket, as the kernel says."""

    pid: int
    uid: int

    @classmethod
    def of(cls, stream: UNIXSocketStream) -> Peer:
        """The other end of ``stream``: who connected, or who listened."""
        raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)  # noqa: S610  (no database here)
        pid, uid, _ = _CREDENTIALS.unpack(
            raw.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        return cls(pid, uid)


def request(body: bytes) -> Request:
    """A request, exactly as declared. Raises: RefusedError, naming the key."""
    try:
        return _REQUESTS.validate_python(parse(body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        text = f"{safe_text(where, 80)}: {safe_text(first['msg'], 160)}"
    except RingfenceError as error:
        text = error.message
    raise RefusedError(f"the launcher refused a request: {text}", "host and launcher must be of one version")


def answer(tree: Any, model: type[AnswerT]) -> AnswerT:
    """An answer's content. Raises: StartError: the launcher is of another version."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise StartError(
            f"the launcher answered in a way that this host does not know ({error.error_count()} differences)",
            "host and launcher must be of one version",
        ) from None


async def send(stream: UNIXSocketStream, message: Mapping[str, Any], *, limit: int) -> None:
    """One frame."""
    await stream.send(wire.encode_frame(dict(message), limit=limit))


async def receive(stream: UNIXSocketStream, *, limit: int) -> bytes:
    """The body of one frame, and not a byte beyond it.

    Raises:
        anyio.EndOfStream: the other side hung up before one.
        FrameError: in the middle of one, or it is too long.
    """
    header = await _exactly(stream, wire.HEADER.size)
    length = wire.frame_length(header, limit=limit)
    try:
        return await _exactly(stream, length)
    except anyio.EndOfStream:
        raise wire.TruncatedFrameError(f"the stream ended in a frame of {length} bytes") from None


async def _exactly(stream: UNIXSocketStream, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        try:
            found += await stream.receive(count - len(found))
        except anyio.EndOfStream:
            if found:
                raise wire.TruncatedFrameError(f"{len(found)} of {count} bytes came") from None
            raise
    return bytes(found)
