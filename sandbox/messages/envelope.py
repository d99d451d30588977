"""The envelope of what a worker says: request, notification or answer; and how a part is held to a model."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, TypeVar

from pydantic import Field, StringConstraints, ValidationError

from policies import safe_text
from runtime import wire
from sandbox import hostile_json
from sandbox.errors import ProtocolViolationError
from sandbox.records import record
from sandbox.strict import Strict

MAX_ID: Final = 2**53

Text = Annotated[str, StringConstraints(max_length=1_000_000)]
NodeId = Annotated[str, StringConstraints(min_length=1, max_length=wire.MAX_NODE_ID)]

# How every peer writes an answer. Only an answer may be long, and which it is must be known before it is parsed.
_ANSWER = re.compile(rb'\{"jsonrpc":"2\.0","id":[0-9]{1,16},"(?:result|error)":')

ModelT = TypeVar("ModelT", bound=Strict)


@record
class Request:
    """The worker asks for something; ``id`` is None for a notification."""

    id: int | None
    method: str
    params: dict[str, Any]


@record
class Answer:
    """The worker answers call ``id``; exactly one of the two is set (a result may be None)."""

    id: int
    result: Any = None
    error: RemoteError | None = None


class RemoteError(Strict):
    """The error object of an answer."""

    code: Annotated[int, Field(ge=-(2**31), lt=2**31)]
    message: Text
    data: Any = None


def short_answer(body: bytes) -> Answer | None:
    """The answer in a short frame that begins as our workers' answers do, as ``parse_message`` reads it.

    None: it is anything else, or broken; ``parse_message`` says what.
    """
    if _ANSWER.match(body) is None:
        return None
    tree = hostile_json.parse_shortly(body)
    # By now the first two keys are what they should be, and no key is there twice.
    if tree is not None and len(tree) == 3 and "result" in tree and tree["id"] <= MAX_ID:
        return Answer(tree["id"], tree["result"])
    try:
        message = parse_message(body)
    except ProtocolViolationError:
        return None
    return message if isinstance(message, Answer) else None


def parse_message(body: bytes) -> Request | Answer:
    """Read one frame.

    Raises:
        ProtocolViolationError: it is no JSON-RPC 2.0 request, notification or answer that a worker may send.
    """
    if len(body) > wire.MAX_NOTIFICATION and not _ANSWER.match(body):
        raise ProtocolViolationError(
            f"it sent a frame of {len(body)} bytes that is no answer; at most {wire.MAX_NOTIFICATION} are allowed"
        )
    tree = hostile_json.parse(body)
    if not isinstance(tree, dict) or tree.get("jsonrpc") != "2.0":
        raise ProtocolViolationError("it sent a frame that is no JSON-RPC 2.0 object")
    keys = tree.keys() - {"jsonrpc"}
    if "method" in keys:
        return _request(tree, keys)
    identity = _id(tree)
    if keys == {"id", "result"}:
        return Answer(identity, result=tree["result"])
    if keys == {"id", "error"}:
        return Answer(identity, error=checked(RemoteError, tree["error"], "error"))
    raise ProtocolViolationError("it sent a frame that is neither request nor answer")


def _request(tree: dict[str, Any], keys: set[str]) -> Request:
    method, params = tree["method"], tree.get("params", {})
    if not keys <= {"id", "method", "params"} or not isinstance(params, dict) or not isinstance(method, str):
        raise ProtocolViolationError("it sent a malformed request")
    if method not in wire.WORKER_METHODS:
        raise ProtocolViolationError(f"it asked for {safe_text(method, 60)!r}, which a worker may not")
    return Request(_id(tree) if "id" in keys else None, method, params)


def _id(tree: dict[str, Any]) -> int:
    identity = tree.get("id")
    if type(identity) is not int or not 0 <= identity <= MAX_ID:
        raise ProtocolViolationError("it sent a frame whose id is no number of ours")
    return identity


def checked(model: type[ModelT], data: Any, what: str) -> ModelT:
    """``data`` as ``model``.

    Raises:
        ProtocolViolationError: it does not fit; names the first place that does not.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = safe_text(".".join(str(part) for part in first["loc"]), 120)
        raise ProtocolViolationError(
            f"it sent a bad {what}: {place or 'it'}: {safe_text(first['msg'], 200)}"
        ) from None
