"""A node that sends a picture with each step of its progress, and goes on until it is interrupted or told to end."""

import time

import comfy.model_management
import comfy.utils
import torch
from PIL import Image


class Previews:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"steps": ("INT", {"default": 20, "min": 1, "max": 100000})}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    CATEGORY = "tests/previews"

    @classmethod
    def IS_CHANGED(cls, steps):
        return float("nan")

    def run(self, steps):
        bar = comfy.utils.ProgressBar(steps)
        for step in range(steps):
            comfy.model_management.throw_exception_if_processing_interrupted()
            frame = Image.new("RGB", (64, 48), (250, step % 250, 10))
            bar.update_absolute(step, steps, ("JPEG", frame, None))
            time.sleep(0.05)
        return (torch.zeros(1, 8, 8, 3),)


NODE_CLASS_MAPPINGS = {"RFPreviews": Previews}
