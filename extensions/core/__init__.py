"""The core extension: ComfyUI's built-in nodes that need no model, under ComfyUI's names.

The classes live in ``runtime/compat`` (``nodes.py``, ``comfy_extras/``), because every pack's sandbox needs them
there to call and subclass. This extension only says which of them a prompt may name. It is loaded into a sandbox of
its own like any other pack: image files of strangers are decoded here and nowhere else.
"""

from nodes import CORE_CLASSES, CORE_DISPLAY_NAMES

from .media import MEDIA_CLASSES

NODE_CLASS_MAPPINGS = {**CORE_CLASSES, **MEDIA_CLASSES}
NODE_DISPLAY_NAME_MAPPINGS = dict(CORE_DISPLAY_NAMES)

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
