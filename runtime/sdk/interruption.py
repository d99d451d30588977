"""Stopping a node: the exception, and the flag of the call that it belongs to.

A flag belongs to one call: interrupting one prompt never stops another that runs in the same worker.
"""

from __future__ import annotations

from . import context


class InterruptProcessingException(Exception):  # noqa: N818 - the name that packs catch
    """The user stopped this node. ``comfy.model_management`` re-exports it."""


def is_interrupted() -> bool:
    """True when the call that this code belongs to has been asked to stop."""
    call = context.current() or context.latest()
    return call is not None and call.interrupted.is_set()


def interrupt_current(value: bool = True) -> None:
    """Ask the current call to stop, or take that back (``interrupt_current_processing``)."""
    call = context.current() or context.latest()
    if call is None:
        return
    if value:
        call.interrupted.set()
    else:
        call.interrupted.clear()


def check() -> None:
    """Stop here if the current call has been asked to stop.

    Raises:
        InterruptProcessingException: it has.
    """
    if is_interrupted():
        raise InterruptProcessingException
