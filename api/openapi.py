"""What the OpenAPI document says of ComfyUI's routes: one table, merged into what FastAPI derives from the code.

A test holds that every one of them stands here and that nothing else does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api import openapi_answers
from api import schemas as s

JSON = Any
_REF = "#/components/schemas/{model}"


@dataclass(frozen=True, slots=True)
class Doc:
    """One route: what it is for, what it takes, what it answers (a model, or a description of what is no JSON)."""

    summary: str
    answer: type[BaseModel] | str = s.AnyObject
    body: type[BaseModel] | dict[str, JSON] | None = None
    errors: Mapping[int, tuple[str, type[BaseModel] | None]] = field(default_factory=dict)
    """Which may happen; without a model the body is empty."""
    status: int = 200


def _form(file: str, **texts: str) -> dict[str, JSON]:
    properties: dict[str, JSON] = {
        name: {"type": "string", "description": text} for name, text in texts.items()
    }
    properties[file] = {"type": "string", "format": "binary"}
    return {"type": "object", "properties": properties, "required": [file]}


_EMPTY = "Done; the body is empty"
_BAD = {400: ("The request cannot be understood", s.ComfyError)}
_MISSING = {404: ("There is nothing of that name", s.ComfyError)}
_NOTHING = {404: ("There is nothing of that name; the body is empty", None)}
_PLACE = {403: ("The path leads out of its directory", s.ComfyError), **_BAD, **_MISSING}
_TAKEN = {409: ("Something of that name is there", s.ComfyError)}
_UPLOAD = {**_BAD, 413: ("Too large", s.ComfyError), 507: ("No room left", s.ComfyError)}
_UPLOAD_FORM = _form(
    "image", type="input (default), output or temp", subfolder="where", overwrite="true or 1 replaces"
)

COMFYUI: dict[tuple[str, str], Doc] = {
    ("get", "/prompt"): Doc("How many prompts are left", s.QueueInfo),
    ("post", "/prompt"): Doc(
        "Queue a prompt",
        s.PromptAnswer,
        s.PromptBody,
        {
            400: ("Malformed, or refused by validation", s.ComfyError),
            409: ("A prompt of this id is queued or runs", s.ComfyError),
            429: ("The queue is full; see Retry-After", s.ComfyError),
        },
    ),
    ("get", "/queue"): Doc("The queue", s.QueueAnswer),
    ("post", "/queue"): Doc("Remove waiting prompts", _EMPTY, s.ClearOrDelete, _BAD),
    ("post", "/interrupt"): Doc("Interrupt what runs", _EMPTY, s.Interrupt),
    ("post", "/free"): Doc("Let go of models and results", _EMPTY, s.Free, _BAD),
    ("get", "/history"): Doc("Prompts that ended", s.AnyObject, None, _BAD),
    ("post", "/history"): Doc("Forget prompts that ended", _EMPTY, s.ClearOrDelete, _BAD),
    ("get", "/history/{prompt_id}"): Doc("One prompt that ended, or {}"),
    ("get", "/object_info"): Doc("The node catalogue"),
    ("get", "/object_info/{class_type}"): Doc("One node class, or {}"),
    ("get", "/view"): Doc("A file", "The file, or the re-encoded picture", None, _PLACE),
    ("post", "/upload/image"): Doc("Upload a file", s.FileRef, _UPLOAD_FORM, _UPLOAD),
    ("post", "/upload/mask"): Doc(
        "Merge a mask into its picture",
        s.FileRef,
        _form(
            "image",
            original_ref="JSON with filename, subfolder and type of the picture",
            **{
                name: part["description"]
                for name, part in _UPLOAD_FORM["properties"].items()
                if name != "image"
            },
        ),
        {**_UPLOAD, **_PLACE},
    ),
    ("get", "/users"): Doc("Where user data is kept", s.UsersAnswer),
    ("post", "/users"): Doc("Create a user (there is one only)", s.Anything, s.AnyObject, _BAD),
    ("get", "/settings"): Doc("All settings"),
    ("post", "/settings"): Doc("Change settings", _EMPTY, s.AnyObject, _BAD),
    ("get", "/settings/{name}"): Doc("One setting, or null", s.Anything),
    ("post", "/settings/{name}"): Doc("Change one setting", _EMPTY, s.Anything, _BAD),
    ("get", "/userdata"): Doc("Files of the user's", s.Anything, None, _PLACE),
    ("get", "/v2/userdata"): Doc("Files and directories of the user's", s.Anything, None, _PLACE),
    ("get", "/userdata/{_file}"): Doc("A file of the user's", "The file", None, _PLACE),
    ("post", "/userdata/{_file}"): Doc(
        "Write a file of the user's, or move one (.../move/TARGET)",
        s.Anything,
        {"type": "string", "format": "binary"},
        {**_PLACE, **_TAKEN, **_UPLOAD},
    ),
    ("delete", "/userdata/{_file}"): Doc("Delete a file of the user's", _EMPTY, None, _PLACE, status=204),
    ("get", "/models"): Doc("Folders of models", s.Strings),
    ("get", "/models/{folder}"): Doc("Models in a folder", s.Strings, None, _MISSING),
    ("get", "/embeddings"): Doc("Names of embeddings", s.Strings),
    ("get", "/experiment/models"): Doc("Folders of models, with virtual paths", s.Anything),
    ("get", "/experiment/models/{folder}"): Doc("Models in a folder, with sizes", s.Anything, None, _MISSING),
    ("get", "/experiment/models/preview/{folder}/{path_index}/{filename}"): Doc(
        "A model's picture", "The picture as WebP", None, _NOTHING
    ),
    ("get", "/view_metadata/{folder}"): Doc("Metadata of a safetensors file", s.AnyObject, None, _NOTHING),
    ("get", "/system_stats"): Doc("The machine and the version", s.SystemStats),
    ("get", "/features"): Doc("Feature flags", s.Features),
    ("get", "/extensions"): Doc("Scripts that the web page loads", s.Strings),
    ("get", "/extensions/{name}/{path}"): Doc("A file of a pack's web directory", "The file", None, _MISSING),
    ("get", "/i18n"): Doc("Translations of packs"),
    ("get", "/workflow_templates"): Doc("Example workflows of packs"),
    ("get", "/api/workflow_templates/{pack}/{file}"): Doc(
        "An example workflow, or its picture", "The file", None, _MISSING
    ),
    ("get", "/global_subgraphs"): Doc("Subgraphs of packs, with their content"),
    ("get", "/global_subgraphs/{subgraph_id}"): Doc("One subgraph, or null", s.Anything),
    ("get", "/node_replacements"): Doc("Node classes that stand in for others"),
    ("get", "/api/jobs"): Doc(
        "Queue and history as one list", s.JobsAnswer, None, {400: ("Bad query", s.TextError)}
    ),
    ("get", "/api/jobs/{job_id}"): Doc("One job", s.Job, None, {404: ("No such job", s.TextError)}),
    ("post", "/api/jobs/{job_id}/cancel"): Doc("Cancel a job", s.Cancelled),
    ("post", "/api/jobs/cancel"): Doc(
        "Cancel several jobs", s.Cancelled, s.JobIds, {400: ("Malformed ids", s.TextError)}
    ),
    ("get", "/internal/logs"): Doc("What packs printed, as one text", s.Anything),
    ("get", "/internal/logs/raw"): Doc("What packs printed, line by line", s.LogsAnswer),
    ("patch", "/internal/logs/subscribe"): Doc("Hear of logs by WebSocket", _EMPTY, s.LogSubscription, _BAD),
    ("get", "/internal/folder_paths"): Doc("Virtual directories of models"),
    ("get", "/internal/files/{kind}"): Doc(
        "Files in a directory, newest first", s.Strings, None, {400: ("No such directory", s.TextError)}
    ),
}


def install(app: FastAPI) -> None:
    """Make the application's document say what stands above."""
    derived = app.openapi

    def document() -> dict[str, JSON]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(derived())
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _completed(document: dict[str, JSON]) -> dict[str, JSON]:
    components = document.setdefault("components", {})
    models = {part for doc in COMFYUI.values() for part in _models(doc)}
    _, described = models_json_schema(
        [(model, "serialization") for model in sorted(models, key=str)], ref_template=_REF
    )
    components.setdefault("schemas", {}).update(described.get("$defs", {}))
    components["securitySchemes"] = {
        "token": {
            "type": "http",
            "scheme": "bearer",
            "description": "A tenant's token; none in single-user mode",
        },
        "password": {
            "type": "http",
            "scheme": "basic",
            "description": "The token as the password, for clients that take http://user:token@host",
        },
        "session": {
            "type": "apiKey",
            "in": "cookie",
            "name": "ringfence",
            "description": "A browser's log-in, from the server's own page only; over TLS '__Host-ringfence'",
        },
    }
    document["security"] = [{"token": []}, {"password": []}, {"session": []}, {}]
    for (method, path), doc in COMFYUI.items():
        operation = document["paths"].get(path, {}).get(method)
        if operation is not None:
            _describe(operation, doc)
    for operations in document["paths"].values():
        for operation in operations.values():
            _without_default_errors(operation)
    openapi_answers.complete(document)
    return document


def _describe(operation: dict[str, JSON], doc: Doc) -> None:
    operation["summary"] = doc.summary
    responses: dict[str, JSON] = {str(doc.status): _answer(doc.answer)}
    if "206" in operation["responses"]:
        responses["206"] = operation["responses"]["206"]
    for status, (text, model) in sorted(doc.errors.items()):
        responses[str(status)] = {"description": text, **({"content": _json(model)} if model else {})}
    operation["responses"] = dict(sorted(responses.items()))
    if isinstance(doc.body, dict):
        kind = "multipart/form-data" if doc.body.get("type") == "object" else "application/octet-stream"
        operation["requestBody"] = {"required": True, "content": {kind: {"schema": doc.body}}}
    elif doc.body is not None:
        operation["requestBody"] = {"required": True, "content": _json(doc.body)}


def _without_default_errors(operation: dict[str, JSON]) -> None:
    """FastAPI says that a bad parameter is a 422 in its own form; here it is a 400 in the route's."""
    found = (
        operation["responses"].get("422", {}).get("content", {}).get("application/json", {}).get("schema", {})
    )
    if found.get("$ref", "").endswith("/HTTPValidationError"):
        del operation["responses"]["422"]
        operation["responses"].setdefault("400", {"description": "The request cannot be understood"})


def _answer(answer: type[BaseModel] | str) -> dict[str, JSON]:
    if isinstance(answer, str):
        content: dict[str, JSON] = {} if answer == _EMPTY else {"content": {"*/*": {}}}
        return {"description": answer, **content}
    return {"description": (answer.__doc__ or "").strip().splitlines()[0], "content": _json(answer)}


def _json(model: type[BaseModel]) -> dict[str, JSON]:
    return {"application/json": {"schema": {"$ref": _REF.format(model=model.__name__)}}}


def _models(doc: Doc) -> list[type[BaseModel]]:
    parts = (
        *(model for _, model in doc.errors.values() if model),
        s.ComfyError,
        s.Refusal,
        doc.answer,
        doc.body,
    )
    return [part for part in parts if isinstance(part, type)]
