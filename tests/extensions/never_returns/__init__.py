"""Ignores every request to stop; only the end of its sandbox ends it."""

import time


class NeverReturns:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    RETURN_TYPES = ("INT",)
    OUTPUT_NODE = True
    FUNCTION = "run"
    CATEGORY = "tests/hostile"

    def run(self):
        from comfy.utils import ProgressBar

        ProgressBar(2).update(1)  # whoever waits for that knows that it runs
        while True:
            try:
                time.sleep(3600)
            except BaseException:
                continue


class Answers:
    """Shows that the extension works again after it was replaced."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    RETURN_TYPES = ("INT",)
    OUTPUT_NODE = True
    FUNCTION = "run"
    CATEGORY = "tests/hostile"

    def run(self):
        return {"ui": {"answer": [42]}, "result": (42,)}


NODE_CLASS_MAPPINGS = {"RFNeverReturns": NeverReturns, "RFAnswers": Answers}
