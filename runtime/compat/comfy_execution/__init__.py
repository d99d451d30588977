"""``comfy_execution``: what packs use of ComfyUI's graph engine. The engine itself is the host's, not here."""

from .._standins import submodules

__getattr__ = submodules(__name__)
