"""``comfy_execution.graph_utils``: building the graph that a node expands into."""

from __future__ import annotations

import copy
from typing import Any

from ...blocker import ExecutionBlocker
from ...sdk import context

__all__ = ["ExecutionBlocker", "GraphBuilder", "Node", "add_graph_prefix", "is_link"]


def is_link(obj: object) -> bool:
    """True for ``["node id", output number]``."""
    return (
        isinstance(obj, list)
        and len(obj) == 2
        and isinstance(obj[0], str)
        and isinstance(obj[1], (int, float))
        and not isinstance(obj[1], bool)
    )


class GraphBuilder:
    """Collects nodes; ``finalize`` gives the graph for a result's ``expand``.

    Ids get a prefix, by default the id of the expanding node, the number of the mapped call and the number of the
    builder in it, so that they are the same every time: the cache of the children depends on that.
    """

    _default_prefix_root = ""
    _default_prefix_call_index = 0
    _default_prefix_graph_index = 0

    def __init__(self, prefix: str | None = None) -> None:
        self.prefix = GraphBuilder.alloc_prefix() if prefix is None else prefix
        self.nodes: dict[str, Node] = {}
        self.id_gen = 1

    @classmethod
    def set_default_prefix(cls, prefix_root: str, call_index: int, graph_index: int = 0) -> None:
        """The prefix of builders made outside a node call."""
        cls._default_prefix_root = prefix_root
        cls._default_prefix_call_index = call_index
        cls._default_prefix_graph_index = graph_index

    @classmethod
    def alloc_prefix(
        cls, root: str | None = None, call_index: int | None = None, graph_index: int | None = None
    ) -> str:
        """The next default prefix; of the running call, if there is one and nothing else is said."""
        call = context.current()
        if call is not None and root is None and call_index is None and graph_index is None:
            return call.next_graph_prefix()
        prefix = (
            f"{cls._default_prefix_root if root is None else root}."
            f"{cls._default_prefix_call_index if call_index is None else call_index}."
            f"{cls._default_prefix_graph_index if graph_index is None else graph_index}."
        )
        if graph_index is None:
            cls._default_prefix_graph_index += 1
        return prefix

    def node(self, class_type: str, id: str | None = None, **kwargs: Any) -> Node:
        """Add a node, or return the one that has this id already."""
        if id is None:
            id = str(self.id_gen)
            self.id_gen += 1
        full_id = self.prefix + id
        if full_id not in self.nodes:
            self.nodes[full_id] = Node(full_id, class_type, kwargs)
        return self.nodes[full_id]

    def lookup_node(self, id: str) -> Node | None:
        return self.nodes.get(self.prefix + id)

    def finalize(self) -> dict[str, Any]:
        return {node_id: node.serialize() for node_id, node in self.nodes.items()}

    def replace_node_output(self, node_id: str, index: int, new_value: Any) -> None:
        """Give every input that reads an output another value; None removes the input."""
        replaced = [self.prefix + node_id, index]
        for node in self.nodes.values():
            reading = [name for name, value in node.inputs.items() if is_link(value) and value == replaced]
            for name in reading:
                node.set_input(name, new_value)

    def remove_node(self, id: str) -> None:
        del self.nodes[self.prefix + id]


class Node:
    """A node of a graph under construction."""

    def __init__(self, id: str, class_type: str, inputs: dict[str, Any]) -> None:
        self.id = id
        self.class_type = class_type
        self.inputs = inputs
        self.override_display_id: str | None = None

    def out(self, index: int) -> list[Any]:
        """The link to an output."""
        return [self.id, index]

    def set_input(self, key: str, value: Any) -> None:
        """Set an input; None removes it."""
        if value is None:
            self.inputs.pop(key, None)
        else:
            self.inputs[key] = value

    def get_input(self, key: str) -> Any:
        return self.inputs.get(key)

    def set_override_display_id(self, override_display_id: str) -> None:
        """Show this node's progress and pictures on another node than the expanding one."""
        self.override_display_id = override_display_id

    def serialize(self) -> dict[str, Any]:
        elsewhere = self.override_display_id
        shown = {} if elsewhere is None else {"override_display_id": elsewhere}
        return {"class_type": self.class_type, "inputs": self.inputs, **shown}


def add_graph_prefix(
    graph: dict[str, Any], outputs: tuple[Any, ...] | list[Any], prefix: str
) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """A copy of a finished graph, and of links to it, with every node id prefixed."""

    def moved(value: Any) -> Any:
        return [prefix + value[0], value[1]] if is_link(value) else value

    new_graph = {}
    for node_id, node in graph.items():
        moved_node = copy.copy(node)
        moved_node["inputs"] = {name: moved(value) for name, value in node.get("inputs", {}).items()}
        new_graph[prefix + node_id] = moved_node
    return new_graph, tuple(moved(value) for value in outputs)
