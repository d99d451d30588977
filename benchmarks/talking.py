"""A client that sends prompts to a server, ours or ComfyUI's, and hears of their end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx2
from websockets.sync.client import ClientConnection, connect

from benchmarks.served import OPERATOR, ROOT, SERVE, Served

HEADERS = {"Authorization": f"Bearer {OPERATOR}"}
"""ComfyUI takes no notice of it."""
Prompt = dict[str, Any]


class RefusedError(Exception):
    """The server does not run this prompt."""


class Client:
    """Sends prompts one after another and listens."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._http = httpx2.Client(base_url=served.url, headers=HEADERS, timeout=600)
        self._seed = time.time_ns() % 2**31
        self.frames = self.frame_bytes = 0
        """What it was sent for the prompt that ran last."""

    def close(self) -> None:
        """Let go of its connection."""
        self._http.close()

    def run(self, make: Callable[[int], Prompt]) -> tuple[float, float]:
        """One prompt, made of a new number: ms until its end is heard, and the server process's own CPU ms.

        Raises:
            RefusedError: it was refused, or failed.
        """
        self._seed += 1
        prompt, client = make(self._seed), uuid.uuid4().hex
        with listening(self._served.url, client) as events:
            body = json.dumps({"prompt": prompt, "client_id": client}).encode()
            cpu, began = _cpu_s(self._served.pid), time.perf_counter()
            answer = self._http.post("/prompt", content=body, headers={"Content-Type": "application/json"})
            if answer.status_code != 200:
                raise RefusedError(f"{answer.status_code}: {answer.text:.120}")
            self.frames, self.frame_bytes = until_success(events, answer.json()["prompt_id"])
            return (time.perf_counter() - began) * 1000, (_cpu_s(self._served.pid) - cpu) * 1000

    def runs(self, make: Callable[[int], Prompt], count: int) -> tuple[list[float], list[float]]:
        """``count`` prompts; the figures of each."""
        pairs = [self.run(make) for _ in range(count)]
        return [wall for wall, _ in pairs], [cpu for _, cpu in pairs]


def listening(url: str, client: str) -> ClientConnection:
    """A WebSocket as this client."""
    address = f"{url.replace('http', 'ws')}/ws?clientId={client}"
    return connect(address, additional_headers=HEADERS, max_size=None, open_timeout=60)


def until_success(events: ClientConnection, prompt_id: str) -> tuple[int, int]:
    """Wait for the prompt's end; how many frames of how many bytes came meanwhile."""
    frames = size = 0
    while True:
        frame = events.recv(timeout=600)
        frames, size = frames + 1, size + len(frame)
        # Nearly all frames are of no interest, and reading them would be the client's time, not the server's.
        if not isinstance(frame, str) or '"execution_' not in frame[:24]:
            continue
        event = json.loads(frame)
        if event["data"].get("prompt_id") != prompt_id:
            continue  # of a prompt without a client, which everybody hears of
        if event["type"] in ("execution_error", "execution_interrupted"):
            raise RefusedError(f"it failed: {str(event['data'])[:500]}")
        if event["type"] == "execution_success":
            return frames, size


def add_packs(url: str, folder: Path, packs: Mapping[str, str]) -> None:
    """Give a server of ours these packs (name to code)."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RINGFENCE_URL": url, "RINGFENCE_TOKEN": OPERATOR}
    for name, code in packs.items():
        pack = folder / name
        pack.mkdir(parents=True)
        (pack / "__init__.py").write_text(code, encoding="utf-8")
        command = [sys.executable, "-c", SERVE, "extension", "add", str(pack)]
        done = subprocess.run(
            command, env=environment, check=False, capture_output=True, text=True, cwd=ROOT, timeout=300
        )
        if done.returncode:
            raise RuntimeError(done.stderr)


def _cpu_s(pid: int) -> float:
    # The kernel's clock of another process's CPU time, as clock_getcpuclockid(3) names it: exact to the nanosecond.
    return time.clock_gettime((~pid << 3) | 2)
