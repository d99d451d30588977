"""``comfy_api_nodes``: ComfyUI's nodes for paid web services. Names only: a sandbox has no network."""

from .._standins import submodules

__getattr__ = submodules(__name__)
