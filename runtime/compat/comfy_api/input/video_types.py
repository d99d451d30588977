"""``comfy_api.input.video_types``: older name."""

from ..latest._input.video_types import *  # noqa: F403
