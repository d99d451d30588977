"""``ui`` under its public name; the same module."""

from ._ui import *  # noqa: F403
