"""Note what a running ComfyUI makes of the prompts of ``semantics.py``; or compare a running Ringfence with the notes.

    python tests/compat/comfyui_semantics.py http://127.0.0.1:8188 --note     (a ComfyUI with the pack in custom_nodes)
    python tests/compat/comfyui_semantics.py http://127.0.0.1:8188            (a Ringfence with the pack added)

The pack is ``tests/extensions/semantics``. Only behaviour is noted (what ran, what came out, which errors with which
fields), no texts. Between cases a prompt of one output empties the cache. Needs websocket-client.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import websocket  # type: ignore[import-not-found]

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.compat.semantics import CASES, DIFFERENCES, EITHER, nodes
from tests.compat.semantics_notes import NOTES, ended, plain, refused

JSON = Any
SKIPPED = ("status", "progress_state", "feature_flags")


class Client:
    """One client of a ComfyUI API."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.id = uuid.uuid4().hex
        self.socket = websocket.WebSocket()
        self.socket.connect(f"{url.replace('http', 'ws', 1)}/ws?clientId={self.id}")
        self.socket.settimeout(60)

    def run(self, prompt: JSON, **fields: JSON) -> JSON:
        """What became of a prompt, in the form of the notes."""
        body = json.dumps({"prompt": prompt, "client_id": self.id, **fields}).encode()
        request = urllib.request.Request(f"{self.url}/prompt", data=body)
        try:
            answer = json.load(urllib.request.urlopen(request))
        except urllib.error.HTTPError as error:
            if error.code != 400:
                return {"refused": error.code}
            refusal = json.load(error)
            return refused(refusal["error"], refusal["node_errors"])
        prompt_id = answer["prompt_id"]
        said = []
        while not said or said[-1][0] != "executing" or said[-1][1]["node"] is not None:
            text = self.socket.recv()
            message = json.loads(text) if isinstance(text, str) else {"type": "status"}
            if message["type"] not in SKIPPED and message["data"].get("prompt_id") == prompt_id:
                said.append((message["type"], message["data"]))
        with urllib.request.urlopen(f"{self.url}/history/{prompt_id}") as reply:
            entry = json.load(reply)[prompt_id]
        return ended(answer["node_errors"], said, entry)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("--note", action="store_true", help="write the notes instead of comparing")
    options = parser.parse_args()
    client = Client(options.url)
    found: dict[str, JSON] = {}
    for name, prompts in CASES.items():
        client.run(nodes(reset=("Out", {"x": uuid.uuid4().hex})))
        found[name] = [plain(client.run(prompt, **fields)) for prompt, fields in prompts]
    if options.note:
        lines = [f"{json.dumps(name)}: {json.dumps(case, sort_keys=True)}" for name, case in found.items()]
        NOTES.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        return 0
    notes = json.loads(NOTES.read_text(encoding="utf-8"))
    wrong = [name for name in CASES if found[name] != notes[name] and name not in {**DIFFERENCES, **EITHER}]
    for name in wrong:
        print(f"{name}\n  noted {json.dumps(notes[name])}\n  found {json.dumps(found[name])}")
    print(f"{len(CASES) - len(wrong)} as noted or listed as different, {len(wrong)} not")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
