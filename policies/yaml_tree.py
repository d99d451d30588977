"""YAML text to plain data with the position of every key and value, for small files from people.

Only what a policy needs: maps, lists, text, numbers, true and false. Everything that lets a small file mean a
large or surprising thing is refused by name: anchors and aliases (expansion bombs), tags (types by request),
merge keys, directives, several documents, duplicate keys (the last one would silently win), empty values.
ruamel.yaml's round-trip scanner reads the text; none of its constructors runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    NodeEvent,
)
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from policies.errors import PolicySyntaxError, Problem
from policies.text import safe_text

MAX_BYTES = 64 * 1024
MAX_DEPTH = 8
MAX_NODES = 4_000

Path = tuple[str | int, ...]
Position = tuple[int, int]

_PREFIX = "tag:yaml.org,2002:"
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}\Z")
_FLOAT = re.compile(r"[+-]?[0-9]{1,18}\.[0-9]{1,18}\Z")


@dataclass(frozen=True, slots=True)
class Tree:
    """A file as plain data, and where everything stands in it (line and column from 1)."""

    file: str
    data: dict[str, Any]
    keys: dict[Path, Position] = field(default_factory=dict)
    """Where the key stands; for a list item, where the item begins."""
    values: dict[Path, Position] = field(default_factory=dict)

    def line(self, path: Path) -> int:
        """The line of the key at `path`, or of the nearest thing around it; 1 for an empty file."""
        return self.position(path)[0]

    def position(self, path: Path, *, of_value: bool = False) -> Position:
        """Line and column of the key (or value) at `path`, or of the nearest thing around it."""
        if of_value and path in self.values:
            return self.values[path]
        while path:
            if path in self.keys:
                return self.keys[path]
            path = path[:-1]
        return (1, 1)


def parse_tree(raw: bytes, file: str) -> Tree:
    """Raises: PolicySyntaxError, with the position, for whatever is not plain YAML of a sane size."""
    if len(raw) > MAX_BYTES:
        limit = f"{MAX_BYTES // 1024}KiB"
        raise _refused(file, 1, 1, f"the file has {len(raw)} bytes", f"a policy has at most {limit}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise _refused(file, line, 1, "this is not UTF-8 text", "save the file as UTF-8") from None
    try:
        root = _composed(text, file)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problem = safe_text(str(error.problem or error.context or "it cannot be read"), 200)
        raise _refused(file, line, column, f"this is not YAML: {problem}", _yaml_hint(problem)) from None
    except YAMLError as error:  # the reader's: characters YAML does not allow
        problem = safe_text(str(error).splitlines()[0], 200)
        raise _refused(file, 1, 1, f"this is not YAML: {problem}", "remove control characters") from None
    except PolicySyntaxError:
        raise
    except Exception:  # noqa: BLE001
        # The scanner trips over its own feet on some malformed text (OverflowError, IndexError, ...); a parser of
        # foreign text has one way to fail.
        raise _refused(
            file, 1, 1, "this is not YAML", "check the file with an editor that knows YAML"
        ) from None
    tree = Tree(file, {})
    if root is None or (isinstance(root, ScalarNode) and not root.value and not root.style):
        return tree  # nothing but comments
    if not isinstance(root, MappingNode):
        raise _refused(file, 1, 1, "a policy is a map of keys", "write lines such as 'memory: 512MiB'")
    tree.data.update(_mapping(root, (), tree))
    return tree


def _composed(text: str, file: str) -> Node | None:
    """The text is scanned once: scanning is nearly all of what reading costs."""
    yaml = YAML(typ="rt", pure=True)
    root: Node | None = _Composer(yaml, list(_checked(yaml.parse(text), file))).get_single_node()
    return root


class _Composer(Composer):
    """Makes nodes of events that were parsed already."""

    def __init__(self, yaml: YAML, events: Sequence[Event]) -> None:
        super().__init__(loader=yaml)
        self._replay = _Replay(events)

    @property
    def parser(self) -> _Replay:
        return self._replay


class _Replay:
    """Stands in for the parser before the composer: the same events once more."""

    def __init__(self, events: Sequence[Event]) -> None:
        self._events = events
        self._at = 0

    def check_event(self, *kinds: type[Event]) -> bool:
        return self._at < len(self._events) and isinstance(self._events[self._at], kinds)

    def peek_event(self) -> Event:
        return self._events[self._at]

    def get_event(self) -> Event:
        self._at += 1
        return self._events[self._at - 1]


def _checked(events: Iterable[Event], file: str) -> Iterator[Event]:
    depth = nodes = documents = 0
    for event in events:
        yield event
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        if isinstance(event, DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise _refused(file, line, column, "a second document begins here", "remove '---'")
            if event.version or event.tags:
                raise _refused(file, line, column, "directives are not allowed", "remove the line with '%'")
        if isinstance(event, CollectionEndEvent):
            depth -= 1
        if not isinstance(event, NodeEvent):
            continue
        if isinstance(event, AliasEvent) or event.anchor is not None:
            raise _refused(file, line, column, "anchors and aliases are not allowed", "write the value out")
        if getattr(event, "tag", None) is not None:
            raise _refused(file, line, column, "tags are not allowed", "remove the word that begins with '!'")
        nodes += 1
        depth += isinstance(event, CollectionStartEvent)
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            limits = f"at most {MAX_DEPTH} levels and {MAX_NODES} values"
            raise _refused(file, line, column, "the file is too deep or too long", f"a policy has {limits}")


def _mapping(node: MappingNode, path: Path, tree: Tree) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line, column = _start(key_node)
        if key_node.tag == _PREFIX + "merge":
            raise _refused(tree.file, line, column, "merge keys ('<<') are not allowed", "write the keys out")
        if not isinstance(key_node, ScalarNode) or key_node.tag != _PREFIX + "str":
            raise _refused(tree.file, line, column, "a key is a word", "write 'key: value'")
        key: str = key_node.value
        if key in result:
            first = tree.keys[(*path, key)][0]
            message = f"'{safe_text(key, 60)}' is written twice (first in line {first})"
            raise _refused(tree.file, line, column, message, "keep one of the two")
        here = (*path, key)
        tree.keys[here] = (line, column)
        result[key] = _value(value_node, here, tree)
    return result


def _value(node: Node, path: Path, tree: Tree) -> Any:
    tree.values[path] = _start(node)
    if isinstance(node, MappingNode):
        return _mapping(node, path, tree)
    if isinstance(node, SequenceNode):
        items: list[Any] = []
        for index, item in enumerate(node.value):
            tree.keys[(*path, index)] = _start(item)
            items.append(_value(item, (*path, index), tree))
        return items
    return _scalar(node, path, tree)


def _scalar(node: Node, path: Path, tree: Tree) -> str | int | float | bool:
    text: str = node.value
    line, column = _start(node)
    kind = str(node.tag).removeprefix(_PREFIX)
    if kind == "null":
        # An empty value usually is a forgotten one; guessing "default" or "none" would be wrong half the time.
        line, column = tree.position(path)
        what = f"'{safe_text(str(path[-1]), 60)}' has no value" if path else "there is no value"
        raise _refused(tree.file, line, column, what, "write one, or remove the line")
    if kind == "bool":
        return text.lower() == "true"
    if kind in ("int", "float"):
        if _INTEGER.match(text):
            return int(text)
        if _FLOAT.match(text):
            return float(text)
        shown = safe_text(text, 60)
        hint = "write a decimal number such as 4 or 0.5, or put text in quotes"
        raise _refused(tree.file, line, column, f"'{shown}' is not a plain number", hint)
    return text  # "str", and what looks like a date: to a policy it is text


def _start(node: Node) -> Position:
    return (node.start_mark.line + 1, node.start_mark.column + 1)


def _yaml_hint(problem: str) -> str:
    if "\\t" in problem or "tab" in problem:
        return "indent with spaces"
    return "check indentation, colons and quotes here"


def _refused(file: str, line: int, column: int, message: str, hint: str) -> PolicySyntaxError:
    return PolicySyntaxError(file, [Problem(line, column, message, hint)])
