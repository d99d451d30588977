"""Reading JSON bodies: strict, bounded in depth and number of values, whatever Content-Type ComfyUI's clients send.

The byte limit is the guard's; it holds before anything here runs.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import anyio
import orjson
from starlette.requests import ClientDisconnect, Request

from api.services import services_of
from api.threads import parse_work
from policies import RingfenceError, safe_text

_INLINE = 256 * 1024  # bytes; beyond, parsing would hold up the event loop noticeably
_LARGE = 1024 * 1024  # bytes; of these few are parsed at once
# What stands in a string is matched first, and so kept.
_STRING_OR_NO_NUMBER = re.compile(
    rb'("[^"\\]*+(?:\\.[^"\\]*+)*+"?)|-?\bInfinity\b|\bNaN\b', re.DOTALL
)  # a string without an end matches too, so that no quote in it is tried again


class BodyError(RingfenceError):
    """A request's body or parameters cannot be understood."""

    code = "invalid-request"


class BodyTooLargeError(BodyError):
    """A request is over a size limit."""

    code = "too-large"


class UrlTooLongError(BodyError):
    """The path with its query is over its limit."""

    code = "url-too-long"


class HeadersTooLargeError(BodyError):
    """There are too many headers, or they are too long."""

    code = "headers-too-large"


async def read_json(request: Request, *, empty: Any = None) -> Any:
    """The request's JSON; ``empty`` when there is no body and a default was given.

    Raises:
        BodyError: not JSON, or nested too deep.
    """
    raw = await _whole_body(request)
    if not raw.strip() and empty is not None:
        return empty
    settings = services_of(request).settings
    parse = partial(parse_json, raw, max_depth=settings.max_json_depth, max_nodes=settings.max_json_nodes)
    if len(raw) <= _INLINE:
        return parse()
    if len(raw) <= _LARGE:
        return await anyio.to_thread.run_sync(parse)
    return await parse_work(parse)


async def _whole_body(request: Request) -> bytes:
    # Nearly every body is one message, which the request's own reader hands on through two generators.
    message = await request.receive()
    parts: list[bytes] = []
    while message["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)
        message = await request.receive()
    raise ClientDisconnect


async def read_object(request: Request, *, optional: bool = False) -> dict[str, Any]:
    """The request's JSON object.

    Raises:
        BodyError: anything else.
    """
    value = await read_json(request, empty={} if optional else None)
    if not isinstance(value, dict):
        raise BodyError("the body must be a JSON object")
    return value


def parse_json(raw: bytes, *, max_depth: int, max_nodes: int) -> Any:
    """Parse strictly: no lone surrogates, no trailing text, bounded nesting and number of values.

    NaN and the infinities, which are not JSON, are read as null: pictures carry prompts with ``"is_changed": [NaN]``,
    and Python's clients send them back as they found them.

    Raises:
        BodyError: says where it stops being JSON.
    """
    # Each value becomes an object of many times its size, so they are counted before there are any. What stands in
    # strings is counted too: the limit is far beyond what anybody writes.
    brackets = raw.count(b"[") + raw.count(b"{")
    if brackets + raw.count(b",") > max_nodes:
        raise BodyError(
            f"the JSON has more than {max_nodes} values",
            hint="send less; whoever runs this server may raise RINGFENCE_MAX_JSON_NODES",
        )
    try:
        value = _loads(raw)
    except orjson.JSONDecodeError as error:
        raise BodyError("the body is not valid JSON", hint=safe_text(str(error), 200)) from None
    # Fewer brackets than the limit cannot nest deeper than it: nearly every body is done here.
    if brackets > max_depth:
        _refuse_depth(value, max_depth)
    return value


def string_list(value: Any, what: str, *, limit: int = 10_000) -> list[str]:
    """``value`` as a list of strings.

    Raises:
        BodyError: it is something else, or too long.
    """
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BodyError(f"{what} must be a list of strings")
    if len(value) > limit:
        raise BodyError(f"{what} has {len(value)} entries; the limit is {limit}")
    return value


def _loads(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        if len(raw) > _LARGE or (b"NaN" not in raw and b"Infinity" not in raw):
            raise
    return orjson.loads(_STRING_OR_NO_NUMBER.sub(lambda found: found[1] or b"null", raw))


def _refuse_depth(value: Any, max_depth: int) -> None:
    level: list[Any] = [value]
    for _ in range(max_depth):
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                deeper.extend(child for child in item.values() if isinstance(child, (dict, list)))
            elif isinstance(item, list):
                deeper.extend(child for child in item if isinstance(child, (dict, list)))
        if not deeper:
            return
        level = deeper
    raise BodyError(f"the JSON is nested deeper than {max_depth} levels")
