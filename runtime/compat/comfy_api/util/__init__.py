"""``comfy_api.util``: older name of the video vocabulary."""

from ..latest._util import *  # noqa: F403
