"""A call that came before the one that it follows was answered: some of its inputs are that one's outputs.

The host sends it so that no time passes between the two. It runs if the call before it ran on the same thread just
before, was not interrupted, and gave nothing but plain values and tensors (``written.py``): those that the host would
have sent. A tensor is handed over where it lies, as between two nodes of one process: what the host has is a copy.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Final

from . import wire
from .inputs import AS_IT_IS
from .peer import RpcError

Before = tuple[Any, Sequence[Any], int]
"""The number of the call that has just run, its outputs, and how many bytes of memory their tensors hold."""
_MOST_BYTES: Final = 64 << 20
"""Of tensors, with all that their memory holds: so much more than its inputs a node may find in use when it begins."""
_COSTLY_BYTES: Final = (32 << 20) - (64 << 10)
"""From about here on malloc gives memory back to the kernel when it is freed (a sandbox's environment says so)."""


def ended(number: Any, outputs: Sequence[Any]) -> Before | None:
    """A call that ran and was written plainly; None where none may follow it, since it made too much to be kept."""
    nbytes = 0
    for value in outputs:
        if type(value) not in AS_IT_IS:
            nbytes += value.untyped_storage().nbytes()
    return (number, outputs, nbytes) if nbytes <= _MOST_BYTES else None


def is_costly(before: Before) -> bool:
    """Whether to let go of its outputs takes time, which a call would pay that has nothing to do with them."""
    return before[2] >= _COSTLY_BYTES


def holds_tensors(before: Before) -> bool:
    """Whether its outputs are to be let go of when no call comes for a while: one may be an input's file, handed on."""
    return before[2] > 0


def fill_in(params: dict[str, Any], before: Before | None) -> None:
    """Put the outputs of the call before in their places among the inputs of a call.

    Raises:
        RpcError: it did not run, or not to such an end; nothing of this call is run then.
    """
    follows = params["follows"]
    if before is None or before[0] != follows.get("call"):
        raise RpcError(wire.NOT_FOLLOWING, "the call before did not end with plain values")
    outputs, inputs = before[1], params["inputs"]
    for name, slot in follows["inputs"].items():
        if not 0 <= slot < len(outputs):
            raise RpcError(wire.NOT_FOLLOWING, f"the call before has no output {slot}")
        value = outputs[slot]
        inputs[name] = [value if type(value) in AS_IT_IS else _as_sent(value)]


def _as_sent(tensor: Any) -> Any:
    """The same memory as a tensor like one that the host sends: none of inference mode, nor of anybody's graph."""
    own = sys.modules["torch"].empty(0, dtype=tensor.dtype)
    own.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())
    return own.requires_grad_() if tensor.requires_grad else own
