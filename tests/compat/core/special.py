"""Inputs for the nodes whose declarations do not say enough: lists, dynamic inputs, small sizes, objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_LATENTS = [
    {"$latent": [2, 4, 8, 12]},
    {"$latent": [1, 4, 8, 12]},
    {"$latent": [3, 4, 8, 12], "batch_index": [7, 8, 9]},
    {"$latent": [2, 4, 8, 12], "noise_mask": [1, 1, 64, 96]},
    {"$latent": [2, 4, 6, 12]},
    {"$latent": [5, 4, 6, 12]},
]
_PICTURES = [[2, 20, 30, 3], [1, 20, 30, 3], [5, 20, 30, 3], [1, 10, 30, 3]]
_ANYTHING = [0, 1, "", "text", 2.5, [], [1], {}, {"a": 1}, True, False, None]


def _rebatch_latents(drawer: Any) -> dict[str, Any]:
    draw = drawer.random
    items = [{**draw.choice(_LATENTS), "seed": draw.randrange(99)} for _ in range(draw.randrange(1, 6))]
    return {"latents": items, "batch_size": [draw.choice([1, 2, 3, 4, 8])]}


def _rebatch_images(drawer: Any) -> dict[str, Any]:
    draw = drawer.random
    shapes = _PICTURES if draw.random() < 0.2 else _PICTURES[:3]
    items = [{"$image": draw.choice(shapes), "seed": draw.randrange(99)} for _ in range(draw.randrange(1, 6))]
    return {"images": items, "batch_size": [draw.choice([1, 2, 3, 4, 8])]}


def _switch(drawer: Any) -> dict[str, Any]:
    return {
        "switch": drawer.number % 2 == 0,
        "on_true": drawer.random.choice(_ANYTHING),
        "on_false": {"$tensor": [2]},
    }


def _values(drawer: Any) -> dict[str, Any]:
    chosen = [drawer.random.choice(_ANYTHING) for _ in range(drawer.random.randrange(1, 5))]
    return {"values": {f"value{number}": value for number, value in enumerate(chosen)}}


def _anything(name: str) -> Callable[[Any], dict[str, Any]]:
    return lambda drawer: {name: drawer.random.choice(_ANYTHING)}


def _lists(drawer: Any) -> dict[str, Any]:
    count = drawer.random.randrange(1, 5)
    return {"inputs": {f"input{number}": drawer.random.sample(_ANYTHING, 3) for number in range(count)}}


def _custom_choice(drawer: Any) -> dict[str, Any]:
    return {"choice": drawer.random.choice(["a", "b"]), "index": drawer.number, "option1": "a"}


def _operation(drawer: Any) -> dict[str, Any] | None:
    return {"samples": drawer.value("LATENT", {}), "operation": "$half"}


def _times(names: tuple[str, ...], mask_only: bool = False) -> Callable[[Any], dict[str, Any]]:
    def made(drawer: Any) -> dict[str, Any]:
        inputs: dict[str, Any] = {name: drawer.value("CONDITIONING", {}) for name in names}
        inputs["strength"] = drawer.value("FLOAT", {"default": 1.0, "max": 10.0})
        inputs["set_cond_area"] = drawer.random.choice(["default", "mask bounds"])
        if drawer.number % 3:
            inputs["mask"] = drawer.value("MASK", {})
        if drawer.number % 4:
            inputs["timesteps"] = {"$tuple": [0.1, 0.9]}
        return inputs

    return made


def _webcam(drawer: Any) -> dict[str, Any]:
    name = drawer.random.choice(["colour.png", "alpha.png", "photo.jpg"])
    return {"image": name, "width": 0, "height": 0, "capture_on_queue": True}


def _any_source(drawer: Any) -> dict[str, Any]:
    return {
        "source": drawer.random.choice([*_ANYTHING, {"$tuple": [1, "ä"]}, {"b": {"$float": "nan"}}, [["x"]]])
    }


def _svg(drawer: Any) -> dict[str, Any]:
    documents = [
        '<?xml version="1.0"?><svg width="5" height="5"><circle r="2"/></svg>',
        "<svg></svg>",
        "no svg at all",
    ]
    return {"svg": {"$svg": documents[: 1 + drawer.number % 3]}, "filename_prefix": "svg/ComfyUI"}


def _tensors(name: str, draw: str, autogrow: str) -> Callable[[Any], dict[str, Any]]:
    def made(drawer: Any) -> dict[str, Any]:
        count = drawer.random.randrange(1, 4)
        return {autogrow: {f"{name}{number}": drawer.value(draw, {}) for number in range(count)}}

    return made


_WAYS: list[dict[str, Any]] = [
    {"resize_type": "scale dimensions", "width": 40, "height": 0, "crop": "center"},
    {"resize_type": "scale dimensions", "width": 0, "height": 33, "crop": "center"},
    {"resize_type": "scale dimensions", "width": 0, "height": 0, "crop": "center"},
    {"resize_type": "scale dimensions", "width": 21, "height": 60, "crop": "disabled"},
    {"resize_type": "scale dimensions", "width": 21, "height": 60, "crop": "center"},
    {"resize_type": "scale by multiplier", "multiplier": 1.7},
    {"resize_type": "scale by multiplier", "multiplier": 0.3},
    {"resize_type": "scale longer dimension", "longer_size": 50},
    {"resize_type": "scale shorter dimension", "shorter_size": 31},
    {"resize_type": "scale width", "width": 45},
    {"resize_type": "scale height", "height": 45},
    {"resize_type": "scale total pixels", "megapixels": 0.01},
    {"resize_type": "match size", "match": {"$mask": [1, 30, 20]}, "crop": "center"},
    {"resize_type": "match size", "match": {"$image": [1, 30, 70, 3]}, "crop": "disabled"},
    {"resize_type": "scale to multiple", "multiple": 8},
    {"resize_type": "scale to multiple", "multiple": 5},
    {"resize_type": "scale to multiple", "multiple": 100},
]


def _resize(drawer: Any) -> dict[str, Any]:
    item = {"$mask": [2, 19, 37]} if drawer.number % 3 == 0 else drawer.value("IMAGE", {})
    methods = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
    way = _WAYS[drawer.number % len(_WAYS)]
    return {"input": item, "resize_type": way, "scale_method": drawer.random.choice(methods)}


def _tiles(drawer: Any) -> dict[str, Any]:
    size = [1, drawer.random.randrange(40, 200), drawer.random.randrange(40, 200), 3]
    overlap = drawer.random.choice([0, 16, 60, 128])
    return {"image": {"$image": size}, "tile_width": 64, "tile_height": 80, "overlap": overlap}


def _merged_tiles(drawer: Any) -> dict[str, Any]:
    tiles = [{"$image": [1, 64, 64, 3], "seed": number} for number in range(9)]
    width, height = drawer.random.randrange(64, 190), drawer.random.randrange(64, 190)
    overlap = drawer.random.choice([0, 16, 60])
    return {"image_list": tiles, "final_width": [width], "final_height": [height], "overlap": [overlap]}


_EXPRESSIONS = (
    "a + b", "a * b - 1", "a / b", "a // b", "a % b", "a ** 2", "-a", "a > b", "a if a > b else b", "min(a, b)",
    "max(values)", "sum(values)", "sum(a, b)", "round(a / 3, 2)", "sqrt(abs(a))", "log(b + 10)", "not a", "a and b",
    "a == b or a < b", "int(a)", "ceil(a)", "pow(a, 3)", "(a", "nothing + 1", "", "a ** 100000", "a < b < 3",
    "2 in values", "values[0]", "1e400", "__import__('os')", "a.real",
)  # fmt: skip


def _expression(drawer: Any) -> dict[str, Any]:
    given = {"a": drawer.random.choice([3, -2.5, 0, True]), "b": drawer.random.choice([2, 7.25, 0, -1])}
    return {"expression": _EXPRESSIONS[drawer.number % len(_EXPRESSIONS)], "values": given}


def _number(drawer: Any) -> dict[str, Any]:
    texts = [
        "3",
        " 4.7 ",
        "",
        "1e3",
        "nan",
        "inf",
        "12345678901234567890",
        "abc",
        "-0",
        True,
        False,
        5,
        -2.7,
        1e30,
    ]
    return {"value": texts[drawer.number % len(texts)]}


def _compared(drawer: Any) -> dict[str, Any]:
    pictures = {name: drawer.value("IMAGE", {}) for name in ("image_a", "image_b")}
    if drawer.number % 2:
        del pictures["image_b"]
    return {**pictures, "compare_view": {}}


def _format(drawer: Any) -> dict[str, Any]:
    texts = ["{a}", "{a!r} and {b:>8}", "{c}", "plain {{}}", "{a:.2f}", "{", "{b[0]}"]
    return {
        "values": {"a": drawer.random.choice([1.5, "ä", 7]), "b": "text"},
        "f_string": texts[drawer.number % 7],
    }


SPECIAL: dict[str, Callable[[Any], dict[str, Any] | None]] = {
    "RebatchLatents": _rebatch_latents,
    "RebatchImages": _rebatch_images,
    "ComfySwitchNode": _switch,
    "ComfyAndNode": _values,
    "ComfyOrNode": _values,
    "ComfyNotNode": _anything("value"),
    "CreateList": _lists,
    "CustomCombo": _custom_choice,
    "LatentApplyOperation": _operation,
    "PairConditioningSetProperties": _times(("positive_NEW", "negative_NEW")),
    "PairConditioningSetPropertiesAndCombine": _times(
        ("positive", "negative", "positive_NEW", "negative_NEW")
    ),
    "ConditioningSetProperties": _times(("cond_NEW",)),
    "ConditioningSetPropertiesAndCombine": _times(("cond", "cond_NEW")),
    "WebcamCapture": _webcam,
    "PreviewAny": _any_source,
    "StringFormat": _format,
    "SaveSVGNode": _svg,
    "BatchImagesNode": _tensors("image", "IMAGE", "images"),
    "BatchMasksNode": _tensors("mask", "MASK", "masks"),
    "BatchLatentsNode": _tensors("latent", "LATENT", "latents"),
    "ResizeImageMaskNode": _resize,
    "SplitImageToTileList": _tiles,
    "ImageMergeTileList": _merged_tiles,
    "ComfyMathExpression": _expression,
    "ComfyNumberConvert": _number,
    "ImageCompare": _compared,
}
