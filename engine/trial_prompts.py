"""A prompt for each node that can be run without knowing what it does: constants from its declaration, and made values.

Constants are a node's own defaults, the first option of a list, a short text. Pictures, masks and latents come from
core nodes, values of a pack's own types from another node of the same pack. Its outputs go to a node that takes
anything, so that they also cross a border. Pure: a catalogue (``/object_info``) in, graphs out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

JSON = Any

DEPTH: Final = 3
"""Of nodes that make values for a node."""
CONSTANTS: Final = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "NUMBER"})
TARGET: Final = "target"
"""Id of the node that the prompt is about."""
_SHOWN: Final = 4


class UnfillableError(Exception):
    """An input has no value."""


@dataclass(frozen=True, slots=True)
class Made:
    """A value of a type, from a core node."""

    class_type: str
    inputs: Mapping[str, JSON]
    slot: int = 0


SOURCES: Final[Mapping[str, Made]] = {
    "MASK": Made("SolidMask", {"value": 1.0, "width": 64, "height": 48}),
    "IMAGE": Made("EmptyImage", {"width": 64, "height": 48, "batch_size": 1, "color": 8421504}),
    "LATENT": Made("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}),
    "*": Made("PrimitiveString", {"value": "text"}),
    "AUDIO": Made("EmptyAudio", {"duration": 1.0, "sample_rate": 44100, "channels": 2}),
}


@dataclass
class Maker:
    """Makes prompts from a catalogue."""

    catalogue: Mapping[str, JSON]
    sources: Mapping[str, Made] = field(default_factory=lambda: SOURCES)
    favourite: str | None = None
    """Of a list of files, this one where it is there."""
    producers: dict[str, list[tuple[str, int]]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for class_type, info in self.catalogue.items():
            for slot, declared in enumerate(info["output"]):
                if isinstance(declared, str):
                    self.producers[declared].append((class_type, slot))

    def prompt(self, class_type: str) -> dict[str, JSON]:
        """A prompt that runs one node. Raises: UnfillableError."""
        graph: dict[str, JSON] = {}
        target = self._node(class_type, graph, 0)
        graph[TARGET] = graph.pop(target)
        info = self.catalogue[class_type]
        if not info["output_node"]:
            if not info["output"]:
                raise UnfillableError("it has no output and is none")
            for slot in range(min(len(info["output"]), _SHOWN)):
                graph[f"show{slot}"] = {"class_type": "PreviewAny", "inputs": {"source": [TARGET, slot]}}
        return graph

    def _node(self, class_type: str, graph: dict[str, JSON], depth: int) -> str:
        info = self.catalogue[class_type]
        inputs = {
            name: self._value(name, declared, info, graph, depth)
            for name, declared in (info["input"].get("required") or {}).items()
        }
        node_id = f"n{len(graph)}"
        graph[node_id] = {"class_type": class_type, "inputs": inputs}
        return node_id

    def _value(
        self, name: str, declared: JSON, info: Mapping[str, JSON], graph: dict[str, JSON], depth: int
    ) -> JSON:
        kind = declared[0] if isinstance(declared, list | tuple) and declared else declared
        options = declared[1] if isinstance(declared, list | tuple) and len(declared) > 1 else {}
        options = options if isinstance(options, dict) else {}
        choices = kind if isinstance(kind, list | tuple) else options.get("options")
        if isinstance(choices, list | tuple):
            return self._choice(name, choices, options, info)
        if not isinstance(kind, str):
            raise UnfillableError(f"{name}: a declaration of {kind!r:.60}")
        kind = next(
            (part for part in kind.split(",") if part in CONSTANTS or part in self.sources),
            kind.split(",")[0],
        )
        if kind in CONSTANTS:
            return _constant(kind, options)
        if kind in self.sources and self.sources[kind].class_type in self.catalogue:
            source = self.sources[kind]
            node = {"class_type": source.class_type, "inputs": dict(source.inputs)}
            graph.setdefault(f"core_{source.class_type}", node)
            return [f"core_{source.class_type}", source.slot]
        return self._made(name, kind, info, graph, depth)

    def _choice(
        self, name: str, choices: Sequence[JSON], options: Mapping[str, JSON], info: Mapping[str, JSON]
    ) -> JSON:
        if not choices:
            raise UnfillableError(f"{name}: an empty list (no such file here)")
        if self.favourite is not None and self.favourite in choices:
            return self.favourite
        default = options.get("default")
        if default in choices:
            return default
        first = choices[0]
        if isinstance(first, dict):
            raise UnfillableError(f"{name}: options with inputs of their own ({info['name']})")
        return first

    def _made(
        self, name: str, kind: str, info: Mapping[str, JSON], graph: dict[str, JSON], depth: int
    ) -> JSON:
        if depth >= DEPTH:
            raise UnfillableError(f"{name}: {kind} needs too many nodes")
        own = [made for made in self.producers[kind] if module(self.catalogue[made[0]]) == module(info)]
        others = [made for made in self.producers[kind] if module(self.catalogue[made[0]]) == "nodes"]
        for class_type, slot in (*own, *others):
            if class_type == info["name"]:
                continue
            trial = dict(graph)
            try:
                node_id = self._node(class_type, trial, depth + 1)
            except UnfillableError:
                continue
            graph.update(trial)
            return [node_id, slot]
        raise UnfillableError(f"{name}: nothing makes a {kind}")


def _constant(kind: str, options: Mapping[str, JSON]) -> JSON:
    if "default" in options and options["default"] is not None:
        return options["default"]
    if kind in ("INT", "FLOAT", "NUMBER"):
        return max(1, options.get("min") or 0)
    return False if kind == "BOOLEAN" else "text"


def module(info: Mapping[str, JSON]) -> str:
    """The extension of a node, ``nodes`` for core."""
    return str(info["python_module"]).removeprefix("custom_nodes.")
