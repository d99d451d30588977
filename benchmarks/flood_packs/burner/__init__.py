"""What a flooding tenant runs: all the processes it is allowed, all of them busy, and progress without end."""

import os
import time


class Burner:
    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "seconds": ("FLOAT", {"default": 2.0}),
                "number": ("INT", {"default": 0, "max": 2**31}),
            }
        }

    RETURN_TYPES = ("INT",)
    FUNCTION = "run"
    OUTPUT_NODE = True
    CATEGORY = "bench"

    def run(self, seconds, number):
        from comfy.utils import ProgressBar

        children = []
        try:
            while True:
                child = os.fork()
                if child == 0:
                    while True:
                        pass
                children.append(child)
        except OSError:
            pass
        bar, ends, step = ProgressBar(1_000_000), time.monotonic() + seconds, 0
        while time.monotonic() < ends:
            step += 1
            bar.update_absolute(step)
        for child in children:
            os.kill(child, 9)
            os.waitpid(child, 0)
        return (number,)


NODE_CLASS_MAPPINGS = {f"BenchBurner{n}": Burner for n in range(4)}
