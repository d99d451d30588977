"""Prompts pass through the prompt handlers of the tenant's packs, before they are validated.

As in ComfyUI, with what a stranger's code needs around it: log-in tokens are not shown to it, it has a limit of time,
and what it gives back is a body like any other's. A handler that fails, or gives back what is no body, changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import anyio

from engine.extension_sites import Sites
from engine.prompt import SECRET_KEYS, split_secrets
from policies import ExtensionName, RingfenceError, TenantId

if TYPE_CHECKING:
    from sandbox import SandboxManager

log = logging.getLogger(__name__)

HANDLER_S: Final = 5.0
"""For all handlers of one extension."""
START_S: Final = 60.0
"""For starting its sandbox, when it does not run."""
MAX_DEPTH: Final = 100

JSON = Any


async def pass_through(sites: Sites, manager: SandboxManager, tenant: TenantId, body: JSON) -> JSON:
    """``body`` as the handlers of the tenant's extensions leave it; what is no object passes untouched."""
    if not isinstance(body, Mapping) or not isinstance(body.get("prompt"), Mapping):
        return body
    for extension in await sites.prompt_handlers(tenant):
        changed = await _ask(manager, tenant, extension, body)
        body = body if changed is None else changed
    return body


async def _ask(
    manager: SandboxManager, tenant: TenantId, extension: ExtensionName, body: Mapping[str, JSON]
) -> JSON | None:
    extra = body.get("extra_data")
    shown, secrets = split_secrets(extra) if isinstance(extra, Mapping) else (extra, {})
    try:
        with anyio.fail_after(START_S):
            session = await manager.acquire(tenant, extension)
        answer = await session.hook_prompt(
            {**body, "extra_data": shown} if "extra_data" in body else body, HANDLER_S
        )
    except TimeoutError:
        log.warning(
            "prompt handlers of extension %s were left out: its sandbox did not start in time", extension
        )
        return None
    except RingfenceError as error:
        log.warning("prompt handlers of extension %s were left out: %s", extension, error)
        return None
    if not isinstance(answer, dict) or not isinstance(answer.get("prompt"), dict) or _is_deep(answer):
        log.warning("prompt handlers of extension %s gave back no prompt; theirs is left out", extension)
        return None
    given = answer.get("extra_data")
    if isinstance(given, dict):
        kept = {key: value for key, value in given.items() if key not in SECRET_KEYS}
        answer["extra_data"] = {**kept, **secrets}
    elif secrets:
        answer["extra_data"] = secrets
    return answer


def _is_deep(tree: JSON) -> bool:
    level = [tree]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())
            if isinstance(child, (dict, list))
        ]
        if not level:
            return False
    return True
