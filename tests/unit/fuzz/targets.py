"""Everything of ours that reads what a stranger wrote, each as one function of bytes.

A target returns, or raises the one kind of error that its callers handle and that is made for people to read; anything
else that leaves it is a finding. What it made of the bytes is held to what its callers rely on.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import anyio
import h11
import orjson

from api.archives import ArchiveError, unpack
from api.bodies import BodyError, parse_json
from api.errors import dump_json
from api.model_files import find_cover, metadata, read_cover
from api.trees import FileRefusedError, FileUnknownError, Tree
from engine import PromptInvalidError, PromptLimits
from engine.prompt import parse_prompt
from engine.testing import FakeNode
from engine.validation import Walk, select_outputs
from policies import ExtensionName, PathEscapeError, PolicyError, PolicyStore, RingfenceError, SandboxId
from policies.load import load_defaults, load_policy
from runtime import wire
from sandbox import ProtocolViolationError, SandboxError, messages
from sandbox.declarations import Registration
from sandbox.egress.decision import RefusedError, parse_authority, parse_url
from sandbox.egress.exchange import host_header, read_request
from sandbox.egress.hello import HelloReader, NoHelloError
from sandbox.egress.limits import EgressLimits
from sandbox.environment_errors import DependencyRefusedError
from sandbox.environment_locks import changed_package, locked_hashes
from sandbox.errors import StartError
from sandbox.launcher import channel
from sandbox.launcher.gate import Gate
from sandbox.launcher.staging import checked_lock, checked_requirements
from sandbox.manifests import read_declared
from sandbox.peer import Peer
from sandbox.places import Places
from sandbox.streams import EndOfStreamError

Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {}
#: An error's text is for a log or a terminal.
LONGEST: Final = 4_000


def target(function: Target) -> Target:
    """Put one on the list, under its name."""
    TARGETS[function.__name__] = function
    return function


def readable(error: Exception) -> None:
    """Whether an error can be shown to somebody as it is."""
    text = str(error)
    assert len(text) <= LONGEST, f"{len(text)} characters"
    assert text.replace("\n", "").isprintable(), repr(text[:200])


# -- a worker -------------------------------------------------------------------------------------------------------


class _Bytes:
    """A connection on which everything has come already."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def take(self, count: int) -> bytes | None:
        at = self._data.tell()
        piece = self._data.read(count)
        if len(piece) == count:
            return piece
        self._data.seek(at)
        return None

    def on_arrival(self, look: Callable[[bytes], int]) -> None:
        """Nothing arrives: all is there."""

    async def read_exactly(self, count: int) -> bytes:
        piece = self._data.read(count)
        if len(piece) == count:
            return piece
        raise wire.TruncatedFrameError("half") if piece else EndOfStreamError()

    async def receive(self, count: int = 65536) -> bytes:
        if piece := self._data.read(count):
            return piece
        raise anyio.EndOfStream

    async def write(self, data: bytes) -> None:
        """To nobody."""

    def write_at_once(self, data: bytes) -> bool:
        return True

    def close(self) -> None:
        """Nothing was open."""


@target
def frames(raw: bytes) -> None:
    """The conversation with a worker, from its first byte to its end."""

    async def served(method: str, params: dict[str, Any]) -> None:
        assert method in wire.WORKER_METHODS
        assert all(isinstance(key, str) for key in params)

    async def converse() -> None:
        peer = Peer(_Bytes(raw), on_request=served, on_notification=served)
        try:
            await peer.run()
        except ProtocolViolationError as error:
            readable(error)
        except EndOfStreamError:
            pass

    anyio.run(converse)


@target
def messages_of_a_worker(raw: bytes) -> None:
    """One message, read as every kind of answer that a worker may give."""
    try:
        said = messages.parse_message(raw)
    except ProtocolViolationError as error:
        readable(error)
        return
    if isinstance(said, messages.Request):
        assert said.method in wire.WORKER_METHODS
        return
    box, pack = SandboxId("box"), ExtensionName("pack")
    readers: list[Callable[[Any], Any]] = [
        messages.hello,
        lambda it: messages.loaded(it, Registration()),
        lambda it: messages.described(it, Registration()),
        messages.validated,
        messages.fingerprint,
        messages.lazy,
        messages.hooked,
        lambda it: messages.http_head(it, 1000),
        lambda it: messages.http_piece(it, 1000),
        lambda it: messages.executed(it, box, max_values=100, max_expansion=100),
    ]
    if said.error is not None:
        readers = [lambda it: messages.failure(it, pack)]
    for read in readers:
        try:
            made = read(said.error or said.result)
        except SandboxError as error:
            readable(error)
        else:
            if isinstance(made, Exception):
                readable(made)
            if isinstance(made, messages.ParsedResult) and made.ui is not None:
                orjson.loads(dump_json(made.ui))


# -- a tenant -------------------------------------------------------------------------------------------------------

_TYPES = {
    node.class_type: node.describe()
    for node in (
        FakeNode("Source", lambda: (1,), outputs=("IMAGE",)),
        FakeNode(
            "Save",
            lambda **_: (),
            {"image": ["IMAGE", {}]},
            optional={
                "i": ["INT", {"min": 0, "max": 10}], "f": ["FLOAT", {}], "s": ["STRING", {}], "b": ["BOOLEAN", {}],
                "c": [["a", "b", 1], {}], "m": ["COMBO", {"options": ["x", "y"], "multiselect": True}],
                "u": ["INT,FLOAT", {"min": 0}],
            },
            outputs=(),
            output_node=True,
        ),
    )
}  # fmt: skip


@target
def prompts(raw: bytes) -> None:
    """The body of ``POST /prompt``, through JSON and validation."""
    try:
        body = parse_json(raw, max_depth=128, max_nodes=100_000)
        graph = parse_prompt(body.get("prompt") if isinstance(body, dict) else body, PromptLimits())
        report = Walk(graph, _TYPES, select_outputs(graph, _TYPES, None)).report({})
        report.raise_if_none()
    except (BodyError, PromptInvalidError) as error:
        orjson.loads(dump_json(getattr(error, "error", None)))
        orjson.loads(dump_json(getattr(error, "node_errors", None)))
        return
    json.dumps(graph, allow_nan=False)


@target
def archives(raw: bytes) -> None:
    """A tar archive that a client sent as an extension: what is unpacked lies below its directory, and is plain."""
    with tempfile.TemporaryDirectory() as directory:
        inside = Path(directory) / "inside"
        inside.mkdir()
        try:
            count = unpack(io.BytesIO(raw), inside, max_bytes=100_000, max_files=50)
        except ArchiveError as error:
            readable(error)
        else:
            found = [path for path in inside.rglob("*") if not path.is_dir()]
            assert len(found) == count
        everything = list(Path(directory).rglob("*"))
        assert all(path.is_relative_to(inside) and not path.is_symlink() for path in everything)
        assert all(path.is_dir() or path.is_file() for path in everything)
        assert sum(path.stat().st_size for path in everything if path.is_file()) <= 100_000
        assert len(everything) <= 50 * 33


@target
def safetensors(raw: bytes) -> None:
    """A model's header, as the routes for metadata and pictures read it."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "loras").mkdir()
        Path(directory, "loras", "model.safetensors").write_bytes(raw)
        tree = Tree(Path(directory))
        try:
            orjson.loads(dump_json(metadata(tree, "loras/model.safetensors")))
        except (RingfenceError, OSError, ValueError):
            pass
        try:
            cover = find_cover(tree, "loras/model.safetensors")
            if cover is not None:
                assert len(read_cover(tree, cover)) <= len(raw)
        except (FileUnknownError, FileRefusedError, PathEscapeError):
            pass


# -- an operator's files, and a pack's --------------------------------------------------------------------------------


@target
def policies(raw: bytes) -> None:
    """A policy file, of an extension and for all."""
    for load in (load_policy, load_defaults):
        try:
            load(raw, "blur.yaml")
        except PolicyError as error:
            readable(error)
            line = error.line
        else:
            line = 1
        assert line >= 1


@target
def lists_of_a_pack(raw: bytes) -> None:
    """What a pack says it needs, in each of the files where it may say so."""
    for name in ("requirements.txt", "pyproject.toml", "pyisolate.yaml", "manifest.yml"):
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, name).write_bytes(raw)
            try:
                read_declared(Path(directory))
            except DependencyRefusedError as error:
                readable(error)


@target
def lists_of_a_build(raw: bytes) -> None:
    """What a host hands to the launcher to be built: names, versions and hashes, or nothing."""
    text = raw.decode("utf-8", "replace")
    locked_hashes(text)
    changed_package(tuple(text.splitlines()))
    for check in (checked_requirements, checked_lock):
        try:
            written = check(text, "in/list")
        except RingfenceError as error:
            readable(error)
            continue
        for line in written.splitlines():
            assert not line.lstrip().startswith(("-e", "-r", "-i", "-f", "--index", "--find", "--extra")), (
                line
            )
            assert "://" not in line.split("#")[0], line


# -- a host that somebody else has taken over -------------------------------------------------------------------------

_AWAY: Final = Path("/nowhere/at/all")
_GATE: Final = Gate(Places("fuzz", _AWAY), PolicyStore(_AWAY / "policies"))


@target
def launcher_channel(raw: bytes) -> None:
    """What comes over the launcher's socket: a frame, a request, and the gate's word on it."""

    async def read() -> bytes:
        return await channel.receive(_Bytes(raw), limit=channel.MAX_REQUEST)  # type: ignore[arg-type]

    try:
        asked = channel.request(anyio.run(read))
    except (wire.FrameError, anyio.EndOfStream):
        return
    except StartError as error:
        readable(error)
        return
    try:
        if isinstance(asked, channel.Ensure):
            made = _GATE.sandbox(asked)
            for files in made.extensions:
                assert files.source.parent.is_relative_to(_AWAY / "tenants"), files
                assert ".." not in files.source.parts
        elif isinstance(asked, channel.Build):
            policy = _GATE.build_policy(asked)
            assert policy.build.network or not asked.network
            assert policy.build.source_builds or not asked.source_builds
    except RingfenceError as error:
        readable(error)


# -- a sandbox with a network -----------------------------------------------------------------------------------------


@target
def egress_requests(raw: bytes) -> None:
    """What a sandbox says to the proxy: a request, and the place that it names."""

    async def read() -> h11.Request:
        return await read_request(_Bytes(raw), h11.Connection(h11.SERVER), EgressLimits())  # type: ignore[arg-type]

    try:
        request = anyio.run(read)
        where = request.target.decode("latin-1")
        found = parse_authority(where) if request.method == b"CONNECT" else parse_url(where)[0]
        name = host_header(request)
    except RefusedError as error:
        readable(error)
        return
    except anyio.EndOfStream:
        return
    assert found.host == found.host.lower()
    assert found.host.isascii()
    assert not set(found.host) & set("/@\\?# %\r\n\0"), found
    assert 1 <= found.port <= 65535
    assert name is None or isinstance(name, str)


@target
def egress_hellos(raw: bytes) -> None:
    """The first bytes of a tunnel, whole and byte by byte: the same name, or the same refusal."""

    def said(step: int) -> object:
        reader = HelloReader()
        for at in range(0, len(raw), step):
            try:
                found = reader.feed(raw[at : at + step])
            except NoHelloError:
                return "refused"
            if found is not None:
                return found if at + step >= len(raw) else (found, "and more")
        return None

    whole, single = said(max(1, len(raw))), said(1)
    if whole not in (None, "refused") and not isinstance(single, tuple):
        assert single == whole
