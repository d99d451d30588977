"""``comfyui_version``: the ComfyUI release whose node API the stand-ins follow."""

__version__ = "0.25.0"
