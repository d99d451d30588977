"""``comfy_extras``: ComfyUI's further core nodes. Files here are real; every other ``nodes_*`` is names only."""

from .._standins import submodules

__getattr__ = submodules(__name__)
