"""What does ``/object_info`` cost with 3,000 nodes: written anew, from memory, compressed, and when the client has it?

Six packs of 500 nodes whose sandboxes run. A sample is a whole request over a kept connection. *Asked anew*: a file was
added, so that every pack is asked and the answer written again.
"""

from __future__ import annotations

import http.client
import os
import time
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.policy_files import changed, isolated_by
from benchmarks.report import Report
from benchmarks.served import server
from benchmarks.talking import HEADERS, add_packs

PACKS, NODES = 6, 500
PACK = """
def _node(number):
    class Node:
        DESCRIPTION = f"Node {{number}} does what its name says, and takes as many inputs as nodes do on average."
        RETURN_TYPES = ("IMAGE", "MASK", "INT")
        FUNCTION = "run"
        CATEGORY = "bench/{name}"

        @classmethod
        def INPUT_TYPES(cls):
            return {{
                "required": {{
                    "image": ("IMAGE", {{"tooltip": "The picture that is worked on."}}),
                    "mode": (["nearest", "bilinear", "bicubic", "lanczos", "area"], {{"default": "bilinear"}}),
                    "strength": ("FLOAT", {{"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.01}}),
                    "seed": ("INT", {{"default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF}}),
                    "text": ("STRING", {{"default": "", "multiline": True}}),
                }},
                "optional": {{"mask": ("MASK",), "invert": ("BOOLEAN", {{"default": False}})}},
            }}

        def run(self, **inputs):
            return (None, None, number)

    return Node


NODE_CLASS_MAPPINGS = {{f"Bench{name}{{number}}": _node(number) for number in range({nodes})}}
"""
WRITTEN, HELD = f"{PACKS * NODES:,} nodes: asked anew", f"{PACKS * NODES:,} nodes: from memory"
PACKED, KNOWN = f"{HELD}, gzip", f"{PACKS * NODES:,} nodes: the client has it (304)"


def measure(folder: Path, *, quick: bool, isolation: str = "runc") -> Report:
    runs = 20 if quick else 200
    report = Report(f"The catalogue of nodes, /object_info, {isolation}")
    data = folder / "data"
    data.mkdir()
    policies = changed(folder / "policies", isolated_by(isolation))
    with server(data, {"RINGFENCE_POLICIES_DIR": str(policies)}) as served:
        packs = {f"p{number}": PACK.format(name=f"P{number}", nodes=NODES) for number in range(PACKS)}
        add_packs(served.url, folder / "packs", packs)
        place = urlsplit(served.url)
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=120)

        def ask(**headers: str) -> tuple[float, http.client.HTTPResponse, int]:
            began = time.perf_counter()
            connection.request("GET", "/object_info", headers={**HEADERS, **headers})
            answer = connection.getresponse()
            size = len(answer.read())
            return (time.perf_counter() - began) * 1000, answer, size

        _, answer, size = ask()
        _, packed, packed_size = ask(**{"Accept-Encoding": "gzip"})
        assert answer.status == packed.status == 200
        assert packed.headers["Content-Encoding"] == "gzip"
        report.notes.append(f"the answer has {size:,} bytes, compressed {packed_size:,}")
        inputs = data / "tenants/local/input"
        anew = []
        for number in range(3 if quick else 8):
            (inputs / f"new-{number}.png").write_bytes(b"")
            anew.append(ask()[0])
            _age(inputs)
            ask()
        report.add(WRITTEN, anew)
        report.add(HELD, [ask()[0] for _ in range(runs)])
        report.add(PACKED, [ask(**{"Accept-Encoding": "gzip"})[0] for _ in range(runs)])
        tag = ask()[1].headers["ETag"]
        known = {"If-None-Match": tag}
        samples = []
        for _ in range(runs):
            took, again, _ = ask(**known)
            assert again.status == 304
            samples.append(took)
        report.add(KNOWN, samples)
        connection.close()
    for what in (HELD, PACKED, KNOWN):
        report.aim(what, None, 20)
    return report


def _age(directory: Path) -> None:
    """What changed a moment ago is not relied on: let it have changed before."""
    then = time.time() - 100
    os.utime(directory, (then, then))
