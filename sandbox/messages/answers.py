"""What a worker may answer about itself, its extensions and a node, short of a result (``results.py``)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from policies import safe_text
from runtime import wire
from sandbox import hostile_json
from sandbox.calls import LoadedExtension
from sandbox.declarations import MAX_NODES, Registration
from sandbox.errors import ProtocolViolationError
from sandbox.messages.envelope import MAX_ID, Text, checked
from sandbox.strict import Name, Strict


class Hello(Strict):
    """Answer to ``worker/hello``."""

    protocol: int
    python: Annotated[str, StringConstraints(max_length=200)] | None
    numpy: Annotated[str, StringConstraints(max_length=200)] | None
    torch: Annotated[str, StringConstraints(max_length=200)] | None
    pid: int


class _Prepared(Strict):
    modules: list[Literal["numpy", "torch"]] = Field(max_length=len(wire.SLOW_MODULES))


class _Skipped(Strict):
    class_type: Annotated[str, StringConstraints(max_length=256)]
    error: Text


class _Route(Strict):
    method: Annotated[str, StringConstraints(max_length=16)]
    path: Annotated[str, StringConstraints(max_length=1024)]


class _Page(Strict):
    """Nodes are looked at one by one in ``declarations.py``: a bad one is left out, and the rest loads."""

    nodes: Annotated[list[Any], Field(max_length=MAX_NODES)]
    skipped: Annotated[list[_Skipped], Field(max_length=MAX_NODES)]
    more: Annotated[int, Field(ge=0, le=MAX_ID)] | None = None


class _Loaded(_Page):
    api: Annotated[str, StringConstraints(max_length=16)]
    web_directory: Annotated[str, StringConstraints(max_length=1024)] | None
    routes: Annotated[list[_Route], Field(max_length=1000)]
    notes: Annotated[list[Text], Field(max_length=1000)]
    prompt_handlers: Annotated[int, Field(ge=0, le=1000)] = 0
    node_replacements: Annotated[list[Any], Field(max_length=1000)] = Field(default=[])


class _Validated(Strict):
    results: Annotated[list[bool | Text | None], Field(max_length=100_000)]


class _Fingerprint(Strict):
    value: Any


class _Lazy(Strict):
    names: Annotated[list[Name], Field(max_length=10_000)]


class _Hooked(Strict):
    body: Any


def hello(result: Any) -> Hello:
    """Raises: ProtocolViolationError for anything but a worker of this protocol version."""
    said = checked(Hello, result, "hello")
    if said.protocol != wire.PROTOCOL_VERSION:
        raise ProtocolViolationError(
            f"its runtime speaks protocol {said.protocol}, this host {wire.PROTOCOL_VERSION}",
            "rebuild the node image (make up)",
        )
    return said


def prepared(result: Any) -> frozenset[str]:
    """Which slow modules a worker has imported. Raises: ProtocolViolationError."""
    return frozenset(checked(_Prepared, result, "answer about its modules").modules)


def loaded(result: Any, nodes: Registration) -> tuple[LoadedExtension, int | None]:
    """An extension without its nodes, which go to ``nodes``, and the page that follows.

    Raises:
        ProtocolViolationError: it is no description of an extension.
    """
    said = checked(_Loaded, result, "extension description")
    _enter(said, nodes)
    extension = LoadedExtension(
        api=said.api,
        nodes=(),
        skipped={},
        web_directory=said.web_directory,
        routes=tuple((route.method, route.path) for route in said.routes),
        notes=tuple(safe_text(note) for note in said.notes),
        prompt_handlers=said.prompt_handlers,
        node_replacements=nodes.replacements(said.node_replacements),
    )
    return extension, said.more


def described(result: Any, nodes: Registration) -> int | None:
    """Enter a page of descriptions into ``nodes``; return which page follows.

    Raises:
        ProtocolViolationError: it is no page of descriptions.
    """
    said = checked(_Page, result, "node description")
    _enter(said, nodes)
    return said.more


def _enter(page: _Page, nodes: Registration) -> None:
    nodes.add(page.nodes, {item.class_type: item.error for item in page.skipped})


def validated(result: Any) -> tuple[bool | str | None, ...]:
    """Raises: ProtocolViolationError when it is no list of verdicts."""
    said = checked(_Validated, result, "validation result").results
    return tuple(safe_text(item) if isinstance(item, str) else item for item in said)


def fingerprint(result: Any) -> Any:
    """Raises: ProtocolViolationError when it is no fingerprint."""
    return checked(_Fingerprint, result, "fingerprint").value


def lazy(result: Any) -> tuple[str, ...]:
    """Raises: ProtocolViolationError when it is no list of input names."""
    return tuple(checked(_Lazy, result, "list of lazy inputs").names)


def hooked(result: Any) -> Any:
    """Raises: ProtocolViolationError when it is no answer of prompt handlers; what the body holds is not looked at."""
    return hostile_json.plain(checked(_Hooked, result, "answer of a prompt handler").body)
