"""The extensions that this worker has loaded, and their node classes by name."""

from __future__ import annotations

import itertools
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import failures, loader, plain, schema, wire
from .loader import Extension, NodeClass
from .loop import LoopThread
from .peer import RpcError

#: Rests of descriptions that wait to be asked for.
_MAX_RESTS = 4
_MAX_ROUTES = 1000
_MAX_REPLACEMENTS = 1000


class Catalogue:
    """One per worker; a sandbox group loads several extensions into it."""

    def __init__(self) -> None:
        self._extensions: dict[str, Extension] = {}
        self._rests: OrderedDict[int, list[_Page]] = OrderedDict()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

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
        described = self._first(_pages([extension], None))
        return {
            "api": extension.api,
            **described,
            "web_directory": extension.web_directory,
            "routes": [
                {"method": route.method[:16], "path": plain.clean(route.path)[:1024]}
                for route in extension.routes[:_MAX_ROUTES]
            ],
            "prompt_handlers": min(len(extension.prompt_handlers), _MAX_ROUTES),
            "notes": [plain.clean(note) for note in extension.notes],
            "node_replacements": plain.to_json(extension.node_replacements[:_MAX_REPLACEMENTS]),
        }

    def describe(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Answer ``extension/describe``: evaluate anew, or hand out the next page of an earlier answer.

        Raises:
            RpcError: there is no such rest (any more).
        """
        more = params.get("more")
        if more is None:
            return self._first(_pages(self._named(params), params.get("class_types")))
        with self._lock:
            rest = self._rests.pop(more, None)
        if rest is None:
            raise RpcError(wire.INVALID_PARAMS, "these descriptions are not kept any more; ask for all anew")
        return self._first(rest)

    def _first(self, pages: list[_Page]) -> dict[str, Any]:
        """The first page; the others are kept under a number."""
        first, *rest = pages
        more = None
        if rest:
            with self._lock:
                more = next(self._numbers)
                self._rests[more] = rest
                while len(self._rests) > _MAX_RESTS:
                    self._rests.popitem(last=False)
        return {"nodes": first.nodes, "skipped": first.skipped, "more": more}

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
        """The class that call params name: members of a group may use one name for different classes.

        Raises:
            RpcError: no loaded extension has it (UNKNOWN_NODE).
        """
        class_type = params.get("class_type")
        named = self._extensions.get(params.get("extension", ""))
        if named is not None and type(class_type) is str and class_type in named.nodes:
            return named.nodes[class_type]
        if isinstance(class_type, str):
            for extension in reversed(self._named(params)):
                if class_type in extension.nodes:
                    return extension.nodes[class_type]
        raise RpcError(wire.UNKNOWN_NODE, f"no node {plain.clean(str(class_type))[:200]!r} is loaded here")

    def _named(self, params: Mapping[str, Any]) -> list[Extension]:
        """The extension that is meant; all when none is named."""
        name = params.get("extension")
        if name is None:
            return list(self._extensions.values())
        return [self._extensions[name]] if name in self._extensions else []


@dataclass(slots=True)
class _Page:
    """What fits one answer."""

    nodes: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    size: int = 0


def _pages(extensions: list[Extension], class_types: list[str] | None) -> list[_Page]:
    """The descriptions of all nodes, in as many pages as they need; there is always one."""
    pages = [_Page()]

    def page_for(size: int) -> _Page:
        if pages[-1].size and pages[-1].size + size > wire.MAX_PAGE:
            pages.append(_Page())
        pages[-1].size += size
        return pages[-1]

    for extension in extensions:
        skipped: dict[str, str] = {}
        total = 0
        for node in loader.describe(extension, class_types):
            size = len(json.dumps(node)) + 1
            if size > wire.MAX_PAGE:
                skipped[node["class_type"]] = (
                    f"its description has {size} bytes, at most {wire.MAX_PAGE} may be; offer shorter lists of options"
                )
            elif total + size > wire.MAX_DESCRIPTIONS:
                skipped[node["class_type"]] = (
                    f"the descriptions of this extension's nodes would have {total + size} bytes, at most "
                    f"{wire.MAX_DESCRIPTIONS} may be; offer shorter lists of options"
                )
            else:
                total += size
                page_for(size).nodes.append(node)
        for class_type, error in (extension.skipped | skipped).items():
            entry = {"class_type": plain.clean(class_type)[: schema.MAX_NAME], "error": error}
            page_for(len(json.dumps(entry)) + 1).skipped.append(entry)
    return pages
