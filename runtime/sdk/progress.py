"""Progress reports of a running node, and the check for interruption that comes with them."""

from __future__ import annotations

from typing import Any

from .. import wire
from ..rate import Budget
from . import context, host, interruption

#: A pack may report every step of a million: after a burst, only so many intermediate reports a second are sent.
_budget = Budget(burst=256, per_second=128)
_FORMATS = frozenset({"JPEG", "PNG"})
_MAX_PREVIEW = 8 * 1024 * 1024

check_interrupted = interruption.check


def report(
    value: float,
    maximum: float,
    *,
    node_id: str | None = None,
    preview: tuple[str, bytes] | None = None,
    legacy: bool,
) -> None:
    """Tell the host how far a node is.

    ``preview`` is ``("JPEG" | "PNG", encoded bytes)``. ``legacy`` says that this comes from the progress-bar hook
    (clients then also get the older message, and an interrupted node stops here) and not from the registry.

    Raises:
        InterruptProcessingException: ``legacy``, and the call has been asked to stop.
    """
    if legacy:
        interruption.check()
    line = host.connected()
    call = context.current() or context.latest()
    if line is None or call is None or not call.is_execution:
        return
    if value < maximum and not _budget.take():
        return
    picture: dict[str, Any] | None = None
    if preview is not None and preview[0] in _FORMATS and 0 < len(preview[1]) <= _MAX_PREVIEW:
        form, data = preview
        file = line.publish(data)
        if file is not None:
            picture = {"format": form, "file": file, "nbytes": len(data)}
    line.notify(
        wire.PROGRESS,
        {
            "call": call.call,
            "node_id": (str(node_id) if node_id else call.node_id)[: wire.MAX_NODE_ID],
            "value": _number(value),
            "max": _number(maximum),
            "preview": picture,
            "legacy": legacy,
        },
    )


def _number(value: Any) -> float:
    """Packs pass numpy and torch scalars; JSON has no NaN, and the host takes no figures beyond counting."""
    number = float(value)
    if not -1e15 < number < 1e15:
        return 0
    return int(number) if number.is_integer() else number
