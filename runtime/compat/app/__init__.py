"""``app``: parts of ComfyUI's server process. Names only: that process is not inside a sandbox."""

from .._standins import submodules

__getattr__ = submodules(__name__)
