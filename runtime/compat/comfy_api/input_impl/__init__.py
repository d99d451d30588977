"""``comfy_api.input_impl``: older name of the ways to make values."""

from ..latest._input_impl import *  # noqa: F403
