"""``comfy_api.torch_helpers.torch_compile``: names only: a sandbox has no model runtime."""

from ..._standins import names_only

__getattr__ = names_only(__name__)
