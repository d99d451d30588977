"""The extensions that this worker has loaded, and their node classes by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from . import failures, loader, plain, schema, wire
from .loader import Extension, NodeClass
from .loop import LoopThread
from .peer import RpcError

#: Bytes of descriptions in one answer.
_MAX_DESCRIPTIONS = wire.MAX_FRAME - 512 * 1024
_MAX_ROUTES = 1000


class Catalogue:
    """One per worker; a sandbox group loads several extensions into it."""

    def __init__(self) -> None:
        self._extensions: dict[str, Extension] = {}
        self._nodes: dict[str, NodeClass] = {}

    def load(self, params: Mapping[str, Any], loop: LoopThread) -> dict[str, Any]:
        """Answer ``extension/load``; on the main thread. A second time nothing is imported again.

        Raises:
            RpcError: the import raised, exited, or found no nodes (LOAD_FAILED).
        """
        name = str(params["name"])
        extension = self._extensions.get(name)
        if extension is None:
            try:
                extension = loop.run_here(
                    loader.load(
                        name, params["path"], params.get("module_name"), core=bool(params.get("core"))
                    )
                )
            except BaseException as error:  # also sys.exit at import: the worker lives on
                raise failures.load_failed(error) from error
            self._extensions[name] = extension
        described = _describe([extension], None)
        self._nodes.update(extension.nodes)
        return {
            "api": extension.api,
            **described,
            "web_directory": extension.web_directory,
            "routes": [
                {"method": route.method[:16], "path": plain.clean(route.path)[:1024]}
                for route in extension.routes[:_MAX_ROUTES]
            ],
            "prompt_handlers": min(len(extension.prompt_handlers), _MAX_ROUTES),
            "node_replacements": extension.node_replacements[:_MAX_ROUTES],
            "notes": [plain.clean(note) for note in extension.notes],
        }

    def describe(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Answer ``extension/describe``."""
        return _describe(list(self._extensions.values()), params.get("class_types"))

    def extension(self, name: Any) -> Extension:
        """The loaded extension of that name.

        Raises:
            RpcError: there is none.
        """
        extension = self._extensions.get(name) if isinstance(name, str) else None
        if extension is None:
            raise RpcError(
                wire.INVALID_PARAMS, f"no extension {plain.clean(str(name))[:200]!r} is loaded here"
            )
        return extension

    def hook_prompt(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Answer ``prompt/hook``: pass a prompt through the extension's handlers, each of which may change it."""
        body = params["body"]
        for handler in self.extension(params.get("name")).prompt_handlers:
            try:
                body = handler(body)
            except BaseException as error:  # noqa: BLE001 - as in ComfyUI it is logged and the prompt goes on
                failures.print_to_log(error, "a prompt handler failed")
        return {"body": plain.to_json(body)}

    def node(self, params: Mapping[str, Any]) -> NodeClass:
        """The class that call params name.

        Raises:
            RpcError: no loaded extension has it (UNKNOWN_NODE).
        """
        class_type = params.get("class_type")
        node = self._nodes.get(class_type) if isinstance(class_type, str) else None
        if node is None:
            raise RpcError(
                wire.UNKNOWN_NODE, f"no node {plain.clean(str(class_type))[:200]!r} is loaded here"
            )
        return node


def _describe(extensions: list[Extension], class_types: list[str] | None) -> dict[str, Any]:
    """The descriptions that fit one answer; the rest is named among the skipped."""
    nodes: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    size = 0
    for extension in extensions:
        for node in loader.describe(extension, class_types):
            size += len(json.dumps(node))
            if size > _MAX_DESCRIPTIONS:
                skipped[node["class_type"]] = (
                    "the declarations of the nodes together are too long for one answer"
                )
            else:
                nodes.append(node)
        skipped |= extension.skipped
    return {
        "nodes": nodes,
        "skipped": [
            {"class_type": plain.clean(class_type)[: schema.MAX_NAME], "error": error}
            for class_type, error in skipped.items()
        ],
    }
