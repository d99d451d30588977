"""Run workflows of packs that were tried against a running Ringfence (or ComfyUI) and compare with known results.

    python tests/compat/tried_packs.py PACKS [--url URL] [--only TEXT] [--add]

PACKS is a folder with checkouts of the packs that ``CASES`` names; with ``--add`` they are added, unmodified, each as a
sandbox of its own. The results are what ComfyUI 0.3.64 gives: the same file was run against it, without ``--add``. A
pack that is not there is left out and named. Exit status 1 when a case fails.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from ended import wait  # beside this program
from PIL import Image, ImageStat

ROOT = Path(__file__).resolve().parents[2]
RINGFENCE = [sys.executable, "-c", "from api.cli import main; main()"]
JSON = Any


@dataclass(frozen=True)
class Case:
    """A workflow of a pack; ``texts`` and ``pictures`` are what comes out of which output."""

    pack: str
    nodes: dict[str, tuple[str, dict[str, JSON]]]
    texts: dict[tuple[str, int], str] = field(default_factory=dict)
    pictures: dict[tuple[str, int], tuple[tuple[int, int], tuple[int, int, int]]] = field(
        default_factory=dict
    )
    """Size, and the mean of each channel."""
    files: dict[str, str] = field(default_factory=dict)
    """Node -> how the name of a file that it shows ends."""


RED = {"red": ("EmptyImage", {"width": 32, "height": 16, "batch_size": 4, "color": 0xFF0000})}
MASK = {"mask": ("SolidMask", {"value": 1.0, "width": 32, "height": 16})}
CASES = [
    Case(
        "comfyui-various",
        {
            "sum": ("JWIntegerAdd", {"a": 40, "b": 2}),
            "text": ("JWStringConcat", {"a": "a", "b": "b"}),
            **RED,
            "large": (
                "JWImageResize",
                {"image": ["red", 0], "height": 24, "width": 40, "interpolation_mode": "nearest"},
            ),
        },
        {("sum", 0): "42", ("text", 0): "ab"},
        {("large", 0): ((40, 24), (255, 0, 0))},
    ),
    Case(
        "ComfyLiterals",
        {"int": ("Int", {"Number": "7"})},
        {("int", 0): "7"},
    ),
    Case(
        "Derfuu_ComfyUI_ModdedNodes",
        {
            "sum": ("DF_Sum", {"Value_A": 1.5, "Value_B": 2.0}),
            "product": ("DF_Multiply", {"Value_A": ["sum", 0], "Value_B": 2.0}),
        },
        {("product", 0): "7.0"},
    ),
    Case(
        "was-node-suite-comfyui",
        {
            "a": ("Constant Number", {"number_type": "integer", "number": 6}),
            "b": ("Constant Number", {"number_type": "integer", "number": 7}),
            "product": (
                "Number Operation",
                {"number_a": ["a", 0], "number_b": ["b", 0], "operation": "multiplication"},
            ),
            "text": ("Number to Text", {"number": ["product", 0]}),
            "both": (
                "Text Concatenate",
                {"delimiter": "-", "clean_whitespace": "true", "text_a": ["text", 0], "text_b": "end"},
            ),
            "blank": ("Image Blank", {"width": 64, "height": 32, "red": 10, "green": 20, "blue": 30}),
        },
        {("product", 2): "42", ("both", 0): "42-end"},
        {("blank", 0): ((64, 32), (10, 20, 30))},
    ),
    Case(
        "ComfyUI_Comfyroll_CustomNodes",
        {
            "panel": (
                "CR Color Panel",
                {"panel_width": 48, "panel_height": 24, "fill_color": "custom", "fill_color_hex": "#102030"},
            ),
            "text": ("CR Text Concatenate", {"text1": "a", "text2": "b", "separator": "+"}),
            "int": ("CR Integer To String", {"int_": 12}),
        },
        {("text", 0): "a+b", ("int", 0): "12"},
        {("panel", 0): ((48, 24), (16, 32, 48))},
    ),
    Case(
        "ComfyUI-Crystools",
        {
            "a": ("Primitive integer [Crystools]", {"int": 3}),
            "b": ("Primitive integer [Crystools]", {"int": 4}),
            "chosen": (
                "Switch any [Crystools]",
                {"on_true": ["a", 0], "on_false": ["b", 0], "boolean": False},
            ),
        },
        {("chosen", 0): "4"},
    ),
    Case(
        "ComfyUI_LayerStyle",
        {
            "color": (
                "LayerUtility: ColorImage V2",
                {"size": "custom", "custom_width": 40, "custom_height": 20, "color": "#0000ff"},
            ),
            "size": ("LayerUtility: GetImageSize", {"image": ["color", 0]}),
            "number": (
                "LayerUtility: NumberCalculatorV2",
                {"a_value": "6", "b_value": "7", "operator": "*"},
            ),
            "blurred": ("LayerFilter: GaussianBlurV2", {"image": ["color", 0], "blur": 3}),
        },
        {("size", 0): "40", ("size", 1): "20", ("number", 0): "42"},
        {("blurred", 0): ((40, 20), (0, 0, 255))},
    ),
    Case(
        "ComfyUI-VideoHelperSuite",
        {
            **RED,
            "parts": ("VHS_SplitImages", {"images": ["red", 0], "split_index": 1}),
            "count": ("VHS_GetImageCount", {"images": ["parts", 2]}),
            "video": (
                "VHS_VideoCombine",
                {
                    "images": ["red", 0],
                    "frame_rate": 8,
                    "loop_count": 0,
                    "filename_prefix": "tried",
                    "format": "image/gif",
                    "pingpong": False,
                    "save_output": True,
                },
            ),
        },
        {("count", 0): "3"},
        {("parts", 0): ((32, 16), (255, 0, 0))},
        {"video": ".gif"},
    ),
    Case(
        "ControlAltAI-Nodes",
        {
            "bridge": ("TextBridge", {"text_input": "over"}),
            "setting": ("IntegerSettings", {"setting": True}),
        },
        {("bridge", 0): "over", ("setting", 0): "2"},
    ),
    Case(
        "mikey_nodes",
        {"text": ("Int to String", {"int_": 1234567, "use_commas": "true"})},
        {("text", 0): "1,234,567"},
    ),
    Case(
        "ComfyUI_tinyterraNodes",
        {
            "text": ("ttN text", {"text": "a"}),
            "all": ("ttN concat", {"text1": ["text", 0], "text2": "b", "text3": "c", "delimiter": "/"}),
            "int": ("ttN int", {"int": 5}),
        },
        {("all", 0): "a/b/c", ("int", 1): "5.0"},
    ),
    Case(
        "ComfyUI-Image-Filters",
        {
            "half": (
                "ImageConstant",
                {"width": 32, "height": 32, "batch_size": 2, "red": 0.5, "green": 0.25, "blue": 1.0},
            ),
            "mean": ("BatchAverageImage", {"images": ["half", 0], "operation": "mean"}),
            "mapped": ("RemapRange", {"image": ["mean", 0], "blackpoint": 0.25, "whitepoint": 0.75}),
        },
        {},
        {("mapped", 0): ((32, 32), (127, 0, 255))},
    ),
    Case(
        "comfyui-propost",
        {
            "one": ("EmptyImage", {"width": 32, "height": 32, "batch_size": 1, "color": 0x204060}),
            "dark": (
                "ProPostVignette",
                {"image": ["one", 0], "intensity": 0.0, "center_x": 0.5, "center_y": 0.5},
            ),
        },
        {},
        {
            ("dark", 0): ((3, 32), (64, 64, 64))
        },  # the pack returns the picture itself where it darkens nothing
    ),
    Case(
        "efficiency-nodes-comfyui",
        {
            "value": (
                "Evaluate Integers",
                {"python_expression": "(a + b) * c", "print_to_console": "False", "a": 2, "b": 4, "c": 7},
            )
        },
        {("value", 0): "42", ("value", 2): "42"},
    ),
    Case(
        "comfyui-tensorops",
        {**RED, **MASK, "masked": ("MaskImage", {"image": ["red", 0], "mask": ["mask", 0]})},
        {},
        {("masked", 0): ((32, 16), (255, 0, 0))},
    ),
]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packs", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8188")
    parser.add_argument("--only", default="", help="packs with this in their name")
    parser.add_argument("--add", action="store_true", help="add the packs first")
    options = parser.parse_args()
    bad = 0
    with httpx2.Client(base_url=options.url, timeout=120) as client:
        for case in CASES:
            if options.only not in case.pack:
                continue
            if not (options.packs / case.pack).is_dir():
                print(f"left out {case.pack}: not in {options.packs}")
                continue
            if options.add:
                command = [
                    *RINGFENCE,
                    "extension",
                    "add",
                    str(options.packs / case.pack),
                    "--url",
                    options.url,
                ]
                added = subprocess.run(command, check=False, capture_output=True, text=True)
                if added.returncode:
                    print(added.stderr, file=sys.stderr)
            problems = list(run(client, case))
            bad += bool(problems)
            print("FAIL" if problems else "ok  ", case.pack, *problems, sep="\n     " if problems else " ")
    return bool(bad)


def run(client: httpx2.Client, case: Case) -> Iterator[str]:
    """Yield every difference between what was expected and what came."""
    prompt: dict[str, JSON] = {
        name: {"class_type": class_type, "inputs": inputs}
        for name, (class_type, inputs) in case.nodes.items()
    }
    for node, slot in case.texts:
        prompt[f"text {node} {slot}"] = {"class_type": "PreviewAny", "inputs": {"source": [node, slot]}}
    for node, slot in case.pictures:
        prompt[f"picture {node} {slot}"] = {"class_type": "PreviewImage", "inputs": {"images": [node, slot]}}
    answer = client.post("/prompt", json={"prompt": prompt, "client_id": uuid.uuid4().hex})
    if answer.status_code != 200 or answer.json()["node_errors"]:
        yield f"not accepted: {answer.status_code} {answer.text[:600]}"
        return
    entry = wait(client, answer.json()["prompt_id"])
    if entry["status"]["status_str"] != "success":
        yield f"ended with {str(entry['status']['messages'][-1])[:900]}"
        return
    for (node, slot), text in case.texts.items():
        came = entry["outputs"][f"text {node} {slot}"]["text"]
        if came != [text]:
            yield f"{node} {slot}: {came} instead of {text!r}"
    for (node, slot), (size, colour) in case.pictures.items():
        shown = entry["outputs"][f"picture {node} {slot}"]["images"][0]
        with Image.open(io.BytesIO(client.get("/view", params=shown).content)) as picture:
            mean = tuple(int(value) for value in ImageStat.Stat(picture.convert("RGB")).mean)
            if (picture.size, mean) != (size, colour):
                yield f"{node} {slot}: {picture.size} {mean} instead of {size} {colour}"
    for node, ending in case.files.items():
        shown = next(iter(entry["outputs"][node].values()))[0]
        asked = {key: shown[key] for key in ("filename", "subfolder", "type")}
        found = client.get("/view", params=asked)
        if not asked["filename"].endswith(ending) or found.status_code != 200 or not found.content:
            yield f"{node}: {shown}: {found.status_code}"


if __name__ == "__main__":
    sys.exit(main())
