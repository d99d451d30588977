"""Run real packs' workflows against a running Ringfence and compare with what ComfyUI gave.

    python tests/compat/public_packs.py MANIFEST PACKS [--url URL] [--only DIRNAME]

MANIFEST is a JSON list of packs with workflows and expected results (its ``how_to_read`` explains the forms), PACKS a
folder that holds a checkout of each under its ``dirname``. Each pack is added unmodified with ``ringfence extension
add``; outputs that clients cannot see are read through the probe pack of ``tests/extensions/probe``, which is a sandbox
of its own. Prints one line for each workflow; exit status 1 when one of them differs.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
from ended import wait  # beside this program
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
RINGFENCE = [sys.executable, "-c", "from api.cli import main; main()"]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path)
    parser.add_argument("packs", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8188")
    parser.add_argument("--only", help="one pack's dirname")
    options = parser.parse_args()
    packs = json.loads(options.manifest.read_text(encoding="utf-8"))["packs"]
    chosen = [
        p for p in packs if options.only in (None, p["dirname"]) and (options.packs / p["dirname"]).is_dir()
    ]
    if not chosen:
        print(f"none of the manifest's packs lies in {options.packs}", file=sys.stderr)
        return 2
    add(ROOT / "tests/extensions/probe", options.url)
    bad = 0
    with httpx2.Client(base_url=options.url, timeout=120) as client:
        for pack in chosen:
            error = add(options.packs / pack["dirname"], options.url)
            if error:
                print(f"FAIL {pack['dirname']}: cannot be added: {error}")
                bad += len(pack["workflows"])
                continue
            for workflow in pack["workflows"]:
                began = time.monotonic()
                problems = list(run(client, workflow))
                bad += bool(problems)
                verdict = "FAIL" if problems else "ok  "
                print(
                    f"{verdict} {pack['dirname']} {workflow['id']} {time.monotonic() - began:.2f} s",
                    *problems,
                    sep="\n     ",
                )
    print(f"{sum(len(p['workflows']) for p in chosen) - bad} passed, {bad} failed")
    return bool(bad)


def add(directory: Path, url: str) -> str:
    """Add the pack, or reload it when it is there; returns what went wrong."""
    command = [*RINGFENCE, "extension"]
    done = subprocess.run(
        [*command, "add", str(directory), "--url", url], capture_output=True, text=True, check=False
    )
    if done.returncode and "already" in done.stderr:
        done = subprocess.run(
            [*command, "reload", directory.name, "--url", url], capture_output=True, text=True, check=False
        )
    return "" if done.returncode == 0 else (done.stderr or done.stdout).strip()


def run(client: httpx2.Client, workflow: dict[str, Any]) -> Iterator[str]:
    """Yield every difference between what was expected and what came."""
    for file in workflow["input_files"]:
        upload(client, file)
    prompt = copy.deepcopy(workflow["prompt"])
    probes: dict[tuple[str, int], str] = {}
    for expected in workflow["expect"]:
        if expected["type"] in ("value", "tensor"):
            slot = (expected["node"], expected["output"])
            if slot not in probes:
                probes[slot] = f"probe-{len(probes)}"
                prompt[probes[slot]] = {
                    "class_type": "RingfenceProbe",
                    "inputs": {"value": [slot[0], slot[1]]},
                }
    body = {"prompt": prompt, "client_id": uuid.uuid4().hex}
    if "extra_data" in workflow:
        body["extra_data"] = workflow["extra_data"]
    answer = client.post("/prompt", json=body)
    refusals = [e for e in workflow["expect"] if e["type"] == "validation_error"]
    if refusals:
        for expected in refusals:
            errors = answer.json().get("node_errors", {}).get(expected["node"], {})
            if answer.status_code != 400 or expected["contains"] not in json.dumps(errors):
                yield f"expected a refusal with {expected['contains']!r}, got {answer.status_code} {answer.text[:300]}"
        return
    if answer.status_code != 200 or answer.json()["node_errors"]:
        yield f"not accepted: {answer.status_code} {answer.text[:600]}"
        return
    entry = wait(client, answer.json()["prompt_id"])
    if entry["status"]["status_str"] != "success":
        yield f"ended with {json.dumps(entry['status']['messages'][-1])[:900]}"
        return
    for expected in workflow["expect"]:
        yield from compare(client, expected, entry, probes)


def compare(
    client: httpx2.Client, expected: dict[str, Any], entry: dict[str, Any], probes: dict[tuple[str, int], str]
) -> Iterator[str]:
    outputs = entry["outputs"]
    kind, node = expected["type"], expected["node"]
    if kind in ("value", "tensor"):
        seen = outputs.get(probes[node, expected["output"]], {}).get("probe")
        where = f"output {expected['output']} of node {node}"
        if seen is None:
            yield f"{where} was not seen"
        elif kind == "value":
            if [s.get("value") for s in seen] != expected["items"]:
                yield f"{where} is {seen}, expected {expected['items']}"
        else:
            item = seen[expected["item"]]
            if item.get("shape") != expected["shape"]:
                yield f"{where} has shape {item.get('shape')}, expected {expected['shape']}"
            elif "all_close" in expected:
                near = [abs(item[k] - expected["all_close"]) <= expected["atol"] for k in ("min", "max")]
                if not all(near):
                    yield f"{where} ranges {item['min']}..{item['max']}, expected {expected['all_close']}"
    elif kind == "ui":
        seen = outputs.get(node, {}).get(expected["key"])
        if seen != expected["equals"]:
            yield f"ui {expected['key']} of node {node} is {seen}, expected {expected['equals']}"
    elif kind == "not_executed":
        if outputs.get(node):
            yield f"node {node} has output {outputs[node]} but should not have run"
    elif kind == "image":
        yield from compare_image(client, expected, outputs.get(node, {}).get("images", []))


def compare_image(
    client: httpx2.Client, expected: dict[str, Any], images: list[dict[str, str]]
) -> Iterator[str]:
    if len(images) != expected["count"]:
        yield f"node {expected['node']} saved {len(images)} images, expected {expected['count']}"
        return
    answer = client.get("/view", params=images[expected["index"]])
    picture = Image.open(io.BytesIO(answer.content)).convert("RGB")
    if list(picture.size) != expected["size"]:
        yield f"image of node {expected['node']} has size {picture.size}, expected {expected['size']}"
        return
    for pixel in expected["pixels"]:
        seen = picture.getpixel(tuple(pixel["xy"]))
        if any(abs(a - b) > expected["tol"] for a, b in zip(seen, pixel["rgb"], strict=True)):
            yield f"pixel {pixel['xy']} of node {expected['node']} is {seen}, expected {pixel['rgb']}"


def upload(client: httpx2.Client, file: dict[str, Any]) -> None:
    """Make the picture the manifest describes: each channel is an expression of x and y, clipped to a byte."""
    picture = Image.new("RGB", (file["width"], file["height"]))
    for y in range(file["height"]):
        for x in range(file["width"]):
            picture.putpixel((x, y), tuple(channel(file["channels"][c], x, y) for c in "rgb"))
    data = io.BytesIO()
    picture.save(data, "PNG")
    answer = client.post(
        "/upload/image",
        files={"image": (file["name"], data.getvalue(), "image/png")},
        data={"overwrite": "true"},
    )
    answer.raise_for_status()


def channel(expression: str, x: int, y: int) -> int:
    """Products and sums of x, y and whole numbers; nothing else is understood."""
    total = 0
    for term in expression.replace(" ", "").split("+"):
        product = 1
        for factor in term.split("*"):
            product *= {"x": x, "y": y}.get(factor) if factor in ("x", "y") else int(factor)
        total += product
    return max(0, min(255, total))


if __name__ == "__main__":
    raise SystemExit(main())
