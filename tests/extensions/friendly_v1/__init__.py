"""A well-behaved V1 pack: tensors, hidden inputs, state, progress, files of its own, a validator."""

import os
import weakref

import torch

WEB_DIRECTORY = "./js"
MADE = weakref.WeakSet()
HERE = os.path.dirname(os.path.abspath(__file__))


class Invert:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "image": ("IMAGE",),
                "strength": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0}),
            },
            "hidden": {"node": "UNIQUE_ID", "graph": "PROMPT"},
        }

    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("image", "node id")
    FUNCTION = "run"
    CATEGORY = "tests/friendly"
    DESCRIPTION = "Inverts an image."

    def run(self, image, strength, node=None, graph=None):
        return (image * (1 - strength) + (1 - image) * strength, node)


class Solid:
    @classmethod
    def INPUT_TYPES(cls):
        size = ("INT", {"default": 8, "min": 1, "max": 4096})
        return {"required": {"width": size, "height": size, "value": ("FLOAT", {"default": float("nan")})}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    CATEGORY = "tests/friendly"

    def run(self, width, height, value):
        made = torch.full((1, height, width, 3), value)
        MADE.add(made)
        return (made,)


class Left:
    """How many of the tensors that were made here are still there."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    RETURN_TYPES = ("INT",)
    FUNCTION = "run"
    CATEGORY = "tests/friendly"

    def run(self):
        return (len(MADE),)


class Add:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"a": ("INT", {"default": 0}), "b": ("INT", {"default": 0})}}

    RETURN_TYPES = ("INT",)
    FUNCTION = "run"
    CATEGORY = "tests/friendly"

    def run(self, a, b):
        return (a + b,)

    @classmethod
    def VALIDATE_INPUTS(cls, a, input_types):
        if a == 13:
            return "13 is not a number that we add"
        return True

    @classmethod
    def IS_CHANGED(cls, a, b):
        return float("nan") if a == 99 else f"{a}:{b}"


class Counter:
    """Keeps state on the instance, which lives across prompts."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    RETURN_TYPES = ("INT",)
    FUNCTION = "run"
    CATEGORY = "tests/friendly"

    def __init__(self):
        self.count = 0

    def run(self):
        self.count += 1
        return (self.count,)


class Report:
    """An output node."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"forceInput": True})}, "optional": {"more": ("*",)}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "run"
    CATEGORY = "tests/friendly"

    def run(self, text, more=None):
        return {"ui": {"text": [text], "pair": (1, torch.tensor(2.5).numpy())}}


class Model:
    """Makes a live object that cannot leave its sandbox, and uses one."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"factor": ("FLOAT", {"default": 2.0})}, "optional": {"model": ("RF_MODEL",)}}

    RETURN_TYPES = ("RF_MODEL", "FLOAT")
    FUNCTION = "run"
    CATEGORY = "tests/friendly"

    def run(self, factor, model=None):
        return (lambda value: value * factor, model(10.0) if model else 0.0)


class WriteBeside:
    """Writes into the pack's own folder, as many packs do."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"default": ""})}}

    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"
    CATEGORY = "tests/friendly"

    def run(self, text):
        path = os.path.join(HERE, "settings.txt")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        with open(path, encoding="utf-8") as file:
            return (file.read(),)


class InPlace:
    """Writes into its input, which only its own copy may show."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",)}}

    RETURN_TYPES = ("FLOAT",)
    FUNCTION = "run"
    CATEGORY = "tests/friendly"

    def run(self, image):
        image.mul_(0).add_(7)
        return (float(image.mean()),)


class Kind:
    """Says what kind of tensor it is given."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",)}}

    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"
    CATEGORY = "tests/friendly"

    def run(self, image):
        kinds = (image.is_inference(), image._is_view(), image.requires_grad, image.is_leaf)
        return (f"{image.dtype} {list(image.shape)} {' '.join(map(str, kinds))}",)


class Broken:
    """Its declaration raises; the other nodes of the pack must not suffer."""

    @classmethod
    def INPUT_TYPES(cls):
        raise RuntimeError("no models found")

    RETURN_TYPES = ()
    FUNCTION = "run"


class Raises:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"default": "boom"})}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "run"
    CATEGORY = "tests/friendly"

    def run(self, text):
        raise ValueError(text)


NODE_CLASS_MAPPINGS = {
    f"RF{cls.__name__}": cls
    for cls in (Invert, Solid, Left, Add, Counter, Report, Model, WriteBeside, InPlace, Kind, Broken, Raises)
}
NODE_DISPLAY_NAME_MAPPINGS = {"RFInvert": "Invert (tests)"}
