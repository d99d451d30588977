"""Run every node that can be run without a model once, and tell its own complaints from what looks like ours.

    python tests/compat/smoke_nodes.py [--url URL] [--extension NAME]... [--class CLASS]... [--json FILE] [--timeout S]

Each node of the catalogue gets a prompt of its own: constants from its declaration (defaults, the first option of a
list, short texts), pictures, masks and latents from core nodes, values of a pack's own types from another node of the
same pack. A node with optional inputs runs twice, first without them and then with each that can be filled
("CLASS (all inputs)"). Its outputs go to PreviewAny, so that they also cross a border. What became of it is one of

    ok          it ran
    complaint   it raised an error of its own, as it may for made-up values
    crash       a programming error (TypeError, KeyError ...) in the pack's code; the pack's or ours
    SUSPICIOUS  the error names something that we stand in for, a wall, or the sandbox itself
    refused     validation refused the prompt
    slow        it did not end in time and was interrupted
    skipped     an input could not be filled (a model, a file that is not there)

Prints every line that is not ok or skipped, then a table; exit status 1 when one is SUSPICIOUS.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import httpx2
from PIL import Image

JSON = Any
PICTURE = "smoke.png"
DEPTH = 3  # of nodes that make values for a node
CORE: Mapping[str, tuple[str, dict[str, JSON], int]] = {
    "IMAGE": ("LoadImage", {"image": PICTURE}, 0),
    "MASK": ("LoadImage", {"image": PICTURE}, 1),
    "LATENT": ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}, 0),
    "*": ("PrimitiveString", {"value": "text"}, 0),
    "AUDIO": ("EmptyAudio", {"duration": 1.0, "sample_rate": 44100, "channels": 2}, 0),
}
CONSTANTS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "NUMBER"}
OUR_NAMES = re.compile(
    r"\b(comfy|comfy_extras|comfy_api|comfy_execution|folder_paths|node_helpers|latent_preview|PromptServer|"
    r"nodes|server|execution|model_management|cli_args|app)\b"
)
WALLS = re.compile(
    r"not provided|ringfence|Read-only|Permission denied|Operation not permitted|protocol|No space left|"
    r"cannot leave its sandbox|seccomp|pids cap|memory cap",
    re.IGNORECASE,
)
DEFECTS = {
    "AttributeError",
    "ImportError",
    "ModuleNotFoundError",
    "NotImplementedError",
    "PermissionError",
    "NameError",
}
CRASHES = {"TypeError", "KeyError", "IndexError", "UnboundLocalError", "RecursionError", "AssertionError"}


class UnfillableError(Exception):
    """An input has no value."""


@dataclass
class Outcome:
    """What became of one node."""

    extension: str
    class_type: str
    kind: str
    text: str = ""
    trace: Sequence[str] = ()


@dataclass
class Maker:
    """Makes prompts from a catalogue."""

    catalogue: Mapping[str, JSON]
    producers: dict[str, list[tuple[str, int]]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for class_type, info in self.catalogue.items():
            for slot, declared in enumerate(info["output"]):
                if isinstance(declared, str):
                    self.producers[declared].append((class_type, slot))

    def prompt(self, class_type: str, *, all_inputs: bool = False) -> dict[str, JSON]:
        """A prompt that runs one node. Raises: UnfillableError."""
        graph: dict[str, JSON] = {}
        target = self._node(class_type, graph, 0)
        if all_inputs:
            graph[target]["inputs"] |= self._optional(class_type, graph)
        graph["target"] = graph.pop(target)
        info = self.catalogue[class_type]
        if not info["output_node"]:
            if not info["output"]:
                raise UnfillableError("it has no output and is none")
            for slot in range(min(len(info["output"]), 4)):
                graph[f"show{slot}"] = {"class_type": "PreviewAny", "inputs": {"source": ["target", slot]}}
        return graph

    def _node(self, class_type: str, graph: dict[str, JSON], depth: int) -> str:
        info = self.catalogue[class_type]
        inputs = {
            name: self._value(name, declared, info, graph, depth)
            for name, declared in (info["input"].get("required") or {}).items()
        }
        node_id = f"n{len(graph)}"
        graph[node_id] = {"class_type": class_type, "inputs": inputs}
        return node_id

    def _optional(self, class_type: str, graph: dict[str, JSON]) -> dict[str, JSON]:
        """The optional inputs that can be filled; their nodes are added to the graph.

        Raises: UnfillableError: none can.
        """
        info = self.catalogue[class_type]
        found: dict[str, JSON] = {}
        for name, declared in (info["input"].get("optional") or {}).items():
            trial = dict(graph)
            try:
                found[name] = self._value(name, declared, info, trial, 0)
            except UnfillableError:
                continue
            graph.update(trial)
        if not found:
            raise UnfillableError("no optional input that can be filled")
        return found

    def _value(
        self, name: str, declared: JSON, info: Mapping[str, JSON], graph: dict[str, JSON], depth: int
    ) -> JSON:
        kind = declared[0] if isinstance(declared, list) else declared
        options = declared[1] if isinstance(declared, list) and len(declared) > 1 else {}
        options = options if isinstance(options, dict) else {}
        choices = kind if isinstance(kind, list) else options.get("options")
        if isinstance(choices, list):
            return self._choice(name, choices, options, info)
        if not isinstance(kind, str):
            raise UnfillableError(f"{name}: a declaration of {kind!r:.60}")
        kind = next(
            (part for part in kind.split(",") if part in CONSTANTS or part in CORE), kind.split(",")[0]
        )
        if kind in CONSTANTS:
            return _constant(kind, options)
        if kind in CORE and CORE[kind][0] in self.catalogue:
            core, values, slot = CORE[kind]
            graph.setdefault(f"core_{core}", {"class_type": core, "inputs": values})
            return [f"core_{core}", slot]
        return self._made(name, kind, info, graph, depth)

    def _choice(
        self, name: str, choices: Sequence[JSON], options: Mapping[str, JSON], info: Mapping[str, JSON]
    ) -> JSON:
        if not choices:
            raise UnfillableError(f"{name}: an empty list (no such file here)")
        if PICTURE in choices:
            return PICTURE
        default = options.get("default")
        if default in choices:
            return default
        first = choices[0]
        if isinstance(first, dict):
            raise UnfillableError(f"{name}: options with inputs of their own ({info['name']})")
        return first

    def _made(
        self, name: str, kind: str, info: Mapping[str, JSON], graph: dict[str, JSON], depth: int
    ) -> JSON:
        if depth >= DEPTH:
            raise UnfillableError(f"{name}: {kind} needs too many nodes")
        own = [made for made in self.producers[kind] if module(self.catalogue[made[0]]) == module(info)]
        others = [made for made in self.producers[kind] if module(self.catalogue[made[0]]) == "nodes"]
        for class_type, slot in (*own, *others):
            if class_type == info["name"]:
                continue
            trial = dict(graph)
            try:
                node_id = self._node(class_type, trial, depth + 1)
            except UnfillableError:
                continue
            graph.update(trial)
            return [node_id, slot]
        raise UnfillableError(f"{name}: nothing makes a {kind}")


def _constant(kind: str, options: Mapping[str, JSON]) -> JSON:
    if "default" in options and options["default"] is not None:
        return options["default"]
    if kind in ("INT", "FLOAT", "NUMBER"):
        return max(1, options.get("min") or 0)
    return False if kind == "BOOLEAN" else "text"


def module(info: Mapping[str, JSON]) -> str:
    """The extension of a node, ``nodes`` for core."""
    return str(info["python_module"]).removeprefix("custom_nodes.")


def judge(details: Mapping[str, JSON]) -> tuple[str, str]:
    """The kind of an ``execution_error`` and a line about it."""
    kind, message = str(details["exception_type"]), str(details["exception_message"]).strip()
    text = f"{kind}: {message}"[:600]
    name = kind.rpartition(".")[2]
    trace = "".join(details.get("traceback") or ())
    last = trace.strip().rpartition('File "')[2]
    if details["node_id"] != "target":
        crossing = str(details["node_id"]).startswith("show") and "sandbox" in message
        return ("ok", "") if crossing else ("complaint", f"node {details['node_id']}: {text}")
    if kind.startswith("ringfence.") or WALLS.search(message):
        return "SUSPICIOUS", text
    if name in DEFECTS and (OUR_NAMES.search(message) or name in ("PermissionError", "NotImplementedError")):
        return "SUSPICIOUS", text
    if re.match(r"[^\"]*/ringfence_runtime/", last):
        return "SUSPICIOUS", text
    return ("crash" if name in CRASHES | DEFECTS else "complaint"), text


class Smoke:
    """Runs prompts against one host."""

    def __init__(self, client: httpx2.Client, catalogue: Mapping[str, JSON], timeout: float) -> None:
        self._client = client
        self._maker = Maker(catalogue)
        self._catalogue = catalogue
        self._timeout = timeout

    def run(self, class_type: str) -> list[Outcome]:
        """One node: without its optional inputs, and with them."""
        outcomes = [self._run(class_type, all_inputs=False)]
        if self._catalogue[class_type]["input"].get("optional") and outcomes[0].kind != "skipped":
            outcomes.append(self._run(class_type, all_inputs=True))
        return outcomes

    def _run(self, class_type: str, *, all_inputs: bool) -> Outcome:
        extension = module(self._catalogue[class_type])
        name = f"{class_type} (all inputs)" if all_inputs else class_type
        try:
            graph = self._maker.prompt(class_type, all_inputs=all_inputs)
        except UnfillableError as error:
            return Outcome(extension, name, "skipped", str(error))
        try:
            return Outcome(extension, name, *self._outcome(graph))
        except (httpx2.HTTPError, KeyError, ValueError) as error:
            return Outcome(extension, name, "SUSPICIOUS", f"the API: {type(error).__name__}: {error}")

    def _outcome(self, graph: dict[str, JSON]) -> tuple[str, str, Sequence[str]]:
        answer = self._client.post("/prompt", json={"prompt": graph, "client_id": uuid.uuid4().hex})
        if answer.status_code != httpx2.codes.OK:
            said = answer.json()
            errors = [e for node in said.get("node_errors", {}).values() for e in node["errors"]]
            if errors and all(e["type"] == "live_object_crosses_sandboxes" for e in errors):
                return "skipped", "its outputs are live objects", ()
            lines = [f"{e['type']}: {e['details']}" for e in errors] or [str(said["error"])]
            ours = any("exception" in line and WALLS.search(line) for line in lines)
            return ("SUSPICIOUS" if ours else "refused"), "; ".join(lines)[:600], ()
        prompt_id = answer.json()["prompt_id"]
        entry = self._wait(prompt_id, self._timeout)
        if entry is None:
            self._client.post("/interrupt", json={"prompt_id": prompt_id})
            ended = self._wait(prompt_id, self._timeout)
            return "slow", "interrupted" if ended else "and it cannot be interrupted", ()
        for name, data in reversed(entry["status"]["messages"]):
            if name == "execution_error":
                return (*judge(data), data.get("traceback") or ())
        return "ok", "", ()

    def _wait(self, prompt_id: str, timeout: float) -> JSON:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            found = self._client.get(f"/history/{prompt_id}").json()
            if prompt_id in found:
                return found[prompt_id]
            time.sleep(0.05)
        return None


def upload(client: httpx2.Client) -> None:
    """A picture with an alpha channel, 64 x 48."""
    picture = Image.linear_gradient("L").resize((64, 48))
    picture = Image.merge(
        "RGBA", (picture, picture.rotate(180), picture, picture.rotate(90).resize((64, 48)))
    )
    data = io.BytesIO()
    picture.save(data, "PNG")
    client.post(
        "/upload/image", files={"image": (PICTURE, data.getvalue(), "image/png")}, data={"overwrite": "true"}
    ).raise_for_status()


def table(outcomes: Sequence[Outcome], say: Callable[[str], None]) -> None:
    """Counts by extension."""
    kinds = ("ok", "complaint", "crash", "SUSPICIOUS", "refused", "slow", "skipped")
    say(f"{'extension':40} " + " ".join(f"{kind:>10}" for kind in kinds))
    for extension in sorted({outcome.extension for outcome in outcomes}):
        counts = Counter(outcome.kind for outcome in outcomes if outcome.extension == extension)
        say(f"{extension:40} " + " ".join(f"{counts[kind]:>10}" for kind in kinds))


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8188")
    parser.add_argument("--extension", action="append", default=[])
    parser.add_argument("--class", action="append", default=[], dest="classes")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--timeout", type=float, default=30.0)
    options = parser.parse_args()
    with httpx2.Client(base_url=options.url, timeout=180) as client:
        upload(client)
        catalogue = client.get("/object_info").raise_for_status().json()
        chosen = [
            name
            for name, info in catalogue.items()
            if (not options.extension or module(info) in options.extension)
            and (not options.classes or name in options.classes)
        ]
        smoke = Smoke(client, catalogue, options.timeout)
        outcomes: list[Outcome] = []
        with ThreadPoolExecutor(3) as pool:
            for outcome in chain.from_iterable(pool.map(smoke.run, chosen)):
                outcomes.append(outcome)
                if outcome.kind not in ("ok", "skipped"):
                    print(
                        f"{outcome.kind:10} {outcome.extension} / {outcome.class_type}: {outcome.text}",
                        flush=True,
                    )
    if options.json:
        options.json.write_text(
            json.dumps([vars(outcome) for outcome in outcomes], indent=1), encoding="utf-8"
        )
    table(outcomes, print)
    return int(any(outcome.kind == "SUSPICIOUS" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
