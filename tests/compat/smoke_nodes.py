"""Run every node that can be run without a model once, and tell its own complaints from what looks like ours.

    python tests/compat/smoke_nodes.py [--url URL] [--extension NAME]... [--class CLASS]... [--json FILE] [--timeout S]

Each node of the catalogue gets a prompt of its own: constants from its declaration (defaults, the first option of a
list, short texts), pictures, masks and latents from core nodes, values of a pack's own types from another node of the
same pack. Its outputs go to PreviewAny, so that they also cross a border. What became of it is one of

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
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from PIL import Image

from engine import trial_prompts
from engine.trial_prompts import Made, Maker, UnfillableError, module

JSON = Any
PICTURE = "smoke.png"
# Pictures are files here, so that the nodes which load them run too.
SOURCES: Mapping[str, Made] = {
    **trial_prompts.SOURCES,
    "IMAGE": Made("LoadImage", {"image": PICTURE}, 0),
    "MASK": Made("LoadImage", {"image": PICTURE}, 1),
}
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


@dataclass
class Outcome:
    """What became of one node."""

    extension: str
    class_type: str
    kind: str
    text: str = ""
    trace: Sequence[str] = ()


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
        self._maker = Maker(catalogue, SOURCES, favourite=PICTURE)
        self._catalogue = catalogue
        self._timeout = timeout

    def run(self, class_type: str) -> Outcome:
        """One node."""
        extension = module(self._catalogue[class_type])
        try:
            graph = self._maker.prompt(class_type)
        except UnfillableError as error:
            return Outcome(extension, class_type, "skipped", str(error))
        try:
            return Outcome(extension, class_type, *self._outcome(graph))
        except (httpx2.HTTPError, KeyError, ValueError) as error:
            return Outcome(extension, class_type, "SUSPICIOUS", f"the API: {type(error).__name__}: {error}")

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
            for outcome in pool.map(smoke.run, chosen):
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
