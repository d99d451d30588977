"""What packs bring for the web page: scripts, translations, example workflows, subgraphs. Files only, no pack's code.

All of it is read from the host's own copy of a pack, whose directory is named for its content and never changes; links
are not followed. Scripts need the policy's ``web_files``, because they run with the user's rights in the user's
browser; the rest is data that the page shows.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

import orjson

from api.bodies import BodyError, parse_json
from api.errors import dump_json
from api.trees import Tree
from engine import PackFiles
from policies import RingfenceError, safe_text
from sandbox import parse_toml

log = logging.getLogger(__name__)

JSON = Any

TEMPLATE_FOLDERS = ("example_workflows", "example", "examples", "workflow", "workflows")
_LOCALE_FILES = ("main", "nodeDefs", "commands", "settings")
_FILE_BYTES = 2 * 1024 * 1024
_ALL_BYTES = 32 * 1024 * 1024
_PROJECT_BYTES = 256 * 1024
_LISTED = 5_000  # scripts, templates or subgraphs of one pack
_DEPTH, _NODES, _ALL_NODES = 64, 200_000, 1_000_000
_CACHED_BYTES = 64 * 1024 * 1024
_ENTRY = 4096  # what remembering one takes besides


@dataclass(frozen=True, slots=True)
class WebRoot:
    """One web directory under the name that its URLs have."""

    name: str
    pack: PackFiles
    directory: str
    is_listed: bool = True

    @property
    def tree(self) -> Tree:
        """The pack's files."""
        return Tree(self.pack.code)

    def path(self, below: str) -> str:
        """A file's path in the pack."""
        return f"{self.directory}/{below}" if self.directory else below


def web_roots(packs: Sequence[PackFiles]) -> list[WebRoot]:
    """The web directories that may be served; of two packs that want one name the first has it. Blocks."""
    roots: dict[str, WebRoot] = {}
    for pack in packs:
        if not pack.web_files:
            continue
        wanted: list[WebRoot] = []
        said = _relative(pack.web_directory)
        if said is not None:
            wanted.append(WebRoot(pack.name, pack, said))
            if pack.given != pack.name:
                wanted.append(WebRoot(pack.given, pack, said, is_listed=False))
        project, declared = _project(pack)
        if project and declared is not None:
            wanted.append(WebRoot(project, pack, declared, is_listed=declared != said))
        for root in wanted:
            roots.setdefault(root.name, root)
    return list(roots.values())


def scripts(packs: Sequence[PackFiles]) -> list[str]:
    """URL paths of the scripts that the page shall load. Blocks."""
    found: list[str] = []
    for root in web_roots(packs):
        if not root.is_listed:
            continue
        paths = sorted(path for path in _files(root.tree, root.directory) if path.endswith(".js"))
        found += [f"/extensions/{quote(root.name)}/{quote(path)}" for path in paths[:_LISTED]]
    return found


class PackTexts:
    """Translations, templates and subgraphs of packs as JSON, remembered by their contents. Every method blocks."""

    def __init__(self, *, max_bytes: int = _CACHED_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()  # every request is a thread of its own
        self._made: OrderedDict[tuple[Any, ...], bytes] = OrderedDict()
        self._bytes = 0

    def translations(self, packs: Sequence[PackFiles]) -> bytes:
        """``{language: texts}``, merged over packs in the order of their names."""
        return self._remembered("i18n", packs, _translations)

    def templates(self, packs: Sequence[PackFiles]) -> bytes:
        """Names of example workflows by pack."""
        return self._remembered("templates", packs, _templates)

    def subgraphs(self, packs: Sequence[PackFiles]) -> bytes:
        """Subgraphs by id, with their content."""
        return self._remembered("subgraphs", packs, _subgraphs)

    def subgraph(self, packs: Sequence[PackFiles], identity: str) -> JSON | None:
        """One of them."""
        return orjson.loads(self.subgraphs(packs)).get(identity)

    def _remembered(
        self, kind: str, packs: Sequence[PackFiles], make: Callable[[Sequence[PackFiles]], JSON]
    ) -> bytes:
        # A copy's directory is named for its content, so its path says all.
        ordered = sorted(packs, key=lambda pack: pack.name)
        key = (kind, *((pack.name, str(pack.code)) for pack in ordered))
        with self._lock:
            known = self._made.get(key)
            if known is not None:
                self._made.move_to_end(key)
                return known
        made = dump_json(make(ordered))
        with self._lock:
            if key not in self._made:
                self._made[key] = made
                self._bytes += _ENTRY + len(made)
            while self._bytes > self._max_bytes:
                self._bytes -= _ENTRY + len(self._made.popitem(last=False)[1])
        return made


def template_file(packs: Sequence[PackFiles], name: str, file: str) -> int | None:
    """A descriptor of an example workflow or its picture, for the caller to close; None when there is none. Blocks."""
    for pack in packs:
        if name not in (pack.name, pack.given):
            continue
        for folder in TEMPLATE_FOLDERS:
            try:
                return Tree(pack.code).open_file(f"{folder}/{file}")
            except RingfenceError:
                continue
    return None


def _translations(packs: Sequence[PackFiles]) -> dict[str, JSON]:
    merged: dict[str, JSON] = {}
    budget = _Budget()
    for pack in packs:
        tree = Tree(pack.code)
        for language in sorted(entry.path for entry in _entries(tree, "locales") if entry.is_directory):
            for name in _LOCALE_FILES:
                texts = _json(tree, f"locales/{language}/{name}.json", budget, pack)
                if isinstance(texts, dict):
                    _merge(merged.setdefault(language, {}), texts if name == "main" else {name: texts})
    return merged


def _templates(packs: Sequence[PackFiles]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for pack in packs:
        tree = Tree(pack.code)
        names = [
            PurePosixPath(entry.path).stem
            for folder in TEMPLATE_FOLDERS
            for entry in sorted(_entries(tree, folder), key=lambda entry: entry.path)
            if not entry.is_directory and entry.path.endswith(".json")
        ]
        if names:
            found[pack.name] = list(dict.fromkeys(names))[:_LISTED]
    return found


def _subgraphs(packs: Sequence[PackFiles]) -> dict[str, JSON]:
    found: dict[str, JSON] = {}
    budget = _Budget()
    for pack in packs:
        tree = Tree(pack.code)
        for entry in sorted(_entries(tree, "subgraphs"), key=lambda entry: entry.path)[:_LISTED]:
            if entry.is_directory or not entry.path.endswith(".json"):
                continue
            path = f"subgraphs/{entry.path}"
            if _json(tree, path, budget, pack) is None:
                continue
            identity = hashlib.sha256(f"custom_node{pack.name}/{path}".encode()).hexdigest()
            found[identity] = {
                "source": "custom_node",
                "name": PurePosixPath(path).stem,
                "info": {"node_pack": f"custom_nodes.{pack.name}"},
                "data": tree.read(path, limit=_FILE_BYTES).decode("utf-8", "replace"),
            }
    return found


@dataclass(slots=True)
class _Budget:
    left: int = _ALL_BYTES
    nodes: int = _ALL_NODES


def _json(tree: Tree, path: str, budget: _Budget, pack: PackFiles) -> JSON | None:
    """A small JSON file's value; what is missing, too large or no JSON counts as not there (and is logged)."""
    try:
        raw = tree.read(path, limit=min(_FILE_BYTES, budget.left))
        budget.left -= len(raw)
        value = parse_json(raw, max_depth=_DEPTH, max_nodes=min(_NODES, budget.nodes))
        budget.nodes -= raw.count(b"[") + raw.count(b"{") + raw.count(b",")
        return value
    except RingfenceError as error:
        if isinstance(error, BodyError) or error.code == "file-refused":
            log.warning("extension %s: %s is not used: %s", pack.name, safe_text(path, 200), error)
        return None


def _entries(tree: Tree, folder: str) -> list[Any]:
    try:
        return tree.entries(folder)
    except RingfenceError:
        return []  # no such folder, or a link


def _files(tree: Tree, folder: str) -> Iterator[str]:
    try:
        yield from (entry.path for entry in tree.entries(folder, recurse=True))
    except RingfenceError:
        return


def _merge(into: dict[str, JSON], more: dict[str, JSON]) -> None:
    for key, value in more.items():
        known = into.get(key)
        if isinstance(known, dict) and isinstance(value, dict):
            _merge(known, value)
        elif isinstance(known, list) and isinstance(value, list):
            into[key] = [*known, *value]
        else:
            into[key] = _copied(value)


def _copied(value: JSON) -> JSON:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return list(value) if isinstance(value, list) else value


def _relative(directory: str | None) -> str | None:
    """A web directory as its pack (or its worker) wrote it, as a path below the pack; None when it is not."""
    if directory is None:
        return None
    parts = [part for part in directory.split("/") if part not in ("", ".")]
    if directory.startswith("/") or ".." in parts or not parts:
        return None  # the pack itself is no web directory: its Python files are nobody's to read
    return "/".join(parts)


def _project(pack: PackFiles) -> tuple[str | None, str | None]:
    """The project's name and its ``[tool.comfy] web``."""
    try:
        project = parse_toml(Tree(pack.code).read("pyproject.toml", limit=_PROJECT_BYTES).decode("utf-8"))
    except (RingfenceError, ValueError):
        return None, None
    section = project.get("project")
    tool = project.get("tool")
    comfy = tool.get("comfy") if isinstance(tool, dict) else None
    name = section.get("name") if isinstance(section, dict) else None
    web = comfy.get("web") if isinstance(comfy, dict) else None
    if not isinstance(name, str) or not isinstance(web, str) or not 0 < len(name) <= 200 or "/" in name:
        return None, None
    return name, _relative(web.removeprefix("./"))
