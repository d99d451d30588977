"""Validation from start to end: the pure walk, the nodes' own validators in their sandboxes, the report.

Only this file of the validation talks to workers. Lists of files are live in ComfyUI; here a class is described anew
only when its known declaration refuses a value, so a prompt that is fine costs no call beyond its own validators.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import anyio

from engine import replacements
from engine.invocation import Sessions
from engine.large_graphs import compute
from engine.live_types import Borders, LiveTypes
from engine.prompt import PromptLimits, PromptRequest, as_link, parse_prompt
from engine.registry import NodeType, NodeTypes
from engine.validation import Report, ValidatorCall, ValidatorOutcome, Walk, select_outputs
from engine.values import ValueStore, constant_value
from policies import RingfenceError, TenantId
from sandbox.calls import NodeCall, Value
from sandbox.errors import NodeRaisedError

JSON = Any

MAX_VALIDATORS: Final = 16  # calls at the same time


@dataclass(frozen=True, slots=True)
class Validated:
    """A prompt that may be queued: converted constants, the outputs to run, errors of the others."""

    prompt: dict[str, dict[str, JSON]]
    report: Report


async def validate(
    tenant: TenantId,
    request: PromptRequest,
    types: NodeTypes,
    sessions: Sessions,
    store: ValueStore,
    limits: PromptLimits,
    live: LiveTypes,
) -> Validated:
    """Check a prompt.

    Raises:
        PromptInvalidError: nothing of it can run.
    """
    borders = Borders(tenant, live)
    known = await types.node_types(tenant)
    graph = replacements.apply(request.prompt, known)
    if graph is not request.prompt:
        request = replace(request, prompt=graph)
    prompt, walk = await _walk(request, known, limits, borders)
    if walk.stale_classes:
        known = await types.refresh(tenant, walk.stale_classes)
        prompt, walk = await _walk(request, known, limits, borders)
    outcomes = await _run_validators(tenant, prompt, known, walk.validators, sessions, store)
    report = walk.report(outcomes)
    report.raise_if_none()
    return Validated(prompt, report)


async def _walk(
    request: PromptRequest, types: Mapping[str, NodeType], limits: PromptLimits, borders: Borders
) -> tuple[dict[str, dict[str, JSON]], Walk]:
    def work() -> tuple[dict[str, dict[str, JSON]], Walk]:
        prompt = parse_prompt(request.prompt, limits)
        return prompt, Walk(prompt, types, select_outputs(prompt, types, request.targets), borders)

    return await compute(work, len(request.prompt) if isinstance(request.prompt, dict) else 0)


async def _run_validators(
    tenant: TenantId,
    prompt: Mapping[str, Mapping[str, JSON]],
    types: Mapping[str, NodeType],
    calls: list[ValidatorCall],
    sessions: Sessions,
    store: ValueStore,
) -> dict[str, ValidatorOutcome]:
    outcomes: dict[str, ValidatorOutcome] = {}
    if not calls:
        return outcomes
    limiter = anyio.CapacityLimiter(MAX_VALIDATORS)

    async def run(call: ValidatorCall) -> None:
        entry = prompt[call.node_id]
        owned: list[Value] = []
        async with limiter:
            try:
                session = await sessions.acquire(tenant, types[entry["class_type"]].extension)
                node_call = await _node_call(tenant, call, entry, types[entry["class_type"]], store, owned)
                outcomes[call.node_id] = ValidatorOutcome(
                    await session.validate(node_call, call.received_types)
                )
            except NodeRaisedError as error:
                found = (error.exception_type, error.message, error.traceback)
                outcomes[call.node_id] = ValidatorOutcome(exception=found)
            except RingfenceError as error:
                found = (f"ringfence.{type(error).__name__}", str(error), ())
                outcomes[call.node_id] = ValidatorOutcome(exception=found)
            finally:
                for value in owned:
                    store.release(value)

    async with anyio.create_task_group() as tasks:
        for call in calls:
            tasks.start_soon(run, call)
    return outcomes


async def _node_call(
    tenant: TenantId,
    call: ValidatorCall,
    entry: Mapping[str, JSON],
    node_type: NodeType,
    store: ValueStore,
    owned: list[Value],
) -> NodeCall:
    inputs: dict[str, list[Value] | None] = {}
    for name, value in entry["inputs"].items():
        if as_link(value) is not None and name not in node_type.description.raw_link:
            inputs[name] = None
            continue
        constant = await constant_value(value, tenant, store)
        if constant.objects:
            owned.append(constant)
        inputs[name] = [constant]
    hidden: dict[str, JSON] = {}
    for token in node_type.description.hidden.values():
        known = {"UNIQUE_ID": call.node_id, "PROMPT": {}}
        hidden[token.lower()] = known.get(token)
    links = tuple(name for name, values in inputs.items() if values is None)
    return NodeCall("", call.node_id, entry["class_type"], inputs, hidden, None, call.node_id, links)
