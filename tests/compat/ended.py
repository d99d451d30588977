"""Waiting for the end of a prompt, over ComfyUI's API; shared by the programs here that run packs' workflows."""

from __future__ import annotations

import time
from typing import Any

import httpx2

_LIMIT_S = 300


def wait(client: httpx2.Client, prompt_id: str) -> dict[str, Any]:
    """The prompt's history entry, once it has ended.

    Raises:
        TimeoutError: it does not end.
    """
    deadline = time.monotonic() + _LIMIT_S
    while time.monotonic() < deadline:
        entry: dict[str, Any] | None = client.get(f"/history/{prompt_id}").json().get(prompt_id)
        if entry is not None and entry["status"]["completed"] is not None:
            return entry
        time.sleep(0.05)
    raise TimeoutError(f"prompt {prompt_id} did not end within {_LIMIT_S} s")
