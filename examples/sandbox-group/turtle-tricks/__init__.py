"""Tricks for the turtles of another pack: calls their methods, which only works in the process that they live in."""


class WalkSquare:
    """Lets a turtle walk a square and come back."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"turtle": ("TURTLE",), "side": ("INT", {"default": 3, "min": 1, "max": 100})}}

    RETURN_TYPES = ("TURTLE",)
    FUNCTION = "walk"
    CATEGORY = "examples"

    def walk(self, turtle, side):
        for dx, dy in ((side, 0), (0, side), (-side, 0), (0, -side)):
            turtle.walk(dx, dy)
        return (turtle,)


NODE_CLASS_MAPPINGS = {"WalkSquare": WalkSquare}
