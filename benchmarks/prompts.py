"""How many prompts of three nodes go through a server in a second, from one client and from eight at a time?

Ours has its durable queue on, as always: a prompt is on the disk before it is answered. Each client is a thread that
sends its prompts over one connection and hears of their ends over one WebSocket; the clients are one process for all
servers, so what they cost is in all figures. The floor is a server that does no more than it must (``bare_server.py``),
also without its disk and without its nodes, so that the price of each part is seen. A sample is the time of a round by
its prompts: milliseconds a prompt.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from websockets.sync.client import ClientConnection

from benchmarks.chain import chain, packs
from benchmarks.peers import bare
from benchmarks.peers.servers import ComfyUI
from benchmarks.policy_files import WITHOUT_RATES, changed, isolated_by
from benchmarks.report import Report
from benchmarks.served import Served, server
from benchmarks.talking import HEADERS, Client, RefusedError, add_packs, listening

ROUNDS = {1: 15, 8: 5}
"""By clients. Of one more: it is near its aim, and a machine's speed changes from round to round."""
PARTS = {
    "floor, HTTP and frames": {"commits": False, "echoes": False},
    "floor, and the disk": {"commits": True, "echoes": False},
    "floor, and a socket echo a node": {"commits": True, "echoes": True},
}
"""Each with one part more than the one before."""


def measure(folder: Path, *, quick: bool, isolation: str = "runc", comfyui: ComfyUI | None = None) -> Report:
    prompts, rounds = (80, dict.fromkeys(ROUNDS, 2)) if quick else (400, ROUNDS)
    report = Report(f"Prompts of three nodes, the durable queue on, {isolation}")
    with ExitStack() as stack:
        servers: dict[str, Served] = {}
        if comfyui is not None:
            (folder / "comfyui").mkdir()
            servers["ComfyUI"] = stack.enter_context(comfyui.server(folder / "comfyui", packs(1)))
        (folder / "data").mkdir()
        policies = changed(folder / "policies", {**isolated_by(isolation), **WITHOUT_RATES})
        more = {"RINGFENCE_POLICIES_DIR": str(policies)}
        served = servers["ours"] = stack.enter_context(server(folder / "data", more))
        add_packs(served.url, folder / "packs", packs(1))
        least = stack.enter_context(bare.server(folder / "bare"))
        _measure(report, servers, least, prompts, rounds)
    for clients in ROUNDS:
        report.aim(name("ours", clients), name("ComfyUI", clients), 1.0)
    return report


def name(who: str, clients: int) -> str:
    """What a row is called."""
    return f"{who}, {clients} client{'s' if clients > 1 else ''}: a prompt"


def _measure(
    report: Report, servers: Mapping[str, Served], least: Served, prompts: int, rounds: Mapping[int, int]
) -> None:
    for served in servers.values():
        _round(served, 1, 20)
    heard = Client(servers["ours"])
    heard.run(partial(chain, 3))
    frames = {3: (heard.frames, heard.frame_bytes)}
    report.notes.append(f"a client hears {heard.frames} frames of {heard.frame_bytes:,} bytes of each prompt")
    for clients in ROUNDS:
        samples: dict[str, list[float]] = {who: [] for who in (*servers, *PARTS)}
        for _ in range(rounds[clients]):  # by turns, so that what else the machine does falls on all
            for who, served in servers.items():
                samples[who].append(_round(served, clients, prompts))
            for who, parts in PARTS.items():
                bare.plan(least, frames, **parts)
                samples[who].append(_round(least, clients, prompts))
        for who, found in samples.items():
            report.add(name(who, clients), found)
            rate = 1000 / report.rows[-1].p50
            report.notes.append(
                f"{name(who, clients).removesuffix(': a prompt')}: {rate:.0f} prompts a second"
            )


def _round(served: Served, clients: int, prompts: int) -> float:
    """ms a prompt: ``prompts`` in all, from the first that is sent until the last has succeeded."""
    each = prompts // clients
    failures: list[BaseException] = []
    ready = threading.Barrier(clients + 1)
    seed = time.time_ns() % 2**31

    def work(number: int) -> None:
        try:
            _send(served, ready, each, seed + number * 100_000)
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits
            failures.append(error)
            ready.abort()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        ready.wait(60)
        began = time.perf_counter()
        for thread in threads:
            thread.join(600)
    except threading.BrokenBarrierError:
        pass
    if failures:
        raise failures[0]
    return (time.perf_counter() - began) * 1000 / (each * clients)


def _send(served: Served, ready: threading.Barrier, count: int, seed: int) -> None:
    client, place = uuid.uuid4().hex, urlsplit(served.url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=120)
    headers = {**HEADERS, "Content-Type": "application/json"}
    with listening(served.url, client) as events:
        listener = _Listener(events, count)
        listener.start()
        ready.wait(60)
        for number in range(count):
            body = json.dumps({"prompt": chain(3, seed + number), "client_id": client})
            connection.request("POST", "/prompt", body, headers)
            answer = connection.getresponse()
            said = answer.read()
            if answer.status != 200:
                raise RefusedError(f"{answer.status}: {said[:300]!r}")
        listener.join(300)
        if listener.left:
            raise RefusedError(f"{listener.left} of {count} prompts did not end: {listener.failure}")
    connection.close()


class _Listener(threading.Thread):
    """Counts the prompts that succeeded."""

    def __init__(self, events: ClientConnection, count: int) -> None:
        super().__init__(daemon=True)
        self._events = events
        self.left = count
        self.failure: object = None

    def run(self) -> None:
        try:
            while self.left:
                frame = self._events.recv(timeout=300)
                if isinstance(frame, str) and '"execution_' in frame[:24]:
                    if '"execution_success"' in frame[:40]:
                        self.left -= 1
                    elif '"execution_error"' in frame[:40]:
                        raise RefusedError(frame[:500])
        except Exception as error:  # noqa: BLE001 - said by whoever waits
            self.failure = error
