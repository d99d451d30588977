"""What the OpenAPI document says of our own routes, and of what every route may answer: bodies, kinds, refusals.

ComfyUI's routes are described in ``openapi.py``; what stands here is merged in after them.
"""

from __future__ import annotations

from typing import Any

JSON = Any
_TEXT = {"type": "string"}
_FILE = {"type": "string", "format": "binary"}


def _form(*required: str, **properties: JSON) -> dict[str, JSON]:
    schema: dict[str, JSON] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = list(required)
    return {"required": bool(required), "content": {"multipart/form-data": {"schema": schema}}}


def _object(*required: str, **properties: JSON) -> dict[str, JSON]:
    schema = {"type": "object", "required": list(required), "properties": properties}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


_SCOPES = {"type": "array", "items": {"enum": ["run", "upload", "admin"]}, "minItems": 1}
_NAME = {"type": "string", "description": "Small letters, digits and '-'"}
#: What our own routes take.
BODIES: dict[tuple[str, str], dict[str, JSON]] = {
    ("post", "/ringfence/v1/extensions"): _form(
        archive=_FILE, git=_TEXT, name=_TEXT, policy=_TEXT, origin=_TEXT, pin=_TEXT
    ),
    ("post", "/ringfence/v1/extensions/{name}/reload"): _form(
        archive=_FILE, origin=_TEXT, pin=_TEXT, upgrade={"enum": ["true", "false"]}
    ),
    ("post", "/ringfence/v1/policies/check"): {
        "required": True,
        "content": {"application/yaml": {"schema": _TEXT}},
    },
    ("post", "/ringfence/v1/tenants"): _object("name", name=_NAME),
    ("post", "/ringfence/v1/tokens"): _object(
        "name", "scopes", name=_NAME, scopes=_SCOPES, expires_s={"type": "integer", "minimum": 1}
    ),
}
#: What they answer where it is no JSON, or where more than one status is a success.
KINDS: dict[tuple[str, str], str] = {
    ("post", "/ringfence/v1/extensions"): "application/x-ndjson",
    ("post", "/ringfence/v1/extensions/{name}/reload"): "application/x-ndjson",
    ("post", "/ringfence/v1/extensions/{name}/update"): "application/x-ndjson",
    ("post", "/ringfence/v1/policies/{extension}/learn"): "application/x-ndjson",
    ("get", "/ringfence/v1/extensions/{name}/sbom"): "application/vnd.cyclonedx+json",
    ("get", "/ringfence/v1/audit/events"): "application/x-ndjson",
    ("get", "/metrics"): "text/plain",
}
#: Where one kind of refusal is a plain line, as ComfyUI's own is.
PLAIN = {("get", "/userdata"): "400", ("post", "/userdata/{_file}"): "409"}
CREATED = frozenset((("post", "/ringfence/v1/tenants"), ("post", "/ringfence/v1/tokens")))
OPEN = frozenset(("/healthz", "/readyz"))
_REF = "#/components/schemas/"
#: By tag: the form in which a route says no; errors know the path only, and only /ringfence/ has our own.
_FORMS = {"ComfyUI": "ComfyError", "Comfy API v2": "ErrorEnvelope", "Ringfence": "Refusal"}
_EVERYWHERE = {
    "400": "The request cannot be understood",
    "401": "With tenants: no valid token",
    "403": "The token's scopes do not reach here, or the request comes from another site",
    "429": "Too many requests; see `Retry-After`",
}
_WITH_BODY = {"413": "The body is larger than the limit that the answer names"}
_MORE = {
    "4XX": "Refused: `code` for programs, `message` and `hint` for people",
    "503": "Something that the answer needs is not there now; see `Retry-After`",
    "507": "No room left",
}


def complete(document: dict[str, JSON]) -> None:
    """Bodies, kinds of answers and refusals, for every operation."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _settle_json(operation)
            if body := BODIES.get((method, path)):
                operation["requestBody"] = body
            _kind(operation, method, path)
            _refusals(operation, path)
            if status := PLAIN.get((method, path)):
                operation["responses"][status]["content"]["text/plain"] = {"schema": _TEXT}


def _settle_json(operation: dict[str, JSON]) -> None:
    """FastAPI writes our content type with its charset, and that of a stream for its refusals; those are JSON."""
    for status, answer in operation["responses"].items():
        content = answer.get("content", {})
        for kind in ("application/json; charset=utf-8", *(["text/event-stream"] if status >= "4" else [])):
            if kind in content:
                content["application/json"] = content.pop(kind)


def _kind(operation: dict[str, JSON], method: str, path: str) -> None:
    responses = operation["responses"]
    if kind := KINDS.get((method, path)):
        responses["200"]["content"] = {kind: {"schema": _TEXT}}
    if (method, path) in CREATED:
        responses["201"] = {**responses.pop("200"), "description": "It was made"}


def _refusals(operation: dict[str, JSON], path: str) -> None:
    (tag,) = operation["tags"]
    form = {
        "application/json": {"schema": {"$ref": _REF + ("ComfyError" if path == "/metrics" else _FORMS[tag])}}
    }
    said: dict[str, str] = {} if path in OPEN else dict(_EVERYWHERE)
    if "requestBody" in operation:
        said |= _WITH_BODY
    if tag == "Ringfence" and path not in OPEN:
        said |= _MORE
    responses = operation["responses"]
    for status, text in said.items():
        answer = responses.setdefault(status, {"description": text})
        if "content" not in answer:
            answer["content"] = form
    operation["responses"] = dict(sorted(responses.items()))
