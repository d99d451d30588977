"""``comfy.sd``: loading checkpoints, text encoders and VAEs. Names only: a sandbox has no model runtime."""

from .._standins import names_only

__getattr__ = names_only(__name__)
