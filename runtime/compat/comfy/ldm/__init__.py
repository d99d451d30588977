"""Parts of ComfyUI's models. Names only, but for the functions that need no model."""

from ..._standins import names_only

__getattr__ = names_only(__name__)
