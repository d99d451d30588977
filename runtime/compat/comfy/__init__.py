"""``comfy``: ComfyUI's library. ``utils``, ``model_management``, ``cli_args``, ``comfy_types`` are real here.

The modules that hold and run models are names only; ``_standins.py`` lists them.
"""

from .._standins import submodules

__getattr__ = submodules(__name__)
