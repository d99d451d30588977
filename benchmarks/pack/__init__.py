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
    """A new tensor of the given number of KiB."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"kib": ("INT", {"default": 1})}}

    def run(self, kib):
        import torch

        return (torch.ones(kib * 1024 // 4, dtype=torch.float32),)


class BenchTake:
    """Takes a tensor and looks at one number of it."""

    RETURN_TYPES = ("FLOAT",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",)}}

    def run(self, image):
        return (float(image[-1]),)


class BenchDouble:
    """Takes a tensor and makes another of the same size from it."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",)}}

    def run(self, image):
        return (image * 2,)


class BenchPass(BenchDouble):
    """Gives back what it got."""

    def run(self, image):
        return (image,)


NODE_CLASS_MAPPINGS = {
    kind.__name__: kind for kind in (BenchNothing, BenchMake, BenchTake, BenchDouble, BenchPass)
}
