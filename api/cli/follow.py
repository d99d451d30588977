"""Following one prompt over the WebSocket, with a bar per node on stderr (plain lines when that is no terminal)."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from api.cli.client import Server, failure_of, unreachable
from api.cli.failure import Failure, Status
from api.cli.promptfile import node_label
from api.cli.screen import note, shown

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from websockets.sync.client import ClientConnection

_FRAME_LIMIT = 64 * 1024 * 1024
_SILENCE_S = 20.0
_RETRIES = 30


class Display(Protocol):
    """Shows how a prompt's nodes get on."""

    def node(self, label: str, done: tuple[float, float], state: str) -> None: ...
    def cached(self, count: int) -> None: ...
    def waiting(self, remaining: int) -> None: ...


class Follower:
    """Connects first, so that no event of the prompt is missed; then ``until_ended``."""

    def __init__(self, server: Server, client_id: str) -> None:
        self._server = server
        self._client_id = client_id
        self._socket: ClientConnection | None = None

    def connect(self) -> None:
        """Open the event stream.

        Raises:
            Failure: no server, or it refuses us.
        """
        from websockets.exceptions import InvalidHandshake, InvalidStatus
        from websockets.sync.client import connect

        try:
            self._socket = connect(
                f"{self._server.websocket_url}?clientId={self._client_id}",
                additional_headers=self._server.headers(),
                max_size=_FRAME_LIMIT,
                open_timeout=15,
                proxy=None,
                compression=None,
            )
        except InvalidStatus as error:
            raise failure_of(error.response.status_code, bytes(error.response.body or b"")) from None
        except (OSError, InvalidHandshake, TimeoutError) as error:
            raise unreachable(self._server.url, error) from None

    def close(self) -> None:
        """Close the stream."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def until_ended(self, prompt_id: str, body: dict[str, Any], display: Display) -> None:
        """Show progress until the prompt has ended, through reconnects and a restart of the server.

        Raises:
            Failure: the server stays away, or does not know the prompt any more.
        """
        for message in self._messages(prompt_id):
            data = message.get("data")
            if not isinstance(data, dict):
                continue
            kind = message.get("type")
            if kind == "status":
                display.waiting(int(data.get("status", {}).get("exec_info", {}).get("queue_remaining", 0)))
            if data.get("prompt_id") != prompt_id:
                continue
            if kind == "executing" and data.get("node") is None:
                return
            if kind == "execution_cached":
                display.cached(len(data.get("nodes", [])))
            elif kind == "progress_state":
                for node_id, node in data.get("nodes", {}).items():
                    label = node_label(body, str(node.get("display_node_id", node_id)))
                    done = (float(node.get("value", 0)), float(node.get("max", 1)))
                    display.node(label, done, str(node.get("state")))

    def _messages(self, prompt_id: str) -> Iterator[dict[str, Any]]:
        from websockets.exceptions import ConnectionClosed

        failures = 0
        while True:
            try:
                if self._socket is None:
                    self.connect()
                assert self._socket is not None  # noqa: S101 - connect sets it or raises
                frame = self._socket.recv(timeout=_SILENCE_S)
                failures = 0
            except TimeoutError:
                # Silence is normal for a long node; but an event may have been missed while we were away.
                if self._has_ended(prompt_id):
                    return
                continue
            except ConnectionClosed:
                self._socket = None
                note("the connection was lost; connecting again")
                continue
            except Failure as failure:
                failures += 1
                if failure.status is not Status.UNREACHABLE or failures > _RETRIES:
                    raise
                time.sleep(1)
                continue
            if failures == 0 and isinstance(frame, str):
                message = json.loads(frame)
                # The first frame of a connection: if the end fell into the gap, nobody will tell us again.
                is_first = message.get("type") == "status" and "sid" in message.get("data", {})
                if is_first and self._has_ended(prompt_id):
                    return
                yield message

    def _has_ended(self, prompt_id: str) -> bool:
        answer = self._server.call("GET", f"/ringfence/v1/prompts/{prompt_id}", allow=(404,))
        if "error" in answer and "state" not in answer:
            raise Failure(
                Status.FAILED, "the server does not know this prompt any more", "it may have been removed"
            )
        return answer["state"] not in ("pending", "running")


class PlainDisplay:
    """A line per node when it starts and ends."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def node(self, label: str, _done: tuple[float, float], state: str) -> None:
        """Say a state once."""
        if self._said.get(label) != state:
            self._said[label] = state
            note(f"{label}: {state}")

    def cached(self, count: int) -> None:
        """Say what need not run."""
        if count:
            note(f"{count} nodes are cached")

    def waiting(self, remaining: int) -> None:
        """Say nothing: a queue's length is no news in a log."""


class BarDisplay:
    """A live bar per node."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def node(self, label: str, done: tuple[float, float], state: str) -> None:
        """Move the node's bar."""
        from rich.markup import escape

        value, maximum = done
        total = maximum if maximum > 0 else 1.0
        if label not in self._tasks:
            self._tasks[label] = self._progress.add_task(escape(shown(label, 32)), total=total, state="")
        self._progress.update(
            self._tasks[label], completed=min(value, total), total=total, state=shown(state, 12)
        )

    def cached(self, count: int) -> None:
        """A line above the bars."""
        if count:
            self._progress.console.print(f"{count} nodes are cached", highlight=False)

    def waiting(self, remaining: int) -> None:
        """The bars say enough."""


@contextmanager
def display() -> Iterator[Display]:
    """Bars on a terminal, lines elsewhere; always on stderr, so that stdout is the answer alone."""
    if not sys.stderr.isatty():
        yield PlainDisplay()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", table_column=None),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield BarDisplay(progress)
