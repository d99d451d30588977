"""``comfy_api.v0_0_1``: the first version: progress and value types, no nodes."""

from .latest import Input, InputImpl, Types, create_sync_class
from .v0_0_2 import ComfyAPIAdapter_v0_0_2


class ComfyAPIAdapter_v0_0_1(ComfyAPIAdapter_v0_0_2):
    VERSION = "0.0.1"
    STABLE = True


ComfyAPI = ComfyAPIAdapter_v0_0_1
ComfyAPISync = create_sync_class(ComfyAPIAdapter_v0_0_1)

__all__ = ["ComfyAPI", "ComfyAPISync", "Input", "InputImpl", "Types"]
