"""``comfy_api``: the API of V3 nodes. All of it is real except what needs a model or the server's internals."""

from .._standins import submodules

__getattr__ = submodules(__name__)
