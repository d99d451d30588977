"""From what a worker returned to values in the engine's hands: files are adopted, references counted, limits held."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import anyio.to_thread

from policies import EffectivePolicy, SandboxId
from sandbox import hostile_json
from sandbox.calls import ExpandedCall, ExpandedNode, NodeResult, Value
from sandbox.errors import ProtocolViolationError, QuotaError
from sandbox.figures import human_bytes
from sandbox.messages import ParsedCall, ParsedResult
from sandbox.tensors import TensorStore
from sandbox.values import Parsed, Reader

JSON_FILE_LIMIT: Final = 16 * 1024 * 1024
"""Largest ``$json`` file: it becomes objects in the host's memory while it is checked."""


class Outputs:
    """Takes over the results of one sandbox."""

    def __init__(self, store: TensorStore, sandbox: SandboxId, policy: EffectivePolicy) -> None:
        self._store = store
        self._sandbox = sandbox
        self._policy = policy

    async def node_result(self, parsed: ParsedResult) -> NodeResult:
        """The result as the engine gets it; whoever gets it holds a reference to each object of each value.

        Raises:
            ProtocolViolationError: a file is not what it was announced to be.
            QuotaError: more bytes than the policy or a quota allows; nothing was kept.
        """
        found = parsed.values()
        for value in found:
            if value.files or value.handles or value.foreign:
                values = iter(await self._adopt(found))
                break
        else:  # nothing to take over
            values = iter([Value(value.tree, weight=value.weight) for value in found])
        return NodeResult(
            slots=None if parsed.slots is None else tuple([_take(slot, values) for slot in parsed.slots]),
            ui=parsed.ui,
            calls=None if parsed.calls is None else tuple(_call(call, values) for call in parsed.calls),
            blocked=parsed.blocked,
        )

    def release(self, result: NodeResult) -> None:
        """Give back everything in a result that nobody wants."""
        for slot in result.slots or ():
            self._release_all(slot)
        for call in result.calls or ():
            self._release_all(call.result)
            for node in (call.expand or {}).values():
                self._release_all(node.inputs.values())

    def _release_all(self, values: Iterable[Value]) -> None:
        for value in values:
            self._store.release(value)

    async def _adopt(self, parsed: Sequence[Parsed]) -> list[Value]:
        adopted: list[str] = []
        try:
            files = _all_files(parsed)
            self._check_size(files)
            await self._store.adopt(self._sandbox, files.items())
            adopted += files
            if any(value.json_files for value in parsed):
                adopted += await self._adopt_nested(parsed, files)
        except BaseException:
            self._store.drop_unreferenced(adopted)
            self._discard(name for name in _named(parsed) if name not in adopted)
            raise
        try:
            self._store.retain_objects([name for value in parsed for name in value.files])
        except BaseException:  # an input was handed on whose maker broke its lease meanwhile
            self._store.drop_unreferenced(adopted)
            raise
        return [
            Value(item.tree, tuple(item.files), self._handles(item), item.nbytes, item.weight)
            for item in parsed
        ]

    def _handles(self, item: Parsed) -> tuple[tuple[SandboxId, int], ...]:
        if not item.handles and not item.foreign:
            return ()
        return (*((self._sandbox, handle) for handle in item.handles), *item.foreign)

    async def _adopt_nested(self, parsed: Sequence[Parsed], files: dict[str, int]) -> list[str]:
        """Take over what values in ``$json`` files, which were taken over before, name beside ``files``."""
        for value in parsed:
            if value.json_files:
                await self._open_json(value)
        nested = {name: size for name, size in _all_files(parsed).items() if name not in files}
        if nested:
            self._check_size(files | nested)
            await self._store.adopt(self._sandbox, nested.items())
        return list(nested)

    async def _open_json(self, value: Parsed) -> None:
        """Find what the encoded values in ``$json`` files refer to. They are ours by now, so they stay as checked."""
        for name in value.json_files:
            data = await self._store.read(name, JSON_FILE_LIMIT)
            inner = await anyio.to_thread.run_sync(self._parse, data)
            for file, size in inner.files.items():
                if value.files.setdefault(file, size) != size:
                    raise ProtocolViolationError("it sent one file with two sizes")
            value.handles.update(inner.handles)

    def _parse(self, data: bytes) -> Parsed:
        return Reader(self._sandbox, nested=True).read(hostile_json.parse(data))

    def _check_size(self, files: dict[str, int]) -> None:
        total, allowed = sum(files.values()), self._policy.limits.output_bytes
        if total > allowed:
            source = self._policy.source("limits.output_bytes")
            raise QuotaError(
                f"the node returned {human_bytes(total)}, limits.output_bytes allows {human_bytes(allowed)} ({source})",
                "raise 'limits.output_bytes' or return less",
            )

    def _discard(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                self._store.discard(self._sandbox, name)
            except ProtocolViolationError:
                continue  # refused by adopt, which has removed it


def _all_files(parsed: Iterable[Parsed]) -> dict[str, int]:
    files: dict[str, int] = {}
    for value in parsed:
        for name, size in value.files.items():
            if files.setdefault(name, size) != size:
                raise ProtocolViolationError("it sent one file with two sizes")
    return files


def _named(parsed: Iterable[Parsed]) -> dict[str, None]:
    return {name: None for value in parsed for name in value.files}


def _take(parsed: Sequence[Parsed], values: Iterable[Value]) -> tuple[Value, ...]:
    return tuple([value for _, value in zip(parsed, values, strict=False)])


def _call(parsed: ParsedCall, values: Iterable[Value]) -> ExpandedCall:
    result = _take(parsed.result, values)
    if parsed.expand is None:
        return ExpandedCall(result, None)
    expand: dict[str, ExpandedNode] = {}
    for name, node in parsed.expand.items():
        inputs = dict(zip(node.inputs, _take(list(node.inputs.values()), values), strict=True))
        expand[name] = ExpandedNode(node.class_type, inputs, node.override_display_id)
    return ExpandedCall(result, expand)
