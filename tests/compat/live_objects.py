"""Carry live objects through real packs' switches, reroutes and pipes on a running Ringfence.

    python tests/compat/live_objects.py PACKS [--url URL] [--only TEXT] [--add]

PACKS is a folder with checkouts of the packs that ``CASES`` names; with ``--add`` they are added, unmodified, and so is
``tests/extensions/studio``, whose objects they carry. Each pack is a sandbox of its own: what comes back must be the
very object that its maker handed out. A pack that is not there is left out and named. Exit status 1 when a case fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).resolve().parents[2]
RINGFENCE = [sys.executable, "-c", "from api.cli import main; main()"]
JSON = Any
Graph = dict[str, tuple[str, dict[str, JSON]]]

#: What every case may link to.
MAKERS: Graph = {
    "ckpt": ("RFStudioCheckpoint", {"name": "sd"}),
    "other": ("RFStudioCheckpoint", {"name": "xl"}),
    "pos": ("RFStudioEncode", {"clip": ["ckpt", 1], "text": "a cat"}),
    "neg": ("RFStudioEncode", {"clip": ["ckpt", 1], "text": "blurry"}),
    "thing": ("RFStudioThing", {"name": "box"}),
}
MODEL, CLIP, VAE, POS, NEG, THING = (
    ["ckpt", 0],
    ["ckpt", 1],
    ["ckpt", 2],
    ["pos", 0],
    ["neg", 0],
    ["thing", 0],
)
FIVE = {"model": MODEL, "clip": CLIP, "vae": VAE, "positive": POS, "negative": NEG}
EASY_FIVE = {"model": MODEL, "clip": CLIP, "vae": VAE, "pos": POS, "neg": NEG}
ALL_FIVE = "model sd, clip sd, vae sd, hook a cat, hook blurry"


def five(node: str, first: int = 0, order: str = "model clip vae positive negative") -> Graph:
    """A sampler that takes five outputs of a node."""
    return {"take": ("RFStudioTakeSampler", {k: [node, first + n] for n, k in enumerate(order.split())})}


def sampler(**links: JSON) -> Graph:
    return {"take": ("RFStudioTakeSampler", links)}


def take(node: str, slot: int = 0) -> Graph:
    return {"take": ("RFStudioTakeAny", {"value": [node, slot]})}


#: Pack, what is done, nodes, what the last node has to show.
CASES: list[tuple[str, str, Graph, str]] = [
    *(
        (
            "rgthree-comfy",
            f"Any Switch, {kind}",
            {"s": ("Any Switch (rgthree)", {"any_01": link})} | sampler(**{kind: ["s", 0]}),
            shown,
        )
        for kind, link, shown in (
            ("model", MODEL, "model sd"),
            ("clip", CLIP, "clip sd"),
            ("vae", VAE, "vae sd"),
            ("positive", POS, "hook a cat"),
        )
    ),
    (
        "rgthree-comfy",
        "Any Switch, own type",
        {
            "s": ("Any Switch (rgthree)", {"any_02": THING}),
            "take": ("RFStudioTakeThing", {"thing": ["s", 0]}),
        },
        "thing box",
    ),
    ("rgthree-comfy", "Context", {"c": ("Context (rgthree)", FIVE)} | five("c", 1), ALL_FIVE),
    (
        "rgthree-comfy",
        "Context, Context Switch, Context Merge, Context Big",
        {
            "a": ("Context (rgthree)", {"model": MODEL, "clip": CLIP}),
            "b": ("Context Big (rgthree)", {"vae": VAE, "positive": POS, "negative": NEG, "steps": 20}),
            "m": ("Context Merge (rgthree)", {"ctx_01": ["a", 0], "ctx_02": ["b", 0]}),
            "s": ("Context Switch (rgthree)", {"ctx_01": ["m", 0]}),
            "c": ("Context (rgthree)", {"base_ctx": ["s", 0]}),
        }
        | five("c", 1),
        ALL_FIVE,
    ),
    (
        "rgthree-comfy",
        "Context as a whole",
        {"c": ("Context (rgthree)", FIVE)} | take("c"),
        "clip sd, model sd, hook blurry, hook a cat, vae sd",
    ),
    (
        "ComfyUI-Impact-Pack",
        "basic pipe",
        {"p": ("ToBasicPipe", FIVE), "f": ("FromBasicPipe", {"basic_pipe": ["p", 0]})} | five("f"),
        ALL_FIVE,
    ),
    ("ComfyUI-Impact-Pack", "basic pipe as a whole", {"p": ("ToBasicPipe", FIVE)} | take("p"), ALL_FIVE),
    (
        "ComfyUI-Impact-Pack",
        "edited basic pipe",
        {
            "p": ("ToBasicPipe", FIVE),
            "e": ("EditBasicPipe", {"basic_pipe": ["p", 0], "model": ["other", 0]}),
            "f": ("FromBasicPipe_v2", {"basic_pipe": ["e", 0]}),
        }
        | five("f", 1),
        ALL_FIVE.replace("model sd", "model xl"),
    ),
    (
        "ComfyUI-Impact-Pack",
        "detailer pipe of a basic pipe",
        {
            "p": ("ToBasicPipe", FIVE),
            "s": ("ImpactSwitch", {"select": 1, "sel_mode": False, "input1": THING}),
            "d": (
                "BasicPipeToDetailerPipe",
                {
                    "basic_pipe": ["p", 0],
                    "bbox_detector": ["s", 0],
                    "wildcard": "",
                    "Select to add LoRA": "Select the LoRA to add to the text",
                    "Select to add Wildcard": "Select the Wildcard to add to the text",
                },
            ),
            "f": ("FromDetailerPipe_v2", {"detailer_pipe": ["d", 0]}),
        }
        | five("f", 1),
        ALL_FIVE,
    ),
    (
        "ComfyUI-Impact-Pack",
        "switch",
        {"s": ("ImpactSwitch", {"select": 2, "sel_mode": False, "input1": VAE, "input2": MODEL})}
        | sampler(model=["s", 0]),
        "model sd",
    ),
    (
        "ComfyUI-Impact-Pack",
        "inversed switch",
        {"s": ("ImpactInversedSwitch", {"select": 1, "input": MODEL, "sel_mode": False})}
        | sampler(model=["s", 0]),
        "model sd",
    ),
    (
        "ComfyUI-Impact-Pack",
        "conditional branch",
        {"s": ("ImpactConditionalBranch", {"cond": True, "tt_value": MODEL, "ff_value": ["other", 0]})}
        | sampler(model=["s", 0]),
        "model sd",
    ),
    (
        "ComfyUI-Impact-Pack",
        "list of any",
        {"l": ("ImpactMakeAnyList", {"value1": MODEL, "value2": ["other", 0]})} | sampler(model=["l", 0]),
        "model sd|model xl",
    ),
    (
        "ComfyUI-Impact-Pack",
        "control bridge",
        {"s": ("ImpactControlBridge", {"value": MODEL, "mode": True, "behavior": "Stop"})}
        | sampler(model=["s", 0]),
        "model sd",
    ),
    (
        "ComfyUI-Impact-Pack",
        "if none",
        {"s": ("ImpactIfNone", {"any_input": MODEL, "signal": VAE})} | sampler(vae=["s", 0]),
        "vae sd",
    ),
    (
        "ComfyUI-Impact-Pack",
        "execution order",
        {"s": ("ImpactExecutionOrderController", {"signal": VAE, "value": MODEL})}
        | sampler(vae=["s", 0], model=["s", 1]),
        "vae sd, model sd",
    ),
    (
        "ComfyUI-Impact-Pack",
        "dummy input and sleep",
        {"s": ("ImpactSleep", {"signal": MODEL, "seconds": 0.0})} | sampler(model=["s", 0]),
        "model sd",
    ),
    (
        "ComfyUI-Impact-Pack",
        "string list beside a model",
        {
            "l": ("ImpactStringSelector", {"strings": "sd\nxl", "multiline": False, "select": 1}),
            "m": ("RFStudioCheckpoint", {"name": ["l", 0]}),
            "s": ("ImpactSwitch", {"select": 1, "sel_mode": False, "input1": ["m", 0]}),
        }
        | sampler(model=["s", 0]),
        "model xl",
    ),
    (
        "ComfyUI-Easy-Use",
        "pipe",
        {"p": ("easy pipeIn", EASY_FIVE), "o": ("easy pipeOut", {"pipe": ["p", 0]})}
        | sampler(model=["o", 1], positive=["o", 2], negative=["o", 3], vae=["o", 5], clip=["o", 6]),
        "model sd, hook a cat, hook blurry, vae sd, clip sd",
    ),
    (
        "ComfyUI-Easy-Use",
        "pipe as a basic pipe",
        {"p": ("easy pipeIn", EASY_FIVE), "b": ("easy pipeToBasicPipe", {"pipe": ["p", 0]})} | take("b"),
        ALL_FIVE,
    ),
    (
        "ComfyUI-Easy-Use",
        "if else",
        {"s": ("easy ifElse", {"boolean": True, "on_true": MODEL, "on_false": VAE})}
        | sampler(model=["s", 0]),
        "model sd",
    ),
    (
        "ComfyUI-Easy-Use",
        "index switch",
        {"s": ("easy anythingIndexSwitch", {"index": 1, "value0": VAE, "value1": MODEL})}
        | sampler(model=["s", 0]),
        "model sd",
    ),
    (
        "ComfyUI-Easy-Use",
        "inversed switch",
        {"s": ("easy anythingInversedSwitch", {"index": 1, "in": MODEL})} | sampler(model=["s", 1]),
        "model sd",
    ),
    (
        "ComfyUI-Easy-Use",
        "A or B",
        {"s": ("easy ab", {"A or B": True, "in": MODEL})} | sampler(model=["s", 0]),
        "model sd",
    ),
    (
        "ComfyUI-Easy-Use",
        "conditioning index switch",
        {"s": ("easy conditioningIndexSwitch", {"index": 0, "cond0": POS})} | sampler(positive=["s", 0]),
        "hook a cat",
    ),
    (
        "ComfyUI-Easy-Use",
        "blocker",
        {"s": ("easy blocker", {"continue": True, "in": MODEL})} | sampler(model=["s", 0]),
        "model sd",
    ),
    (
        "ComfyUI-Easy-Use",
        "is none",
        {
            "s": ("easy isNone", {"any": MODEL}),
            "m": ("easy ifElse", {"boolean": ["s", 0], "on_true": VAE, "on_false": MODEL}),
        }
        | sampler(model=["m", 0]),
        "model sd",
    ),
    (
        "ComfyUI-Easy-Use",
        "nth of what any switch chose",
        {
            "s": ("easy anythingIndexSwitch", {"index": 0, "value0": MODEL}),
            "x": ("easy indexAnything", {"any": ["s", 0], "index": 0}),
            "n": ("easy indexAnything", {"any": ["ckpt", 1], "index": 0}),
        }
        | sampler(model=["x", 0], clip=["n", 0]),
        "model sd, clip sd",
    ),
    (
        "ComfyUI-Easy-Use",
        "for loop that carries a model",
        {
            "start": ("easy forLoopStart", {"total": 3, "initial_value1": MODEL}),
            "end": ("easy forLoopEnd", {"flow": ["start", 0], "initial_value1": ["start", 2]}),
        }
        | sampler(model=["end", 0]),
        "model sd",
    ),
    (
        "ComfyUI-Easy-Use",
        "clean GPU used",
        {"s": ("easy cleanGpuUsed", {"anything": MODEL})} | sampler(model=["s", 0]),
        "model sd",
    ),
    (
        "ComfyUI-Easy-Use",
        "clear cache all",
        {"s": ("easy clearCacheAll", {"anything": MODEL})} | sampler(model=["s", 0]),
        "model sd",
    ),
    (
        "ComfyUI-KJNodes",
        "lazy switch",
        {"s": ("LazySwitchKJ", {"switch": True, "on_false": VAE, "on_true": MODEL})}
        | sampler(model=["s", 0]),
        "model sd",
    ),
    (
        "ComfyUI-KJNodes",
        "VRAM debug",
        {
            "s": (
                "VRAM_Debug",
                {
                    "empty_cache": True,
                    "gc_collect": True,
                    "unload_all_models": False,
                    "any_input": THING,
                    "model_pass": MODEL,
                },
            )
        }
        | sampler(model=["s", 2]),
        "model sd",
    ),
    (
        "ComfyUI-KJNodes",
        "something to string beside",
        {
            "s": ("LazySwitchKJ", {"switch": False, "on_false": THING, "on_true": MODEL}),
            "take": ("RFStudioTakeThing", {"thing": ["s", 0]}),
        },
        "thing box",
    ),
    (
        "ComfyUI-KJNodes",
        "conditioning multi combine",
        {
            "s": (
                "ConditioningMultiCombine",
                {"inputcount": 2, "operation": "combine", "conditioning_1": POS, "conditioning_2": NEG},
            )
        }
        | sampler(positive=["s", 0]),
        "hook a cat, hook blurry",
    ),
]


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packs", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8188")
    parser.add_argument("--only", default="", help="cases whose pack or name has this in it")
    parser.add_argument("--add", action="store_true", help="add the packs first")
    options = parser.parse_args()
    chosen = [case for case in CASES if options.only in f"{case[0]} {case[1]}"]
    if options.add:
        for place in (
            ROOT / "tests/extensions/studio",
            *(options.packs / name for name in dict.fromkeys(c[0] for c in chosen)),
        ):
            command = [*RINGFENCE, "extension", "add", str(place), "--url", options.url]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode and "already" not in done.stderr:
                print(f"{place.name}: cannot be added: {done.stderr.strip()}")
    failed = absent = 0
    with httpx2.Client(base_url=options.url, timeout=120) as client:
        known = client.get("/object_info").raise_for_status().json()
        for pack, name, nodes, shown in chosen:
            missing = sorted({kind for kind, _ in nodes.values()} - known.keys())
            if missing:
                absent += 1
                print(f"GONE {pack}: {name}: no node {', '.join(missing)}")
                continue
            problem = next(problems(client, nodes, shown), None)
            failed += problem is not None
            print(
                f"{'ok  ' if problem is None else 'FAIL'} {pack}: {name}",
                *([problem] if problem else []),
                sep="\n     ",
                flush=True,
            )
    print(f"{len(chosen) - failed - absent} passed, {failed} failed, {absent} absent")
    return int(bool(failed or absent))


def problems(client: httpx2.Client, nodes: Graph, shown: str) -> Iterator[str]:
    """What differs from what ComfyUI does."""
    graph = {**MAKERS, **nodes}
    prompt = {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in graph.items()}
    prompt["other"]["inputs"] = {"name": "xl"}
    extra = {"extra_pnginfo": {"workflow": {"nodes": [], "links": []}}}
    answer = client.post(
        "/prompt", json={"prompt": prompt, "client_id": uuid.uuid4().hex, "extra_data": extra}
    )
    if answer.status_code != httpx2.codes.OK or answer.json()["node_errors"]:
        yield f"refused: {json.dumps(answer.json().get('node_errors') or answer.json())[:700]}"
        return
    prompt_id, end = answer.json()["prompt_id"], time.monotonic() + 120
    while prompt_id not in (history := client.get(f"/history/{prompt_id}").json()):
        if time.monotonic() > end:
            yield "it did not end within 120 s"
            return
        time.sleep(0.05)
    entry = history[prompt_id]
    if entry["status"]["status_str"] != "success":
        error = entry["status"]["messages"][-1][1]
        yield f"{error.get('node_type')}: {error.get('exception_type')}: {error.get('exception_message')}"[
            :700
        ]
        return
    seen = "|".join(entry["outputs"]["take"]["text"])
    if seen != shown:
        yield f"shows {seen!r}, not {shown!r}"


if __name__ == "__main__":
    raise SystemExit(main())
