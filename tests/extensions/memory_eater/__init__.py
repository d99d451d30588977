"""Eats memory until somebody stops it."""


class MemoryEater:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"megabytes": ("INT", {"default": 1_000_000, "min": 1, "max": 10_000_000})}}

    RETURN_TYPES = ("INT",)
    OUTPUT_NODE = True
    FUNCTION = "run"
    CATEGORY = "tests/hostile"

    def run(self, megabytes):
        eaten = []
        for _ in range(megabytes):
            block = bytearray(1024 * 1024)
            block[::4096] = b"\x01" * len(block[::4096])  # touch every page
            eaten.append(block)
        return (len(eaten),)


NODE_CLASS_MAPPINGS = {"RFMemoryEater": MemoryEater}
