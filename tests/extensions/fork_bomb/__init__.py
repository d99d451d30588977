"""Forks until it is refused, then holds what it has."""

import os
import signal


class ForkBomb:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"limit": ("INT", {"default": 100_000, "min": 1, "max": 1_000_000})}}

    RETURN_TYPES = ("INT",)
    OUTPUT_NODE = True
    FUNCTION = "run"
    CATEGORY = "tests/hostile"

    def run(self, limit):
        children = []
        text = "no limit met"
        try:
            while len(children) < limit:
                child = os.fork()
                if child == 0:
                    signal.pause()
                    os._exit(0)
                children.append(child)
        except OSError as error:
            text = f"refused after {len(children)}: {error.strerror}"
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)
            for child in children:
                os.waitpid(child, 0)
        return {"ui": {"text": [text], "forked": [len(children)]}, "result": (len(children),)}


NODE_CLASS_MAPPINGS = {"RFForkBomb": ForkBomb}
