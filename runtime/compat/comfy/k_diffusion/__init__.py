"""``comfy.k_diffusion``: schedules, noise and small helpers are real; what samples with a model is names only."""

from ..._standins import submodules

__getattr__ = submodules(__name__)
