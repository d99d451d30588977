"""Prompt handlers of packs: what they see, what is taken back from them, and what is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

from engine.prompt_hooks import MAX_DEPTH, pass_through
from policies import LOCAL_TENANT, ExtensionName, TenantId
from sandbox import NodeRaisedError, RouteTimeoutError, StartError

pytestmark = pytest.mark.anyio
BODY = {"prompt": {"1": {"class_type": "A"}}, "client_id": "c", "extra_data": {"a": 1}}


class Packs:
    """Packs whose handlers are functions: sites, sandbox manager and sessions in one."""

    def __init__(self, **handlers: Any) -> None:
        self.handlers = handlers
        self.seen: list[Any] = []

    async def prompt_handlers(self, tenant: TenantId) -> list[ExtensionName]:
        assert tenant == LOCAL_TENANT
        return [ExtensionName(name) for name in self.handlers]

    async def acquire(self, tenant: TenantId, extension: ExtensionName) -> _Session:
        if isinstance(self.handlers[extension], StartError):
            raise self.handlers[extension]
        return _Session(self, extension)

    async def run(self, body: Any) -> Any:
        return await pass_through(cast("Any", self), cast("Any", self), LOCAL_TENANT, body)


class _Session:
    def __init__(self, packs: Packs, extension: ExtensionName) -> None:
        self._packs = packs
        self._extension = extension

    async def hook_prompt(self, body: Mapping[str, Any], limit_s: float) -> Any:
        self._packs.seen.append(dict(body))
        handler = self._packs.handlers[self._extension]
        if isinstance(handler, Exception):
            raise handler
        return handler(dict(body)) if callable(handler) else handler


async def test_each_handler_gets_what_the_one_before_gave_back() -> None:
    packs = Packs(a=lambda body: {**body, "n": 1}, b=lambda body: {**body, "n": body["n"] + 1})
    assert await packs.run(BODY) == {**BODY, "n": 2}


async def test_log_in_tokens_are_not_shown_and_not_lost() -> None:
    secrets = {"auth_token_comfy_org": "secret", "api_key_comfy_org": "key"}
    packs = Packs(a=lambda body: {**body, "extra_data": {"b": 2, "auth_token_comfy_org": "forged"}})
    changed = await packs.run({**BODY, "extra_data": {"a": 1, **secrets}})
    assert packs.seen == [BODY]
    assert changed["extra_data"] == {"b": 2, **secrets}
    dropped = Packs(a=lambda body: {"prompt": body["prompt"]})
    assert (await dropped.run({**BODY, "extra_data": secrets}))["extra_data"] == secrets


def deep() -> Any:
    tree: Any = {}
    for _ in range(MAX_DEPTH + 5):
        tree = {"x": [tree]}
    return tree


@pytest.mark.parametrize(
    "handler",
    [
        StartError("its image is gone"),
        RouteTimeoutError("too slow"),
        NodeRaisedError("too large", exception_type="ValueError"),
        None,
        [],
        "text",
        {},
        {"prompt": None},
        {"prompt": {"1": deep()}},
    ],
)
async def test_a_handler_that_fails_or_gives_back_no_prompt_changes_nothing(handler: Any) -> None:
    packs = Packs(a=handler, b=lambda body: {**body, "after": True})
    assert await packs.run(BODY) == {**BODY, "after": True}


@pytest.mark.parametrize("body", [None, [], "x", {}, {"prompt": None}, {"prompt": []}])
async def test_what_is_no_prompt_is_shown_to_nobody(body: Any) -> None:
    packs = Packs(a=lambda given: given)
    assert await packs.run(body) == body
    assert packs.seen == []
