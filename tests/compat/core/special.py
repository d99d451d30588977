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
}
