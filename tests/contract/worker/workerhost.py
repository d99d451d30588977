"""A tiny host for tests: starts a real worker as a child process and talks to it over either transport."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runtime import wire

ROOT = Path(__file__).resolve().parents[3]
PACKS = ROOT / "tests" / "extensions"
PATIENCE_S = 60.0


class WorkerError(Exception):
    """The worker answered a request with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.code: int = error["code"]
        self.data: Any = error.get("data")


class FileStore:
    """The host's side of /dev/shm: allocates, and turns what came out into something that may go in again."""

    def __init__(self, root: Path) -> None:
        self.inbox = root / "ringfence/in"
        self.outbox = root / "ringfence/out"
        self.inbox.mkdir(parents=True)
        self.outbox.mkdir(parents=True)
        self.limit = 1 << 40
        self.allocated: dict[str, int] = {}
        self.discarded: list[str] = []

    def allocate(self, nbytes: int) -> str:
        name = secrets.token_hex(16)
        with (self.outbox / name).open("wb") as file:
            file.truncate(nbytes)
        self.allocated[name] = nbytes
        return name

    def adopt(self, tree: Any) -> Any:
        """Move every file that a value names into the inbox; the value can then be sent as it is."""
        for name in file_names(tree):
            if name in self.allocated:
                size = (self.outbox / name).stat().st_size
                assert size == self.allocated.pop(name)
                os.rename(self.outbox / name, self.inbox / name)
                (self.inbox / name).chmod(0o444)
        for json_name in file_names(tree, tag=wire.TAG_JSON):
            self.adopt(json.loads((self.inbox / json_name).read_bytes()))
        return tree

    def put(self, data: bytes) -> str:
        name = secrets.token_hex(16)
        (self.inbox / name).write_bytes(data)
        return name


def file_names(tree: Any, *, tag: str | None = None) -> Iterator[str]:
    if isinstance(tree, list):
        for item in tree:
            yield from file_names(item, tag=tag)
    elif isinstance(tree, dict):
        for key, item in tree.items():
            named = isinstance(item, dict) and isinstance(item.get("file"), str) and key.startswith("$")
            if named and tag in (None, key):
                yield item["file"]
            yield from file_names(item, tag=tag)


class WorkerHost:
    """One worker and its session."""

    def __init__(self, root: Path, transport: str = "socket") -> None:
        self.root = root
        self.files = FileStore(root)
        self.messages: list[dict[str, Any]] = []
        self.state: dict[str, Any] = {}
        self.resources: dict[str, bytes] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._answers: dict[int, dict[str, Any]] = {}
        self._ids = itertools.count(1)
        self._calls = itertools.count(100)
        self._changed = threading.Condition()
        self.ended = False
        self._connection: socket.socket | None = None
        command = [sys.executable, "-m", "runtime", "--root", str(root), "--transport", transport]
        variables = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
        self._errors = (root / "own-stderr").open("wb")
        if transport == "socket":
            # A relative path: pytest's directories are longer than the 107 bytes that a socket's name may have.
            with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(root):
                listener.bind("s")
                listener.listen(1)
                command += ["--socket", os.path.relpath(root / "s", ROOT)]
                self.process = subprocess.Popen(
                    command, cwd=ROOT, env=variables, stdin=subprocess.DEVNULL, stderr=self._errors
                )
                listener.settimeout(PATIENCE_S)
                self._connection, _ = listener.accept()
            self._read_fd = self._write_fd = self._connection.fileno()
        else:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            self._read_fd, self._write_fd = self.process.stdout.fileno(), self.process.stdin.fileno()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    # -- talking --------------------------------------------------------------------------------------------------

    def send(self, message: dict[str, Any]) -> None:
        self.send_bytes(wire.encode_frame(message))

    def send_bytes(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._write_fd, view) :]

    def start(self, method: str, params: dict[str, Any]) -> int:
        number = next(self._ids)
        self.send({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        return number

    def result(self, number: int, timeout_s: float = PATIENCE_S) -> Any:
        with self._changed:
            assert self._changed.wait_for(lambda: number in self._answers or self.ended, timeout_s), (
                "no answer"
            )
            answer = self._answers.pop(number, None)
        if answer is None:
            raise EOFError("the worker is gone")
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer["result"]

    def call(self, method: str, params: dict[str, Any] | None = None, timeout_s: float = PATIENCE_S) -> Any:
        return self.result(self.start(method, params or {}), timeout_s)

    def notify(self, method: str, params: dict[str, Any]) -> None:
        self.send({"jsonrpc": "2.0", "method": method, "params": params})

    def hello(self) -> dict[str, Any]:
        answer = self.call(
            wire.HELLO, {"protocol": wire.PROTOCOL_VERSION, "sandbox": "s1", "out_limit": 1 << 30}
        )
        assert isinstance(answer, dict)
        return answer

    def load(self, pack: str, path: Path | None = None, *, core: bool = False) -> dict[str, Any]:
        place = path or PACKS / pack
        params = {"name": pack, "path": str(place), "module_name": f"custom_nodes.{place.stem}", "core": core}
        answer = self.call(wire.LOAD, params)
        assert isinstance(answer, dict)
        return answer

    def params(self, class_type: str, inputs: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """Call params; ``inputs`` maps names to one plain value, to ``Items`` (a list-mapped slot) or to None."""
        slots = {
            name: value.items if isinstance(value, Items) else None if value is None else [value]
            for name, value in (inputs or {}).items()
        }
        return {
            "call": next(self._calls),
            "prompt_id": "p1",
            "node_id": "7",
            "class_type": class_type,
            "instance": "7",
            "inputs": slots,
            "links": [],
            "hidden": {},
            "dynprompt": None,
            **more,
        }

    def execute(self, class_type: str, inputs: dict[str, Any] | None = None, **more: Any) -> Any:
        return self.call(wire.EXECUTE, self.params(class_type, inputs, **more))

    # -- listening ------------------------------------------------------------------------------------------------

    def wait_for(self, predicate: Callable[[], Any], timeout_s: float = PATIENCE_S) -> Any:
        """Wait until something that the worker said makes ``predicate`` true."""
        with self._changed:
            assert self._changed.wait_for(lambda: predicate() or self.ended, timeout_s), "it never happened"
        return predicate()

    def said(self, method: str) -> list[dict[str, Any]]:
        return [message["params"] for message in self.messages if message["method"] == method]

    def log(self, stream: str | None = None) -> str:
        return "".join(p["text"] for p in self.said(wire.LOG) if stream in (None, p["stream"]))

    def own_stderr(self) -> str:
        return (self.root / "own-stderr").read_text(errors="replace")

    def _read(self) -> None:
        try:
            while header := self._exactly(4):
                self._take(json.loads(self._exactly(wire.frame_length(header))))
        finally:
            with self._changed:
                self.ended = True
                self._changed.notify_all()

    def _take(self, message: dict[str, Any]) -> None:
        with self._changed:
            if "method" not in message:
                self._answers[message["id"]] = message
            elif "id" in message:
                self._serve(message)
            else:
                if message["method"] == wire.DISCARD:
                    self.files.discarded.append(message["params"]["file"])
                self.messages.append(message)
            self._changed.notify_all()

    def _serve(self, message: dict[str, Any]) -> None:
        reply: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"]}
        if message["method"] != wire.ALLOCATE:
            self.send(reply | self._kept(message["method"], message["params"]))
            return
        nbytes = message["params"]["bytes"]
        if nbytes > self.files.limit:
            data = {"limit": self.files.limit, "asked": nbytes, "used": 0}
            reply["error"] = {"code": wire.QUOTA_EXCEEDED, "message": "over the quota", "data": data}
        else:
            reply["result"] = {"file": self.files.allocate(nbytes)}
        self.send(reply)

    def _kept(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """One state for all nodes, and files of weights by path."""
        self.asked.append((method, params))
        if method == wire.STATE_GET:
            return {"result": {"values": dict(self.state)}}
        if method == wire.STATE_SET:
            self.state |= params["values"]
        elif method == wire.STATE_DELETE:
            for name in params["names"]:
                self.state.pop(name, None)
        else:
            data = self.resources.get(params["path"])
            if data is None:
                return {"error": {"code": wire.NOT_ALLOWED, "message": "the policy mounts nothing there"}}
            return {"result": {"file": self.files.put(data), "nbytes": len(data)}}
        return {"result": {}}

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                piece = os.read(self._read_fd, count - len(data))
            except OSError:
                return b""
            if not piece:
                return b""
            data += piece
        return data

    # -- the end --------------------------------------------------------------------------------------------------

    def hang_up(self) -> None:
        """Close the host's end; the reader then sees the worker go."""
        with contextlib.suppress(OSError):
            if self._connection is not None:
                self._connection.shutdown(socket.SHUT_WR)
            elif self.process.stdin is not None:
                self.process.stdin.close()

    def close(self) -> int:
        """End the worker if it still runs; its exit status."""
        if self.process.poll() is None:
            self.process.kill()
        status = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        for end in (self._connection, self.process.stdin, self.process.stdout):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.close()
        self._errors.close()
        return status


class Items:
    """The items of an upstream slot, encoded."""

    def __init__(self, *items: Any) -> None:
        self.items = list(items)
