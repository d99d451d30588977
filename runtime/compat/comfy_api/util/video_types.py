"""``comfy_api.util.video_types``: older name."""

from ..latest._util.video_types import *  # noqa: F403
