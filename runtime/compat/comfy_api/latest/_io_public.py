"""``io`` under its public name; the same module."""

from ._io import *  # noqa: F403
