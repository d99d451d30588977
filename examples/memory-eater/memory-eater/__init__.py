"""A node pack that misbehaves: it takes memory until somebody stops it."""


class EatMemory:
    """Takes ``step_mib`` at a time, and touches every page, so that the memory is really used."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"step_mib": ("INT", {"default": 32, "min": 1, "max": 1024})}}

    RETURN_TYPES = ("STRING",)
    FUNCTION = "eat"
    CATEGORY = "examples"
    OUTPUT_NODE = True

    def eat(self, step_mib):
        eaten = []
        while True:
            eaten.append(bytearray(b"\x55" * (step_mib * 1024 * 1024)))
            print(f"have eaten {len(eaten) * step_mib} MiB")  # noqa: T201


NODE_CLASS_MAPPINGS = {"EatMemory": EatMemory}
