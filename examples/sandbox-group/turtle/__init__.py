"""Makes a turtle: a live Python object, which no wire can carry."""


class Turtle:
    """Walks over a grid and remembers where it was."""

    def __init__(self):
        self.path = [(0, 0)]

    def walk(self, dx, dy):
        x, y = self.path[-1]
        self.path.append((x + dx, y + dy))


class MakeTurtle:
    """Returns a new turtle."""

    made = None

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    RETURN_TYPES = ("TURTLE",)
    FUNCTION = "make"
    CATEGORY = "examples"

    def make(self):
        MakeTurtle.made = Turtle()
        return (MakeTurtle.made,)


class ShowTurtle:
    """Says where the turtle is, and whether it is the very object that was made."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"turtle": ("TURTLE",)}}

    RETURN_TYPES = ()
    FUNCTION = "show"
    OUTPUT_NODE = True
    CATEGORY = "examples"

    def show(self, turtle):
        which = "the very same" if turtle is MakeTurtle.made else "another"
        text = f"{which} turtle walked {len(turtle.path) - 1} steps and is at {turtle.path[-1]}"
        return {"ui": {"text": [text]}}


NODE_CLASS_MAPPINGS = {"MakeTurtle": MakeTurtle, "ShowTurtle": ShowTurtle}
