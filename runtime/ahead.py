"""Imports ahead of need what is slow to import, in a worker that has loaded nothing yet.

The host asks for it in a spare sandbox, so that the first call of its extension does not wait for it. Only what every
image has and packs import anyway; where it comes from (the extension's environment or the image) is the search path's
to say, exactly as for the pack itself.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Mapping
from typing import Any

from . import failures, wire


def prepare(params: Mapping[str, Any]) -> dict[str, Any]:
    """Import what ``params`` names; say which of the slow modules are there now."""
    asked = params.get("modules")
    wanted = [name for name in wire.SLOW_MODULES if isinstance(asked, list) and name in asked]
    for name in wanted:
        try:
            importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001 - an image without it, or an environment's broken one: load says it
            failures.print_to_log(error, f"{name} could not be imported ahead of need")
    if wanted:
        if "torch" in sys.modules:
            _touch_torch()
        gc.collect()
        gc.freeze()  # a later collection need not walk what torch brought
    return {"modules": [name for name in wire.SLOW_MODULES if name in sys.modules]}


def _touch_torch() -> None:
    """What torch puts off until its first use."""
    import torch

    with torch.inference_mode():
        torch.ones(8).add_(1).numpy()
