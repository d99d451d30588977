"""Checks of the host, each taken away by name, and what gets through without it.

An attack returns what it gained, in a few words, or nothing; a refusal that it meets is nothing too. ``off`` names the
one thing that is replaced: what a mistake in just that place would mean.
"""

from __future__ import annotations

import io
import json
import os
import re
import stat
import tarfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest

from api import archives, errors
from policies import SandboxId, TenantId
from runtime import wire
from sandbox import (
    FastPath,
    ProtocolViolationError,
    TensorStore,
    declarations,
    hostile_json,
    messages,
    peer,
    shm,
    values,
)
from sandbox.egress import connect
from sandbox.egress.decision import Target
from sandbox.egress.limits import EgressLimits
from sandbox.launcher import channel
from sandbox.launcher import gate as launcher_gate
from sandbox.streams import EndOfStreamError
from sandbox.tensors.outboxes import Outboxes
from sandbox.tensors.room import Room
from tests.contract.kit import places
from tests.unit.fuzz.targets import _GATE

Patch = pytest.MonkeyPatch
Attack = Callable[[Path], Awaitable[str]]


@dataclass(frozen=True)
class Weak:
    """One check of the host: what is tried, and how the check is taken away."""

    attack: Attack
    off: Callable[[Patch], None]


WEAK: dict[str, Weak] = {}


def against(name: str, off: Callable[[Patch], None]) -> Callable[[Attack], Attack]:
    """Put an attack on the list, with the check that stops it."""

    def listed(attack: Attack) -> Attack:
        if name in WEAK:
            raise ValueError(name)
        WEAK[name] = Weak(attack, off)
        return attack

    return listed


def replaced(where: Any, name: str, what: Any) -> Callable[[Patch], None]:
    """Take one thing's place."""
    return lambda patch: patch.setattr(where, name, what)


def read_with(**hooks: Any) -> Callable[[Patch], None]:
    """Take the place of one of the hooks with which JSON is read; the others stay."""
    usual = {
        "parse_constant": hostile_json._constant,
        "parse_float": hostile_json._float,
        "parse_int": hostile_json._int,
        "object_pairs_hook": hostile_json._object,
    }
    return replaced(hostile_json, "_DECODER", json.JSONDecoder(**{**usual, **hooks}))


# -- JSON ----------------------------------------------------------------------------------------------------------


@against("not-a-number", read_with(parse_constant=float))
async def not_a_number(_: Path) -> str:
    return str(hostile_json.parse(b"[NaN]"))


@against("endless-number", read_with(parse_float=float))
async def endless(_: Path) -> str:
    return str(hostile_json.parse(b"[1e999]"))


@against("key-twice", read_with(object_pairs_hook=dict))
async def key_twice(_: Path) -> str:
    return "the last one won" if hostile_json.parse(b'{"id": 1, "id": 2}') == {"id": 2} else ""


@against("nesting", replaced(hostile_json, "MAX_JSON_DEPTH", 10_000))
async def nesting(_: Path) -> str:
    tree, depth = hostile_json.parse(b"[" * 400 + b"]" * 400), 0
    while tree:
        tree, depth = tree[0], depth + 1
    return f"{depth} levels"


@against("parts", replaced(hostile_json, "MAX_JSON_NODES", 10**9))
async def parts(_: Path) -> str:
    return f"{len(hostile_json.parse(b'[' + b'0,' * 1_000_000 + b'0]'))} parts"


@against("digits", replaced(hostile_json, "MAX_DIGITS", 10**9))
async def digits(_: Path) -> str:
    return f"a number of {hostile_json.parse(b'9' * 4000).bit_length()} bits"


@against("surrogate", replaced(hostile_json, "_SURROGATE", re.compile("(?!)")))
async def surrogate(_: Path) -> str:
    text = hostile_json.parse(b'["\\ud800"]')[0]
    try:
        text.encode()
    except UnicodeEncodeError:
        return "whoever writes it to a socket fails"
    return ""


@against("surrogate-key", replaced(hostile_json, "_SURROGATE", re.compile("(?!)")))
async def surrogate_key(_: Path) -> str:
    return ascii(hostile_json.parse(b'{"\\ud800": 1}'))


class _Same:
    def __eq__(self, _: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


def without_second_look(patch: Patch) -> None:
    """What the quick reader read is taken, whatever it lost on the way."""

    class Quick:
        loads = staticmethod(orjson.loads)
        JSONDecodeError, JSONEncodeError = orjson.JSONDecodeError, orjson.JSONEncodeError

        @staticmethod
        def dumps(_: Any) -> _Same:
            return _Same()

    patch.setattr(
        hostile_json, "TAKEN", frozenset(FastPath)
    )  # it is that way's own check, whichever are taken
    patch.setattr(hostile_json, "orjson", Quick)


@against("key-twice-and-short", without_second_look)
async def key_twice_and_short(_: Path) -> str:
    return "the last one won" if hostile_json.parse(b'{"id":1,"id":2}') == {"id": 2} else ""


@against("digits-lost-and-short", without_second_look)
async def digits_lost(_: Path) -> str:
    (number,) = hostile_json.parse(b"[36893488147419103233]")
    return f"{number} for 36893488147419103233" if number != 36893488147419103233 else ""


# -- messages ------------------------------------------------------------------------------------------------------


def said(**more: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **more}).encode()


@against("host-method", replaced(wire, "WORKER_METHODS", {*wire.WORKER_METHODS, "tenant/list"}))
async def host_method(_: Path) -> str:
    return str(messages.parse_message(said(id=1, method="tenant/list", params={})))


@against("large-notification", replaced(wire, "MAX_NOTIFICATION", 2**40))
async def large_notification(_: Path) -> str:
    raw = said(method="log", params={"lines": ["x" * (wire.MAX_FRAME // 2)]})
    return f"{len(raw)} bytes of a request" if messages.parse_message(raw) else ""


@against("odd-id", replaced(messages.envelope, "_id", lambda tree: tree.get("id")))
async def odd_id(_: Path) -> str:
    return f"the id {messages.parse_message(said(id=[1], result=1)).id!r}"


@against(
    "other-form", replaced(messages.results, "checked", lambda model, data, _: model.model_construct(**data))
)
async def other_form(_: Path) -> str:
    result = {"slots": [["x", "y"]], "ui": "a text where an object belongs", "calls": None, "blocked": []}
    made = messages.executed(result, SandboxId("box"), max_values=10, max_expansion=10)
    return f"a result whose ui is {made.ui!r}"


@against("terminal-error", replaced(messages.failures, "safe_text", lambda text, *_, **__: text))
async def terminal_error(_: Path) -> str:
    data = {"type": "E", "message": "\x1b]0;owned\x07\x1b[2J", "traceback": [], "inputs": {}}
    error = messages.failure(messages.RemoteError(code=wire.NODE_RAISED, message="m", data=data), "pack")  # type: ignore[arg-type]
    return ascii(str(error)) if "\x1b" in str(error) else ""


@against("terminal-name", replaced(declarations, "flaw", lambda *_: None))
async def terminal_name(_: Path) -> str:
    node = {"name": "\x1b[2J", "input": {}, "output": [], "output_is_list": [], "output_name": []}
    found = declarations.flaw("\x1b[2J", node)
    return "" if found else "a node class whose name clears the terminal"


# -- the conversation ----------------------------------------------------------------------------------------------


class _Line:
    """A connection on which a worker says ``frames``, and which notes how much it was asked for at once."""

    def __init__(self, frames: bytes, *, ends: bool = True) -> None:
        self._data = io.BytesIO(frames)
        self._ends = ends
        self.largest = 0

    def take(self, count: int) -> None:
        """Nothing is there before it is waited for."""

    def on_arrival(self, look: Callable[[bytes], int]) -> None:
        """Nothing arrives: all is there."""

    async def read_exactly(self, count: int) -> bytes:
        self.largest = max(self.largest, count)
        piece = self._data.read(count)
        if len(piece) < count:
            if not self._ends:
                await anyio.sleep_forever()
            raise EndOfStreamError
        return piece

    async def write(self, _: bytes) -> None:
        """Read by nobody."""

    def write_at_once(self, _: bytes) -> bool:
        return True

    def close(self) -> None:
        """Nothing was open."""


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


async def conversation(line: _Line, serve: Any = None) -> peer.Peer:
    async def nobody(*_: Any) -> None:
        return None

    return peer.Peer(line, on_request=serve or nobody, on_notification=nobody)


async def _run(made: peer.Peer) -> None:
    try:
        await made.run()
    except EndOfStreamError:
        return


@against("oversize-frame", replaced(wire, "frame_length", lambda header, **_: int.from_bytes(header, "big")))
async def oversize(_: Path) -> str:
    line = _Line(b"\xff\xff\xff\xff")
    await _run(await conversation(line))
    return f"{line.largest} bytes were asked for" if line.largest > wire.MAX_FRAME else ""


_NEVER_ANSWERED = property(lambda _: False, lambda _, answered: None)


@against("second-answer", replaced(peer.PendingCall, "is_answered", _NEVER_ANSWERED))
async def second_answer(_: Path) -> str:
    made = await conversation(
        _Line(frame(said(id=1, result="true")) + frame(said(id=1, result="forged")), ends=False)
    )
    call = await made.start("hello", {})
    found = ""
    async with anyio.create_task_group() as group:

        async def converse() -> None:
            try:
                await made.run()
            except ProtocolViolationError:
                group.cancel_scope.cancel()

        group.start_soon(converse)
        found = await call.wait()
        group.cancel_scope.cancel()
    return f"the answer is {found!r}" if found == "forged" else ""


class _Forgetful(set[int]):
    def __contains__(self, _: object) -> bool:
        return False


@against("id-twice", lambda patch: patch.setattr(peer, "set", _Forgetful, raising=False))
async def id_twice(_: Path) -> str:
    served = []

    async def serve(*asked: Any) -> None:
        served.append(asked)
        await anyio.lowlevel.checkpoint()

    one = frame(said(id=7, method="shm/allocate", params={"bytes": 1}))
    await _run(await conversation(_Line(one + one), serve))
    return f"{len(served)} requests were served under one id" if len(served) > 1 else ""


@against("flood", replaced(peer.Allowance, "borrow", lambda *_: 0.0))
async def flood(_: Path) -> str:
    paused: list[float] = []

    async def note(seconds: float) -> None:
        paused.append(seconds)

    one = frame(said(method="log", params={}))
    made = await conversation(_Line(one * (4 * peer.FRAMES_PER_S)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peer.anyio, "sleep", note)
        await _run(made)
    return "" if sum(paused) > 1 else "four seconds' worth of frames were read at once"


# -- values --------------------------------------------------------------------------------------------------------

TENSOR = {"file": "0" * 32, "nbytes": 24, "dtype": "float32", "shape": [2, 3], "requires_grad": False}


def read(**changes: Any) -> values.Parsed:
    return values.Reader(SandboxId("box"), max_parts=100).read({wire.TAG_TENSOR: {**TENSOR, **changes}})


@against("absurd-tensor", replaced(values, "MAX_FILE_BYTES", 2**300))
async def absurd_tensor(_: Path) -> str:
    return f"a tensor of {read(shape=[2**62, 2**62], nbytes=2**126).nbytes} bytes"


@against("tensor-of-a-path", replaced(values, "_FILE", re.compile(".*")))
async def tensor_of_a_path(_: Path) -> str:
    return f"the files {list(read(file='../../in/other').files)}"


@against("deep-value", replaced(wire, "MAX_DEPTH", 10_000))
async def deep_value(_: Path) -> str:
    tree: Any = 1
    for _level in range(200):
        tree = [tree]
    return "200 levels" if values.Reader(SandboxId("box"), max_parts=10**6).read(tree) else ""


# -- outputs -------------------------------------------------------------------------------------------------------

A, B = SandboxId("a"), SandboxId("b")
ONE, TWO = TenantId("one"), TenantId("two")
SIZE = 8192


async def _store(root: Path, attack: Callable[[TensorStore], Awaitable[str]]) -> str:
    async with TensorStore(places(root)) as store:
        await store.register(A, ONE, quota=1 << 20, quota_name="a")
        await store.register(B, TWO, quota=1 << 20, quota_name="b")
        return await attack(store)


def _out(store: TensorStore, box: SandboxId, name: str) -> Path:
    return store._places.outbox(box) / name


def _kept(store: TensorStore, name: str) -> Path:
    return store._places.store / name


NO_EXTENT = replaced(shm, "check_extent", lambda *_: None)


@against("truncated-output", NO_EXTENT)
async def truncated(root: Path) -> str:
    async def attack(store: TensorStore) -> str:
        name = await store.allocate(A, SIZE)
        os.truncate(_out(store, A, name), 0)
        await store.adopt(A, [(name, SIZE)])
        return f"an object of {SIZE} bytes has {_kept(store, name).stat().st_size}"

    return await _store(root, attack)


@against("sparse-output", NO_EXTENT)
async def sparse(root: Path) -> str:
    async def attack(store: TensorStore) -> str:
        name = await store.allocate(A, SIZE)
        os.truncate(_out(store, A, name), 0)
        os.truncate(_out(store, A, name), SIZE)
        await store.adopt(A, [(name, SIZE)])
        return (
            f"an object of {SIZE} bytes has {_kept(store, name).stat().st_blocks} blocks: who reads it pays"
        )

    return await _store(root, attack)


@against("linked-output", NO_EXTENT)
async def linked(root: Path) -> str:
    async def attack(store: TensorStore) -> str:
        name = await store.allocate(A, SIZE)
        os.link(_out(store, A, name), _out(store, A, "another"))
        await store.adopt(A, [(name, SIZE)])
        return (
            f"an object has {_kept(store, name).stat().st_nlink} names"
            if _out(store, A, "another").exists()
            else ""
        )

    return await _store(root, attack)


async def _in_its_place(root: Path, put: Callable[[Path], None]) -> str:
    async def attack(store: TensorStore) -> str:
        name = await store.allocate(A, SIZE)
        path = _out(store, A, name)
        path.unlink()
        put(path)
        await store.adopt(A, [(name, SIZE)])
        mode = os.lstat(_kept(store, name)).st_mode
        return "" if stat.S_ISREG(mode) else f"an object of the mode {mode:o}"

    return await _store(root, attack)


@against("link-for-an-output", NO_EXTENT)
async def link_for_an_output(root: Path) -> str:
    return await _in_its_place(root, lambda path: path.symlink_to("/etc/passwd"))


@against("fifo-for-an-output", NO_EXTENT)
async def fifo_for_an_output(root: Path) -> str:
    return await _in_its_place(root, os.mkfifo)


@against("directory-for-an-output", NO_EXTENT)
async def directory_for_an_output(root: Path) -> str:
    return await _in_its_place(root, os.mkdir)


@against("kept-open-output", replaced(shm, "freeze", lambda _: True))
async def kept_open(root: Path) -> str:
    async def attack(store: TensorStore) -> str:
        name = await store.allocate(A, SIZE)
        writer = os.open(_out(store, A, name), os.O_RDWR)
        try:
            await store.adopt(A, [(name, SIZE)])
            os.pwrite(writer, b"changed", 0)
        finally:
            os.close(writer)
        is_changed = _kept(store, name).read_bytes().startswith(b"changed")
        return "an object changed after it was taken over" if is_changed else ""

    return await _store(root, attack)


@against("file-of-another", lambda patch: patch.setattr(Outboxes, "take", staticmethod(_anybodys)))
async def file_of_another(root: Path) -> str:
    async def attack(store: TensorStore) -> str:
        _BOXES[:] = store._held.boxes.values()
        name = await store.allocate(B, SIZE)
        store.discard(A, name)
        return "a tenant threw away another's file"

    return await _store(root, attack)


_BOXES: list[Any] = []


def _anybodys(_: Any, name: str) -> tuple[int, int]:
    return next(found for box in _BOXES if (found := box.files.pop(name, None)))


async def _no_quota(*_: Any) -> None:
    return


@against("memory-without-end", replaced(Room, "check", _no_quota))
async def memory_without_end(root: Path) -> str:
    async def attack(store: TensorStore) -> str:
        name = await store.allocate(A, 2 << 20)
        return f"{_out(store, A, name).stat().st_size} bytes of {1 << 20}"

    return await _store(root, attack)


# -- browsers, uploads, the proxy, the launcher --------------------------------------------------------------------


@against("prototype", replaced(errors, "_is_a_prototype", lambda *_: False))
async def prototype(_: Path) -> str:
    written = errors.dump_json({"__proto__": {"isAdmin": True}}).decode()
    return written if "isAdmin" in written else ""


@against("deep-for-the-page", replaced(errors, "_DEEPEST", 10_000))
async def deep_for_the_page(_: Path) -> str:
    tree: Any = 1
    for _level in range(290):
        tree = [tree]
    try:
        errors.dump_json(tree)
    except TypeError:
        return "nobody can read the history any more"
    return ""


def _archive(name: str) -> io.BytesIO:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
    raw.seek(0)
    return raw


@against("archive-outside", replaced(archives, "_parts", lambda name: name.split("/")))
async def archive_outside(root: Path) -> str:
    inside = root / "inside"
    inside.mkdir()
    archives.unpack(_archive("../outside"), inside, max_bytes=100, max_files=5)
    return "a file lies beside the directory" if (root / "outside").exists() else ""


class _World:
    """A name server of the attacker's, and every address."""

    async def resolve(self, _: str) -> list[str]:
        return ["93.184.216.34", "169.254.169.254"]

    async def connect(self, address: str, port: int) -> Any:
        return f"{address}:{port}"


@against("private-address", replaced(connect, "refusal", lambda _: None))
async def private_address(_: Path) -> str:
    world = _World()
    made, _address = await connect.reach(Target("a.com", 443), world, world, EgressLimits())
    return f"connected to {made}"


def _asked(source: str, environment: str | None = None) -> channel.Ensure:
    code = {"name": "blur", "source": source, "environment": environment}
    asked = {"session": "0" * 32, "verb": "ensure", "sandbox": "box", "tenant": "local", "extensions": [code],
             "policy_digest": "d", "group": None}  # fmt: skip
    made = channel.request(json.dumps(asked).encode())
    assert isinstance(made, channel.Ensure)
    return made


@against("code-outside", replaced(launcher_gate, "_is_child", lambda *_: True))
async def code_outside(_: Path) -> str:
    return f"{_GATE.sandbox(_asked('/etc')).extensions[0].source} is mounted as code"
