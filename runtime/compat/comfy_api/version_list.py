"""``comfy_api.version_list``: the API versions on offer, newest first."""

from . import v0_0_1, v0_0_2
from .latest import ComfyAPI_latest

supported_versions = [ComfyAPI_latest, v0_0_2.ComfyAPIAdapter_v0_0_2, v0_0_1.ComfyAPIAdapter_v0_0_1]
