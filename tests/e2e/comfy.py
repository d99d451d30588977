"""A ComfyUI client for tests: prompts over HTTP, their events over the WebSocket; every wait is bounded."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import httpx2
from websockets.sync.client import ClientConnection, connect

JSON = Any
Event = dict[str, JSON]
Prompt = dict[str, dict[str, JSON]]
T = TypeVar("T")
WAIT_S = 60.0


def node(class_type: str, **inputs: JSON) -> dict[str, JSON]:
    """One entry of a prompt."""
    return {"class_type": class_type, "inputs": inputs}


def until(said: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
    """Ask again until the answer is true; for what no event announces."""
    deadline = time.monotonic() + timeout_s
    while not (answer := said()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.05)
    return answer


class Events:
    """The events of one client id, in the order in which they came."""

    def __init__(self, socket: ClientConnection, client_id: str) -> None:
        self._socket = socket
        self.client_id = client_id
        self.seen: list[Event] = []

    def send(self, message: Event) -> None:
        """Say something to the server."""
        self._socket.send(json.dumps(message))

    def until(self, wanted: Callable[[Event], bool], timeout_s: float = WAIT_S) -> Event:
        """Read until an event is wanted, and return it; those before it are kept in ``seen``."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                frame = self._socket.recv(timeout=max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise AssertionError(
                    f"no such event within {timeout_s:g} s; there were {self.seen}"
                ) from None
            if isinstance(frame, bytes):
                self.seen.append({"type": "binary", "data": {"bytes": len(frame)}})
                continue
            event: Event = json.loads(frame)
            self.seen.append(event)
            if wanted(event):
                return event

    def so_far(self) -> list[Event]:
        """Read what the server sent before it answered a ping; returns all that came."""
        assert self._socket.ping().wait(WAIT_S), "no answer to a ping"
        try:
            while True:
                self.until(lambda event: False, timeout_s=0)
        except AssertionError:
            return self.seen

    def until_started(self, node_id: str, prompt_id: str) -> Event:
        """Read until a node of a prompt is called."""
        return self.until(lambda event: is_start_of(event, node_id, prompt_id))

    def until_progress(self, prompt_id: str) -> Event:
        """Read until a node reports progress: its code runs now."""
        return self.until(
            lambda event: event["type"] == "progress" and event["data"]["prompt_id"] == prompt_id
        )

    def until_ended(self, prompt_id: str, timeout_s: float = WAIT_S) -> Event:
        """Read until a prompt has ended."""
        return self.until(lambda event: is_end_of(event, prompt_id), timeout_s)


def is_start_of(event: Event, node_id: str, prompt_id: str) -> bool:
    """Whether an event says that a node is called."""
    data = event["data"]
    return bool(
        event["type"] == "executing" and data["node"] == node_id and data.get("prompt_id") == prompt_id
    )


def is_end_of(event: Event, prompt_id: str) -> bool:
    """Whether an event says that a prompt is over."""
    data = event["data"]
    return bool(event["type"] == "executing" and data["node"] is None and data.get("prompt_id") == prompt_id)


def used_up(status: int, answer: bytes) -> bool:
    """Whether a request came to nothing because the tenant's requests of this second are used up."""
    return status == 429 and b"'requests'" in answer


def once_allowed(ask: Callable[[], T], waits_s: Callable[[T], float | None]) -> T:
    """Ask again for as long as ``waits_s`` says how long to wait first; None: this is the answer."""
    deadline = time.monotonic() + WAIT_S
    while (wait_s := waits_s(answer := ask())) is not None and time.monotonic() < deadline:
        time.sleep(wait_s)
    return answer


class Polite(httpx2.HTTPTransport):
    """Waits, as it is told to, where a test asks so often that the tenant's requests of a second are used up."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        ask = super().handle_request
        return once_allowed(lambda: ask(request), self._waits_s)

    def _waits_s(self, answer: httpx2.Response) -> float | None:
        if answer.status_code != 429 or not used_up(429, answer.read()):
            return None
        return min(float(answer.headers["retry-after"]), 5.0)


class Comfy:
    """Talks to one server as ComfyUI's clients do."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = httpx2.Client(base_url=url, timeout=120, transport=Polite())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def get(self, path: str, **query: JSON) -> JSON:
        """The JSON that a path answers with 200."""
        answer = self.http.get(path, params=query)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[:500]}"
        return answer.json()

    def post(self, path: str, body: JSON) -> httpx2.Response:
        """Send JSON."""
        return self.http.post(path, json=body)

    def queue(self, prompt: Prompt, events: Events | None = None, **fields: JSON) -> str:
        """Queue a prompt; returns its id."""
        client = {"client_id": events.client_id} if events else {}
        answer = self.post("/prompt", {"prompt": prompt, **client, **fields})
        assert answer.status_code == 200, answer.text[:2000]
        return str(answer.json()["prompt_id"])

    def run(self, prompt: Prompt, timeout_s: float = WAIT_S, **fields: JSON) -> JSON:
        """Queue a prompt, wait for its end as clients do, and return its entry of the history."""
        with self.events() as events:
            prompt_id = self.queue(prompt, events, **fields)
            events.until_ended(prompt_id, timeout_s)
        return self.entry(prompt_id)

    def entry(self, prompt_id: str) -> JSON:
        """A finished prompt's entry of the history."""
        return self.get(f"/history/{prompt_id}")[prompt_id]

    def where(self, prompt_id: str) -> dict[str, Mapping[str, JSON]]:
        """Which extension and sandbox ran each node of a finished prompt."""
        nodes = self.get(f"/ringfence/v1/prompts/{prompt_id}")["nodes"]
        return {ran["node_id"]: ran for ran in nodes}

    def containers(self) -> dict[str, str]:
        """The container of each extension that has a sandbox now."""
        sandboxes = self.get("/ringfence/v1/sandboxes")["sandboxes"]
        return {name: box["container"] for box in sandboxes for name in box["extensions"]}

    def upload(self, name: str, data: bytes, **fields: str) -> httpx2.Response:
        """Upload an input."""
        return self.http.post("/upload/image", files={"image": (name, data)}, data=fields)

    @contextmanager
    def events(self, client_id: str | None = None) -> Iterator[Events]:
        """The events of a client id, a fresh one by default."""
        client_id = client_id or uuid.uuid4().hex
        address = f"{self.url.replace('http', 'ws', 1)}/ws?clientId={client_id}"
        with connect(address, max_size=None, proxy=None, compression=None) as socket:
            yield Events(socket, client_id)


def error_of(entry: JSON) -> dict[str, JSON]:
    """What a failed prompt's history says about its failure."""
    assert entry["status"]["status_str"] == "error", entry["status"]
    return dict(next(data for name, data in entry["status"]["messages"] if name == "execution_error"))


def succeeded(entry: JSON) -> JSON:
    """The outputs of a prompt that must have succeeded."""
    assert entry["status"]["status_str"] == "success", entry["status"]
    return entry["outputs"]
