"""``comfy_api.input``: older name of the value types."""

from ..latest._input import *  # noqa: F403
