"""The pack that benchmarks call: nodes that do next to nothing, so that what is left is ours."""


class BenchNothing:
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("INT", {"default": 0})}}

    def run(self, value):
        return (value,)


class BenchMake:
    """A new tensor of the given number of MiB."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"mib": ("INT", {"default": 1})}}

    def run(self, mib):
        import torch

        return (torch.ones(mib * 1024 * 1024 // 4, dtype=torch.float32),)


class BenchFill:
    """A new tensor of the given number of KiB."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"kib": ("INT", {"default": 1})}}

    def run(self, kib):
        import torch

        return (torch.ones(kib * 1024 // 4, dtype=torch.float32),)


class BenchDouble:
    """A new tensor of the size of the one that came in."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",)}}

    def run(self, image):
        return (image * 2.0,)


class BenchTake:
    """Takes a tensor and looks at one number of it."""

    RETURN_TYPES = ("FLOAT",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",)}}

    def run(self, image):
        return (float(image[-1]),)


NODE_CLASS_MAPPINGS = {
    kind.__name__: kind for kind in (BenchNothing, BenchMake, BenchFill, BenchDouble, BenchTake)
}
