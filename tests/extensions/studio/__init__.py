"""Live objects as ComfyUI's model nodes make them: what comes back has to be the very object that went out.

``RFStudioCheckpoint`` makes MODEL, CLIP and VAE, ``RFStudioEncode`` a CONDITIONING with an object in it,
``RFStudioThing`` a type of its own. ``RFStudioTake...`` use them by attribute, with the types of ComfyUI's samplers and
of pipes; ``RFStudioTakeAny`` finds them however deep they lie.
"""

import weakref

MADE = weakref.WeakSet()


class Live:
    """Something that cannot leave this process."""

    kind = "?"

    def __init__(self, name):
        self.name = name
        MADE.add(self)

    def tell(self):
        if not any(one is self for one in MADE):
            raise ValueError(f"{self.kind} {self.name} is not the object that was made here")
        return f"{self.kind} {self.name}"


class Model(Live):
    kind = "model"

    def clone(self):
        return Model(self.name)


class Clip(Live):
    kind = "clip"


class Vae(Live):
    kind = "vae"


class Hook(Live):
    kind = "hook"


class Thing(Live):
    kind = "thing"


NAME = {"required": {"name": ("STRING", {"default": "sd"})}}


class Node:
    FUNCTION = "run"
    CATEGORY = "tests/studio"


class Checkpoint(Node):
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    INPUT_TYPES = classmethod(lambda cls: NAME)

    def run(self, name):
        return Model(name), Clip(name), Vae(name)


class Encode(Node):
    RETURN_TYPES = ("CONDITIONING",)
    INPUT_TYPES = classmethod(
        lambda cls: {"required": {"clip": ("CLIP",), "text": ("STRING", {"default": "a cat"})}}
    )

    def run(self, clip, text):
        import torch

        clip.tell()
        return ([[torch.ones(1, 4, 8), {"pooled_output": torch.ones(1, 8), "hooks": Hook(text)}]],)


class MakeThing(Node):
    RETURN_TYPES = ("RF_STUDIO_THING",)
    INPUT_TYPES = classmethod(lambda cls: NAME)

    def run(self, name):
        return (Thing(name),)


def found_in(value):
    """What every live object in a value says of itself, in order."""
    if isinstance(value, Live):
        return [value.tell()]
    if isinstance(value, dict):
        value = [item for _, item in sorted(value.items(), key=lambda entry: str(entry[0]))]
    return [text for item in value for text in found_in(item)] if isinstance(value, (list, tuple)) else []


def shown(*values):
    return {
        "ui": {"text": [", ".join(text for value in values for text in found_in(value))]},
        "result": (None,),
    }


class TakeAny(Node):
    RETURN_TYPES = ("STRING",)
    OUTPUT_NODE = True
    INPUT_TYPES = classmethod(lambda cls: {"required": {"value": ("*",)}})

    def run(self, value):
        return shown(value)


class TakeSampler(Node):
    """The inputs of a sampler, each optional."""

    RETURN_TYPES = ("STRING",)
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        kinds = {
            "model": "MODEL",
            "clip": "CLIP",
            "vae": "VAE",
            "positive": "CONDITIONING",
            "negative": "CONDITIONING",
        }
        return {"required": {}, "optional": {name: (kind,) for name, kind in kinds.items()}}

    def run(self, **given):
        return shown(*given.values())


class TakeThing(Node):
    RETURN_TYPES = ("STRING",)
    OUTPUT_NODE = True
    INPUT_TYPES = classmethod(lambda cls: {"required": {"thing": ("RF_STUDIO_THING",)}})

    def run(self, thing):
        return shown(thing)


NODE_CLASS_MAPPINGS = {
    "RFStudioCheckpoint": Checkpoint,
    "RFStudioEncode": Encode,
    "RFStudioThing": MakeThing,
    "RFStudioTakeAny": TakeAny,
    "RFStudioTakeSampler": TakeSampler,
    "RFStudioTakeThing": TakeThing,
}
