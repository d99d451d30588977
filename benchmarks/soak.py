"""Does a server hold more after a hundred thousand node calls, while sandboxes are killed at random?

A whole server, three clients that send prompts of many kinds one after another (trivial chains over two sandboxes,
tensors, live objects, nodes that fail, nodes that are interrupted), and somebody who kills a container every so often.
Each look is taken while nothing runs: what the server's processes hold (private memory, descriptors, threads), what of
it lies in /dev/shm and /run, how many containers there are. What is compared is the first look after the warm-up with
the last one; exit status 1 when something grew, or when a prompt ended otherwise than it should.

    python -m benchmarks.soak [--calls 100000] [--kills 400] [--results DIR] [--seed N]
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import httpx2
import psutil

from benchmarks.chain import chain, packs
from benchmarks.policy_files import WITHOUT_RATES, changed
from benchmarks.report import machine
from benchmarks.served import ROOT, SERVE, Served, server
from benchmarks.talking import HEADERS, Client, Prompt, RefusedError, add_packs
from sandbox.tensors.dead_outputs import OUTPUTS_KEPT_S

CLIENTS = 3
LOOKS = 20
PACK: Final = Path(__file__).resolve().parent / "soak_pack" / "__init__.py"


# -- prompts -------------------------------------------------------------------------------------------------------


def things(seed: int) -> Prompt:
    """A live object that stays in its sandbox."""
    return {
        "1": {"class_type": "SoakThing", "inputs": {"seed": seed}},
        "2": {"class_type": "SoakUse", "inputs": {"thing": ["1", 0]}},
    }


def tensors(seed: int) -> Prompt:
    """Tensors of 768 KiB, handed on."""
    prompt: Prompt = {"1": {"class_type": "SoakTensor", "inputs": {"seed": seed}}}
    for position in range(2, 8):
        inputs = {"seed": seed, "image": [str(position - 1), 0]}
        prompt[str(position)] = {"class_type": "SoakTensor", "inputs": inputs}
    prompt["end"] = {"class_type": "SoakLook", "inputs": {"image": ["7", 0]}}
    return prompt


def trivial(seed: int) -> Prompt:
    """Trivial nodes that alternate between two sandboxes."""
    return chain(50, seed, packs=2)


def fails(seed: int) -> Prompt:
    """A node that raises."""
    return {"1": {"class_type": "SoakFails", "inputs": {"seed": seed}}}


KINDS: Mapping[Callable[[int], Prompt], int] = {trivial: 12, tensors: 4, things: 3, fails: 1}
"""Prompts and how often they are sent."""


# -- looks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Look:
    """What a server holds at one moment."""

    calls: int
    seconds: float
    memory_mib: float
    descriptors: int
    threads: int
    processes: int
    containers: int
    shm_files: int
    shm_mib: float
    run_files: int


ALLOWED = {
    "memory_mib": 64.0,
    "descriptors": 24,
    "threads": 45,  # the pool of threads grows to as many as are wanted at once
    "processes": 1,
    "containers": 1,  # the built-in nodes' sandbox comes when somebody asks for it
    "shm_files": 1,
    "shm_mib": 0.5,
    "run_files": 4,
}
"""By how much each may differ: what caches and pools of a server at rest take; a leak per call or kill is far more."""


def leaks(before: Look, after: Look) -> list[str]:
    """What grew beyond that, in words."""
    found = []
    for name, allowed in ALLOWED.items():
        was, now = getattr(before, name), getattr(after, name)
        if now - was > allowed:
            found.append(f"{name} grew from {was:g} to {now:g} (at most {allowed:g} more is at rest)")
    return found


def look(served: Served, calls: int, began: float) -> Look:
    """Now; nothing should be running."""
    host = psutil.Process(served.pid)
    family = [host, *host.children(recursive=True)]
    shm = [path.stat() for path in Path(f"/dev/shm/ringfence-{served.instance}").rglob("*") if path.is_file()]
    return Look(
        calls=calls,
        seconds=round(time.monotonic() - began, 1),
        memory_mib=round(sum(process.memory_full_info().uss for process in family) / 2**20, 1),
        descriptors=sum(process.num_fds() for process in family),
        threads=sum(process.num_threads() for process in family),
        processes=len(family),
        containers=len(_containers(served)),
        shm_files=len(shm),
        shm_mib=round(sum(found.st_size for found in shm) / 2**20, 2),
        run_files=sum(1 for _ in Path(f"/run/ringfence-{served.instance}").rglob("*")),
    )


def _containers(served: Served) -> list[str]:
    listed = subprocess.run(
        ["docker", "ps", "-aq", "--filter", f"label=ringfence.instance={served.instance}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return listed.stdout.split()


# -- the run -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Outcome:
    """What a run found."""

    looks: list[Look] = field(default_factory=list)
    ended: Counter[str] = field(default_factory=Counter)
    """How prompts ended, by kind."""
    wrong: list[str] = field(default_factory=list)
    kills: int = 0

    @property
    def verdict(self) -> list[str]:
        """What is wrong; nothing when the run was good."""
        return [*self.wrong[:20], *leaks(self.looks[0], self.looks[-1])]


class Soak:
    """Three clients and somebody who kills."""

    def __init__(
        self, served: Served, *, calls: int, kills: int, seed: int, looks: int, kept_s: float
    ) -> None:
        self._served = served
        self._kept_s = kept_s
        self._calls = calls
        self._looks = looks
        self._random = random.Random(seed)
        self._kill_at = sorted(self._random.sample(range(calls // 10, calls), kills)) if kills else []
        self._clients = [Client(served) for _ in range(CLIENTS)]
        self._lock = threading.Lock()
        self._done = 0
        self._http = httpx2.Client(base_url=served.url, headers=HEADERS, timeout=120)
        self.outcome = Outcome()

    def run(self, say: Callable[[Look], None] = lambda _: None) -> Outcome:
        """The whole run: a tenth to warm up, then looks in between."""
        began = time.monotonic()
        stops = [
            self._calls // 10,
            *(
                self._calls // 10 + self._calls * 9 // 10 * n // self._looks
                for n in range(1, self._looks + 1)
            ),
        ]
        for stop in stops:
            threads = [
                threading.Thread(target=self._work, args=(client, stop), daemon=True)
                for client in self._clients
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self._settle()
            self.outcome.looks.append(look(self._served, self._done, began))
            say(self.outcome.looks[-1])
            if len(self.outcome.wrong) > 20:
                break
        for client in self._clients:
            client.close()
        self._http.close()
        return self.outcome

    def _work(self, client: Client, stop: int) -> None:
        while self._done < stop and len(self.outcome.wrong) <= 20:
            with self._lock:
                kind = self._random.choices(list(KINDS), list(KINDS.values()))[0]
                is_kill = bool(self._kill_at) and self._kill_at[0] <= self._done
                if is_kill:
                    self._kill_at.pop(0)
                interrupted = self._random.random() < 0.03
            if is_kill:
                self._kill()
            if interrupted:
                self._interrupt()
            self._one(client, kind)

    def _one(self, client: Client, kind: Callable[[int], Prompt]) -> None:
        prompt = kind(0)
        try:
            client.run(kind)
            ended = "succeeded"
        except RefusedError as error:
            ended = _how(str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the server did not end the prompt as it should
            ended = f"broke off ({type(error).__name__}: {error!s:.200})"
        with self._lock:
            self.outcome.ended[f"{kind.__name__}: {ended}"] += 1
            self._done += len(prompt)
            expected = {"raised"} if kind is fails else {"succeeded"}
            if ended not in expected | {"killed", "quarantined"}:
                self.outcome.wrong.append(f"a prompt of kind {kind.__name__} {ended}")

    def _kill(self) -> None:
        running = _containers(self._served)
        if running:
            victim = self._random.choice(running)
            subprocess.run(["docker", "kill", victim], capture_output=True, check=False, timeout=120)
            self.outcome.kills += 1

    def _interrupt(self) -> None:
        """A node that would run for ten minutes, which somebody thinks better of."""
        node = {"class_type": "SoakWaits", "inputs": {"seed": time.time_ns() % 2**31}}
        answer = self._http.post("/prompt", json={"prompt": {"1": node}})
        wanted = answer.json()["prompt_id"]
        deadline = time.monotonic() + 120
        while not self._http.get(f"/history/{wanted}").json():
            self._http.post("/queue", json={"delete": [wanted]})
            self._http.post("/interrupt", json={"prompt_id": wanted})
            if not any(
                entry[1] == wanted for part in self._http.get("/queue").json().values() for entry in part
            ):
                break
            if time.monotonic() > deadline:
                self.outcome.wrong.append("an interrupted prompt does not end")
                return
            time.sleep(0.02)
        self.outcome.ended["interrupted"] += 1

    def _settle(self) -> None:
        """Nothing runs, and what is only remembered is let go."""
        deadline = time.monotonic() + 120
        while self._http.get("/prompt").json()["exec_info"]["queue_remaining"]:
            if time.monotonic() > deadline:
                self.outcome.wrong.append("the queue does not empty")
                return
            time.sleep(0.05)
        for kind in (things, tensors, trivial):  # so that the same sandboxes run at each look
            self._one(self._clients[0], kind)
        self._http.post("/free", json={"unload_models": True, "free_memory": True})
        longest = 1.5 * self._kept_s + 1.0  # dead outputs wait before their memory is given back
        last, since = None, time.monotonic()
        while time.monotonic() < deadline:
            now = look(self._served, 0, 0.0)
            if last is None or now.shm_files != last.shm_files:
                since = time.monotonic()
            elif now.descriptors == last.descriptors and time.monotonic() - since > longest:
                return
            last = now
            time.sleep(0.2)


def _how(said: str) -> str:
    if "keeps dying" in said or "quarantine" in said:
        return "quarantined"
    if "SIGKILL" in said or "killed" in said or "ended" in said or "was stopped" in said:
        return "killed"
    if "ValueError" in said and "soak" in said:
        return "raised"
    return f"failed ({said:.300})"


def soak(
    folder: Path,
    *,
    calls: int,
    kills: int,
    seed: int,
    looks: int = LOOKS,
    kept_s: float = OUTPUTS_KEPT_S,
    say: Callable[[Look], None] = lambda _: None,
) -> Outcome:
    """One run on a server of its own, which keeps dead outputs for ``kept_s``: each look waits for their end."""
    data = folder / "data"
    data.mkdir()
    policies = changed(folder / "policies", WITHOUT_RATES)
    serve = f"from sandbox.tensors import dead_outputs; dead_outputs.OUTPUTS_KEPT_S = {kept_s}; {SERVE}"
    with server(data, {"RINGFENCE_POLICIES_DIR": str(policies)}, serve=serve) as served:
        add_packs(served.url, folder / "packs", {**packs(2), "soak": PACK.read_text(encoding="utf-8")})
        outcome = Soak(served, calls=calls, kills=kills, seed=seed, looks=looks, kept_s=kept_s).run(say)
    left = _containers(served)
    if left:
        outcome.wrong.append(f"{len(left)} containers outlive the server")
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--kills", type=int, help="containers killed (default: one in 250 calls)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**31)
    parser.add_argument("--results", type=Path, default=ROOT / "build/benchmarks")
    options = parser.parse_args()
    kills = options.calls // 250 if options.kills is None else options.kills
    names = list(Look.__dataclass_fields__)
    print(f"seed {options.seed}\n| {' | '.join(names)} |\n|{' --- |' * len(names)}", flush=True)

    def say(found: Look) -> None:
        print("| " + " | ".join(f"{value:,}" for value in asdict(found).values()) + " |", flush=True)

    with tempfile.TemporaryDirectory(prefix="ringfence-soak-") as folder:
        outcome = soak(Path(folder), calls=options.calls, kills=kills, seed=options.seed, say=say)
    body = {
        "machine": machine(),
        "seed": options.seed,
        "kills": outcome.kills,
        "ended": dict(outcome.ended),
        "wrong": outcome.verdict,
        "looks": [asdict(found) for found in outcome.looks],
    }
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "soak.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    print(f"{outcome.kills} sandboxes killed; prompts: {dict(outcome.ended)}")
    print("\n".join(outcome.verdict) or "nothing grew, and every prompt ended as it should")
    sys.exit(1 if outcome.verdict else 0)


if __name__ == "__main__":
    main()
