"""Nodes that take their time, politely: they notice an interruption."""

import asyncio
import time

import comfy.model_management
import comfy.utils


class Sleep:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seconds": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 600.0})}}

    RETURN_TYPES = ("FLOAT",)
    OUTPUT_NODE = True
    FUNCTION = "run"
    CATEGORY = "tests/slow"

    @classmethod
    def IS_CHANGED(cls, seconds):
        return float("nan")

    def run(self, seconds):
        steps = 100
        bar = comfy.utils.ProgressBar(steps)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            comfy.model_management.throw_exception_if_processing_interrupted()
            time.sleep(min(left, 0.02))
            bar.update_absolute(int(steps * (1 - left / max(seconds, 0.001))), steps)
        bar.update_absolute(steps, steps)
        return (seconds,)


class SleepAsync:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seconds": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 600.0})}}

    RETURN_TYPES = ("FLOAT",)
    OUTPUT_NODE = True
    FUNCTION = "run"
    CATEGORY = "tests/slow"

    @classmethod
    def IS_CHANGED(cls, seconds):
        return float("nan")

    async def run(self, seconds):
        await asyncio.sleep(seconds)
        return (seconds,)


NODE_CLASS_MAPPINGS = {"RFSleep": Sleep, "RFSleepAsync": SleepAsync}
