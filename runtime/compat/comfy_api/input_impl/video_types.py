"""``comfy_api.input_impl.video_types``: older name."""

from ..latest._input_impl.video_types import *  # noqa: F403
