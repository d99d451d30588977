"""The nodes of a soak: live objects, tensors, nodes that fail and nodes that wait. It runs in a sandbox."""


class Thing:
    def __init__(self, number):
        self.number = number


class SoakThing:
    RETURN_TYPES = ("SOAK_THING",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seed": ("INT", {"default": 0})}}

    def run(self, seed):
        return (Thing(seed),)


class SoakUse:
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"thing": ("SOAK_THING",)}}

    def run(self, thing):
        return {"ui": {"number": [thing.number]}, "result": (thing.number,)}


class SoakTensor:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seed": ("INT", {"default": 0})}, "optional": {"image": ("IMAGE",)}}

    def run(self, seed, image=None):
        import torch

        return (torch.full((1, 256, 256, 3), 0.5) if image is None else image * 1.5,)


class SoakLook:
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",)}}

    def run(self, image):
        return {"ui": {"value": [float(image[0, 0, 0, 0])]}}


class SoakFails:
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seed": ("INT", {"default": 0})}}

    def run(self, seed):
        print("about to fail", seed)
        raise ValueError(f"soak {seed}")


class SoakWaits:
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seed": ("INT", {"default": 0})}}

    async def run(self, seed):
        import asyncio

        await asyncio.sleep(600)
        return ()


NODE_CLASS_MAPPINGS = {
    kind.__name__: kind for kind in (SoakThing, SoakUse, SoakTensor, SoakLook, SoakFails, SoakWaits)
}
