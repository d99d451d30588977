"""``comfy_api.version_list``: the API versions on offer, newest first."""

from .internal import ComfyAPIBase, register_versions
from .internal.api_registry import ComfyAPIWithVersion
from .latest import ComfyAPI_latest
from .v0_0_1 import ComfyAPIAdapter_v0_0_1
from .v0_0_2 import ComfyAPIAdapter_v0_0_2

supported_versions: list[type[ComfyAPIBase]] = [
    ComfyAPI_latest,
    ComfyAPIAdapter_v0_0_2,
    ComfyAPIAdapter_v0_0_1,
]

register_versions([ComfyAPIWithVersion(known.VERSION, known) for known in supported_versions])
