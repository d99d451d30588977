"""What does a small prompt of one tenant cost while another floods, beside its quiet figure?

A whole server with two tenants. Tenant b sends small prompts one after another and waits for each over its WebSocket;
tenant a meanwhile floods, from a process of its own: prompts (of packs that fork until they are refused and burn CPU in
every process), uploads, WebSockets. The server has the shipped quotas; its tenants, too. Run as root, the server has
the weight beside sandboxes that compose.yaml gives it, and so has the first client; the flooding one has the least.

    python -m benchmarks.flood [--prompts N] [--rounds N] [--results DIR]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from benchmarks.cpu_split import look
from benchmarks.report import Report, machine
from benchmarks.served import OPERATOR, ROOT, SERVE, server
from benchmarks.weights import LEAST, SERVICE, Weighed

PACKS = Path(__file__).resolve().parent / "flood_packs"
WARM_UP = 5


def tenant(url: str, name: str, pack: str) -> str:
    """A new tenant with one pack; its token."""
    operator = {"Authorization": f"Bearer {OPERATOR}"}
    answer = httpx2.post(f"{url}/ringfence/v1/tenants", json={"name": name}, headers=operator)
    token: str = answer.json()["token"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RINGFENCE_URL": url, "RINGFENCE_TOKEN": token}
    command = [sys.executable, "-c", SERVE, "extension", "add", str(PACKS / pack)]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, cwd=ROOT, timeout=300)
    return token


@dataclass(slots=True)
class Samples:
    """What small prompts took: until their sender heard of the end, and of that within the server."""

    heard_ms: list[float] = field(default_factory=list)
    served_ms: list[float] = field(default_factory=list)

    def add(self, url: str, token: str, count: int, *, pause_s: float = 0.05) -> None:
        """Send ``count`` more, one after another."""
        headers = {"Authorization": f"Bearer {token}"}
        client = uuid.uuid4().hex
        with (
            httpx2.Client(base_url=url, headers=headers, timeout=120) as http,
            connect(
                f"{url.replace('http', 'ws')}/ws?clientId={client}", additional_headers=headers
            ) as events,
        ):
            for number in range(count + WARM_UP):
                node = {"class_type": "BenchSmall", "inputs": {"number": time.time_ns() % 2**31}}
                began = time.perf_counter()
                answer = http.post("/prompt", json={"prompt": {"1": node}, "client_id": client})
                answer.raise_for_status()
                wanted = answer.json()["prompt_id"]
                ended_ms: int = _wait_for(events, "execution_success", wanted)["timestamp"]
                taken = (time.perf_counter() - began) * 1000
                _wait_for(events, "executing", wanted, node=None)  # now the history has it
                if number >= WARM_UP:
                    self.heard_ms.append(taken)
                    entry = http.get(f"/history/{wanted}").json()[wanted]
                    self.served_ms.append(float(ended_ms - entry["prompt"][3]["create_time"]))
                time.sleep(pause_s)


def _wait_for(events: ClientConnection, kind: str, wanted: str, **fields: Any) -> dict[str, Any]:
    """The next message of this kind about this prompt."""
    while True:
        frame = events.recv(timeout=120)
        if isinstance(frame, bytes):
            continue
        event = json.loads(frame)
        if event["type"] == "execution_error":
            raise RuntimeError(event)
        data: dict[str, Any] = event["data"]
        about = {"prompt_id": wanted, **fields}
        if event["type"] == kind and all(data.get(key) == value for key, value in about.items()):
            return data


def flood(url: str, token: str) -> None:
    """Tenant a, until its process is ended."""
    headers = {"Authorization": f"Bearer {token}"}

    def again(work: Any) -> None:
        with httpx2.Client(base_url=url, headers=headers, timeout=60) as http:
            while True:
                try:
                    answer = work(http)
                    if answer.status_code in (413, 429, 503, 507):
                        time.sleep(0.02)  # far less than Retry-After asks for
                except (httpx2.HTTPError, OSError):
                    time.sleep(0.1)

    def prompt(http: httpx2.Client) -> httpx2.Response:
        number = time.time_ns()
        node = {
            "class_type": f"BenchBurner{number % 4}",
            "inputs": {"seconds": 2.0, "number": number % 2**31},
        }
        return http.post("/prompt", json={"prompt": {"1": node}})

    def upload(http: httpx2.Client) -> httpx2.Response:
        return http.post(
            "/upload/image", files={"image": ("a.bin", os.urandom(1 << 20))}, data={"overwrite": "true"}
        )

    def look(http: httpx2.Client) -> httpx2.Response:
        return http.get("/history")

    def hear() -> None:
        while True:
            try:
                with connect(f"{url.replace('http', 'ws')}/ws", additional_headers=headers) as events:
                    while True:
                        events.recv()
            except (OSError, WebSocketException):  # closed, refused: again
                time.sleep(0.2)

    for work in (prompt, prompt, upload, upload, look):
        threading.Thread(target=again, args=(work,), daemon=True).start()
    for _ in range(70):
        threading.Thread(target=hear, daemon=True).start()
    threading.Event().wait()


def measure(folder: Path, *, prompts: int, rounds: int) -> tuple[Report, dict[str, float]]:
    """Quiet and flooded by turns, so that what else the machine does meanwhile falls on both alike."""
    report = Report("A small prompt of one tenant while another floods")
    quiet, busy = Samples(), Samples()
    used: dict[str, float] = {}
    with (
        Weighed("services", SERVICE, beside_containers=True) as services,
        Weighed("client", SERVICE) as client,
        Weighed("flooder", LEAST) as last,  # it would run on a machine of its own
        server(folder, weight=services) as served,
    ):
        client.take(os.getpid())
        url = served.url
        b, a = tenant(url, "b", "small"), tenant(url, "a", "burner")
        for _ in range(rounds):
            quiet.add(url, b, prompts // rounds)
            with flooding(url, a, last) as flooder:
                time.sleep(8)  # until its sandboxes run
                processes = {
                    "server": served.pid,
                    "flooding client": flooder,
                    "measuring client": os.getpid(),
                }
                before = look(processes, served.instance)
                busy.add(url, b, prompts // rounds)
                for who, seconds in look(processes, served.instance).since(before).items():
                    used[who] = used.get(who, 0.0) + seconds
            _let_settle(url, a)
    report.add("quiet", quiet.heard_ms)
    report.add("while the other tenant floods", busy.heard_ms, floor="quiet")
    report.add("quiet: within the server", quiet.served_ms)
    report.add("flooded: within the server", busy.served_ms, floor="quiet: within the server")
    return report, used


@contextlib.contextmanager
def flooding(url: str, token: str, weight: Weighed | None = None) -> Iterator[int]:
    """A process that floods as this tenant; its pid."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.flood", "--flood", url],
        cwd=ROOT,
        env={**os.environ, "FLOOD_TOKEN": token},
    )
    if weight is not None:
        weight.take(process.pid)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def _let_settle(url: str, token: str) -> None:
    """Until nothing of the flood is left."""
    headers = {"Authorization": f"Bearer {token}"}
    with httpx2.Client(base_url=url, headers=headers, timeout=60) as http:
        for _ in range(600):
            http.post("/queue", json={"clear": True})
            http.post("/interrupt")
            answer = http.get("/prompt")
            if answer.status_code == 200 and answer.json()["exec_info"]["queue_remaining"] == 0:
                break
            time.sleep(0.2)
    time.sleep(3)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flood", description=__doc__)
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--flood", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=ROOT / "build/benchmarks")
    options = parser.parse_args()
    if options.flood:
        flood(options.flood, os.environ["FLOOD_TOKEN"])
    with tempfile.TemporaryDirectory(prefix="ringfence-flood-") as folder:
        report, used = measure(Path(folder), prompts=options.prompts, rounds=options.rounds)
    report.save(options.results, "flood")
    quiet, busy, quiet_inside, busy_inside = report.rows
    print("; ".join(f"{key} {value}" for key, value in machine().items()))
    print(report.table())
    print(
        f"p99 ratio: {busy.p99 / quiet.p99:.2f}; within the server: {busy_inside.p99 / quiet_inside.p99:.2f}"
    )
    print("CPU seconds during the flood:", "; ".join(f"{who} {seconds:.1f}" for who, seconds in used.items()))


if __name__ == "__main__":
    main()
