"""A picture that develops step by step: each step is progress with a preview, as samplers send it."""

import time

import comfy.utils
import numpy as np
from PIL import Image


class Develop:
    """Inverts an image in steps, and shows how far it is; one that is spoiled fails at the end."""

    @classmethod
    def INPUT_TYPES(cls):
        steps = ("INT", {"default": 4, "min": 1, "max": 100})
        pause = ("FLOAT", {"default": 0.0, "min": 0.0, "max": 10.0})
        spoiled = ("STRING", {"default": ""})
        return {
            "required": {"image": ("IMAGE",), "steps": steps, "pause": pause},
            "optional": {"spoiled": spoiled},
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    CATEGORY = "tests/darkroom"

    @classmethod
    def IS_CHANGED(cls, image, steps, pause, spoiled=""):
        return float("nan")

    def run(self, image, steps, pause, spoiled=""):
        bar = comfy.utils.ProgressBar(steps)
        for step in range(1, steps + 1):
            share = step / steps
            seen = image[0] * (1 - share) + (1 - image[0]) * share
            picture = Image.fromarray((seen.numpy() * 255).round().astype(np.uint8))
            time.sleep(pause)
            bar.update_absolute(step, steps, ("JPEG", picture, 256))
        if spoiled:
            raise ValueError(spoiled)
        return (1 - image,)


NODE_CLASS_MAPPINGS = {"RFDevelop": Develop}
