"""``comfy_api.input.basic_types``: older name."""

from ..latest._input.basic_types import *  # noqa: F403
