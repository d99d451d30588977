"""The value that stands for "do not run what depends on me"."""

from __future__ import annotations


class ExecutionBlocker:
    """Blocks every call that receives it; with a message the first such call is reported to the user.

    ``comfy_execution.graph`` and ``comfy_execution.graph_utils`` re-export it: packs build it and test for it.
    """

    def __init__(self, message: str | None) -> None:
        self.message = message

    def __repr__(self) -> str:
        return f"ExecutionBlocker({self.message!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExecutionBlocker) and other.message == self.message

    def __hash__(self) -> int:
        return hash((ExecutionBlocker, self.message))
