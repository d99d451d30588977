"""Imports an extension the way ComfyUI does, V1 or V3, and holds its node classes.

The caller runs ``load`` as a coroutine on the main thread: packs may ask for the running loop while they are
imported, and libraries that want the main thread find it.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from . import failures, schema, throwaway
from .sdk import paths, registry


@dataclass(slots=True)
class NodeClass:
    """A node class under the name that it is registered by."""

    class_type: str
    cls: Any
    display_name: str | None
    is_async: bool = False
    """As of its last description; decides on which thread its function runs."""


@dataclass(slots=True)
class Extension:
    """A loaded extension."""

    name: str
    api: str
    nodes: dict[str, NodeClass] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """Classes that cannot be used -> why."""
    web_directory: str | None = None
    routes: list[registry.Route] = field(default_factory=list)
    prompt_handlers: list[Any] = field(default_factory=list)
    node_replacements: list[dict[str, Any]] = field(default_factory=list)
    """Old node classes that it names successors for."""
    notes: list[str] = field(default_factory=list)


class NoNodesError(Exception):
    """The module declares no nodes in any way known."""

    __module__ = "ringfence"  # as shown to users


async def load(name: str, path: str, module_name: str | None, *, core: bool) -> Extension:
    """Import the extension at ``path`` (a directory or a single file).

    ``module_name`` is what its classes say of themselves (``custom_nodes.<folder>``). A core extension is loaded in
    place: it is ours, and writes nothing into its folder.

    Raises:
        BaseException: whatever the extension raised while it was imported.
    """
    extension = Extension(name, "v1")
    relative_name = module_name or f"custom_nodes.{name}"
    place = Path(path) if core else _working_copy(Path(path), relative_name, extension)
    registry.take_routes()
    handlers, replacements = len(registry.prompt_handlers), len(registry.node_replacements)
    registry.loading = name
    try:
        _run_prestartup(place, extension)
        known = dict(registry.node_classes)
        module = _import(place)
        extension.web_directory = _web_directory(module, place)
        await _collect(module, extension)
    finally:
        registry.loading = None
    _take_patched_in(known, extension)
    extension.routes = registry.take_routes()
    extension.prompt_handlers = registry.prompt_handlers[handlers:]
    extension.node_replacements = registry.node_replacements[replacements:]
    _register(extension, relative_name)
    return extension


def _working_copy(source: Path, relative_name: str, extension: Extension) -> Path:
    """Packs look for their own folder under ``custom_nodes`` by the name that it has in their repository."""
    _, _, folder = relative_name.rpartition(".")
    folder = source.name if source.is_file() else folder or extension.name
    copy = throwaway.make(source, Path(paths.custom_nodes(), folder))
    if copy.note is not None:
        extension.notes.append(copy.note)
    # The import system remembers folders that were not there, and what the others held by their time of change, which
    # is no finer than the kernel's clock.
    for place in copy.path.parents:
        sys.path_importer_cache.pop(str(place), None)
    return copy.path


def _run_prestartup(place: Path, extension: Extension) -> None:
    """Run ``prestartup_script.py``; its failure is only logged, as in ComfyUI."""
    script = place / "prestartup_script.py"
    if not place.is_dir() or not script.is_file():
        return
    try:
        spec = importlib.util.spec_from_file_location(str(script.with_suffix("")), script)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except BaseException as error:  # noqa: BLE001 - sys.exit there is common and must not end the worker
        failures.print_to_log(error, "prestartup_script.py failed")
        extension.notes.append(f"prestartup_script.py failed: {type(error).__name__}: {error}"[:500])


def _import(place: Path) -> ModuleType:
    """Execute the extension's module under the name it has in ComfyUI: its path, dots replaced."""
    if place.is_dir():
        module_name, file = str(place).replace(".", "_x_"), place / "__init__.py"
    else:
        module_name, file = str(place.with_suffix("")), place
    if not file.is_file():
        raise FileNotFoundError(f"{file.name} is missing: this is not a node pack")
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file.name} is not a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    registry.module_directories[place.name] = str(place)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(module_name, None)
        raise
    return module


async def _collect(module: ModuleType, extension: Extension) -> None:
    """Read what the module declares: V1 mappings win over a V3 entry point, as in ComfyUI."""
    mappings = getattr(module, "NODE_CLASS_MAPPINGS", None)
    if mappings is not None:
        labels = getattr(module, "NODE_DISPLAY_NAME_MAPPINGS", None) or {}
        for class_type, declared in dict(mappings).items():
            cls = as_v3_of_a_name(declared)
            extension.nodes[str(class_type)] = NodeClass(str(class_type), cls, labels.get(class_type))
        registry.display_names.update(labels)
        return
    entrypoint = getattr(module, "comfy_entrypoint", None)
    early_draft = getattr(module, "NODES_LIST", None)
    if entrypoint is not None:
        classes = await _from_entrypoint(entrypoint)
    elif isinstance(early_draft, (list, tuple)):
        classes = list(early_draft)
    else:
        raise NoNodesError("the module has neither NODE_CLASS_MAPPINGS nor comfy_entrypoint")
    extension.api = "v3"
    for cls in classes:
        _add_v3(cls, extension)


async def _from_entrypoint(entrypoint: Any) -> list[Any]:
    declared = entrypoint()
    if inspect.isawaitable(declared):
        declared = await declared
    on_load = getattr(declared, "on_load", None)
    if on_load is not None:
        outcome = on_load()
        if inspect.isawaitable(outcome):
            await outcome
    classes = declared.get_node_list()
    if inspect.isawaitable(classes):
        classes = await classes
    if not isinstance(classes, list):
        raise TypeError(f"get_node_list returned {type(classes).__name__}; it must return a list of classes")
    return classes


def _add_v3(cls: Any, extension: Extension) -> None:
    try:
        adopt_draft_spelling(cls)
        cls = as_v3_of_a_name(cls)
        declaration = cls.GET_SCHEMA()
        class_type = str(declaration.node_id)
        label = declaration.display_name
    except Exception as error:  # noqa: BLE001 - one bad class must not take the others along
        failures.print_to_log(error, f"node class {getattr(cls, '__name__', cls)!s} is left out")
        extension.skipped[str(getattr(cls, "__name__", cls))] = _reason(error)
        return
    extension.nodes[class_type] = NodeClass(class_type, cls, label)


def adopt_draft_spelling(cls: Any) -> None:
    """Drafts of the V3 API wrote ``DEFINE_SCHEMA``; give such classes the method by its later name."""
    for ancestor in getattr(cls, "__mro__", ()):
        own = vars(ancestor)
        if "DEFINE_SCHEMA" in own and "define_schema" not in own:
            ancestor.define_schema = own["DEFINE_SCHEMA"]


def as_v3_of_a_name(cls: Any) -> Any:
    """A pack's V3 class that derives from one of core's that exists here by name only: the name has no base of V3."""
    from .compat._standins import is_stand_in

    if not any(map(is_stand_in, getattr(cls, "__mro__", ()))) or not hasattr(cls, "define_schema"):
        return cls
    from .compat.comfy_api.latest import io

    made = type(cls)(cls.__name__, (cls, io.ComfyNode), {"__module__": cls.__module__})
    made.__qualname__ = cls.__qualname__
    return made


def _take_patched_in(known: Mapping[str, Any], extension: Extension) -> None:
    """Packs also enter classes into ``nodes.NODE_CLASS_MAPPINGS`` by hand; those are theirs as well."""
    for class_type, cls in list(registry.node_classes.items()):
        if known.get(class_type) is not cls and not _is_stand_in(cls) and class_type not in extension.nodes:
            label = registry.display_names.get(class_type)
            extension.nodes[str(class_type)] = NodeClass(str(class_type), cls, label)


def _register(extension: Extension, relative_name: str) -> None:
    for node in extension.nodes.values():
        try:
            node.cls.RELATIVE_PYTHON_MODULE = relative_name
        except (AttributeError, TypeError):  # slots, odd metaclasses: the attribute is a courtesy
            pass
        if not _is_stand_in(registry.node_classes.get(node.class_type)):  # core names are protected
            registry.node_classes[node.class_type] = node.cls


def _is_stand_in(cls: Any) -> bool:
    return str(getattr(cls, "__module__", "")).startswith(f"{__package__}.compat")


def describe(extension: Extension, class_types: list[str] | None = None) -> list[dict[str, Any]]:
    """Describe the extension's nodes anew; classes whose declaration raises move to ``skipped`` until they stop."""
    described = []
    for node in list(extension.nodes.values()):
        if class_types is not None and node.class_type not in class_types:
            continue
        if (
            getattr(node.cls, "RINGFENCE_HIDDEN", False) is True
        ):  # for the host's own calls; no prompt can name it
            continue
        try:
            description = schema.describe(node.class_type, node.cls, node.display_name)
        except Exception as error:  # noqa: BLE001
            if node.class_type not in extension.skipped:
                failures.print_to_log(error, f"node {node.class_type} cannot be described")
            extension.skipped[node.class_type] = _reason(error)
            continue
        extension.skipped.pop(node.class_type, None)
        node.is_async = description["is_async"]
        described.append(description)
    return described


def _reason(error: BaseException) -> str:
    report = failures.describe(error, None)
    return f"{report['type']}: {report['message']}"[:1000]


def _web_directory(module: ModuleType, place: Path) -> str | None:
    """The folder with the extension's browser files, relative to the extension; None when it is not inside."""
    if not place.is_dir():
        return None
    candidates = [getattr(module, "WEB_DIRECTORY", None), _project_web(place / "pyproject.toml")]
    candidates += [path for path in registry.web_directories.values() if str(path).startswith(str(place))]
    for candidate in candidates:
        if not isinstance(candidate, (str, Path)) or not str(candidate):
            continue
        folder = (place / candidate).resolve()
        if folder.is_dir() and folder.is_relative_to(place.resolve()):
            return folder.relative_to(place.resolve()).as_posix()
    return None


def _project_web(file: Path) -> str | None:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    if "web" not in text or "comfy" not in text:
        return None  # so it is with most: no parser is needed to know it
    import tomllib

    try:
        project = tomllib.loads(text)
    except ValueError:
        return None
    web = (
        project.get("tool", {}).get("comfy", {}).get("web") if isinstance(project.get("tool"), dict) else None
    )
    return web if isinstance(web, str) else None
