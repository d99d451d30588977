"""A call that came before the one that it follows was answered: some of its inputs are that one's outputs.

The host sends it so that no time passes between the two. It runs if the call before it ran on the same thread just
before, was not interrupted, and gave nothing but plain values (``written.py``): what the host would have sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from . import wire
from .peer import RpcError

Before = tuple[Any, Sequence[Any]]
"""The number of the call that has just run, and its outputs."""


_PLAIN: Final = frozenset({int, float, str, bool, type(None)})


def ended(number: Any, outputs: Sequence[Any]) -> Before | None:
    """A call that ran and was written plainly; None where others may not follow it, since it made more than values."""
    return (number, outputs) if _PLAIN.issuperset(map(type, outputs)) else None


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
        inputs[name] = [outputs[slot]]
