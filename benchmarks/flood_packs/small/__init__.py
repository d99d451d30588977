"""The small prompt of a well-behaved tenant."""


class Small:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"number": ("INT", {"default": 0, "max": 2**31})}}

    RETURN_TYPES = ("INT",)
    FUNCTION = "run"
    OUTPUT_NODE = True
    CATEGORY = "bench"

    def run(self, number):
        return {"ui": {"number": [number]}, "result": (number + 1,)}


NODE_CLASS_MAPPINGS = {"BenchSmall": Small}
