"""Figures and option lists that several nodes declare."""

MAX_RESOLUTION = 16384

IMAGE_SCALING = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
LATENT_SCALING = ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"]
CROPPING = ["disabled", "center"]
TURNS = ["none", "90 degrees", "180 degrees", "270 degrees"]
FLIPS = ["x-axis: vertically", "y-axis: horizontally"]


def pixels(default: int = 0, minimum: int = 0, step: int = 1) -> tuple[str, dict[str, int]]:
    """An INT input for a length in pixels."""
    return ("INT", {"default": default, "min": minimum, "max": MAX_RESOLUTION, "step": step})


def turns(rotation: str) -> int:
    """Quarter turns that a rotation option stands for."""
    return {"90": 1, "180": 2, "270": 3}.get(rotation.split(" ", 1)[0], 0)
