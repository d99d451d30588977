"""The graph of one run: submitted nodes, the nodes that expansions add, and who displays whom.

Pure data with links resolved. What runs when is ``plan.py``; how results of children are merged is ``splice.py``.
Submitted nodes hold JSON constants, added ones hold ``Value``s, since an expansion may carry live values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from engine.errors import ExpansionError
from engine.prompt import Link, as_link
from engine.registry import NodeType
from policies import NameInvalidError, parse_node_id, safe_text
from sandbox import record
from sandbox.calls import ExpandedCall, ExpandedNode, Value

JSON = Any


@record
class GraphNode:
    """One node instance.

    ``links`` are the inputs fed by other nodes, ``constants`` all others. A raw link is among the constants, since the
    node gets the link itself, and in ``raw_links`` too: its source runs first and counts for the result. For a node of
    an expansion ``parent`` is the node that expanded; ``display`` is the node that clients show for it and ``real`` its
    topmost submitted ancestor, both resolved to the end. For a submitted node both are itself.
    """

    node_id: str
    node_type: NodeType
    class_type: str  # the name of its class
    constants: Mapping[str, JSON | Value]
    links: Mapping[str, Link]
    raw_links: Mapping[str, Link]
    sources: Mapping[str, Link]
    """Every input that names another node: what this node depends on."""
    instance: str
    """The key of its V1 object in a worker: children of one parent share nothing with those of another, nor do prompts
    whose objects are kept apart."""
    parent: str | None
    display: str
    real: str
    is_changed: JSON = None  # what the submitted entry said, if it did
    has_is_changed: bool = False
    depth: int = 0  # expansions above it; 0 for a submitted node


class Graph:
    """All nodes of one run by id."""

    def __init__(
        self, prompt: Mapping[str, Mapping[str, JSON]], types: Mapping[str, NodeType], owner: str = ""
    ) -> None:
        self._types = types
        self._prefix = f"{owner}/" if owner else ""
        """Of the keys of V1 objects that are one prompt's own."""
        self.original: tuple[str, ...] = tuple(prompt)
        self.nodes: dict[str, GraphNode] = {}
        self.replaced: list[GraphNode] = []  # by an expansion that had to be done again
        self._displays: dict[str, str] = {}  # of added nodes, one step, as DynamicPrompt tells it
        for node_id, entry in prompt.items():
            node_type = types[entry["class_type"]]
            links, constants, raw_links = _sorted_inputs(entry["inputs"], node_type)
            has_is_changed = "is_changed" in entry
            # By place: names take longer, and there are many nodes.
            self.nodes[node_id] = GraphNode(
                node_id,
                node_type,
                node_type.description.class_type,
                constants,
                links,
                raw_links,
                {**links, **raw_links} if raw_links else links,
                self._prefix + node_id,
                None,
                node_id,
                node_id,
                entry["is_changed"] if has_is_changed else None,
                has_is_changed,
            )

    def __getitem__(self, node_id: str) -> GraphNode:
        return self.nodes[node_id]

    @property
    def added(self) -> int:
        """How many nodes expansions have added."""
        return len(self.nodes) - len(self.original)

    def expand(self, parent: GraphNode, calls: Iterable[ExpandedCall], *, limit: int) -> list[GraphNode]:
        """Add the nodes of an expansion and return them, in the order in which they were given.

        Raises:
            ExpansionError: a bad or taken id, an unknown class, a link into nowhere, or more than ``limit`` nodes.
                Nothing was added then.
        """
        given = [(child_id, child) for call in calls for child_id, child in (call.expand or {}).items()]
        who = f"extension '{parent.node_type.extension}', node '{safe_text(parent.class_type, 80)}'"
        if self.added + len(given) > limit:
            raise ExpansionError(
                f"{who}: its expansion takes the prompt to {self.added + len(given)} added nodes; the limit is {limit}",
                hint="let it loop less often, or raise the engine's limit of added nodes",
            )
        new: dict[str, GraphNode] = {}
        displays: dict[str, str] = {}
        for child_id, child in given:
            known = self.nodes.get(child_id)
            if child_id in new or (known is not None and known.parent != parent.node_id):
                raise ExpansionError(
                    f"{who}: its expansion uses the node id {safe_text(child_id, 80)!r} twice",
                    hint="ids of an expansion must be new to the prompt: a GraphBuilder's prefix makes them so",
                    kind="execution.DuplicateNodeError",
                )
            new[child_id] = self._child(child_id, child, parent, who)
            displays[child_id] = child.override_display_id or parent.node_id
        for node in new.values():
            for link in node.links.values():
                if link.source not in new and link.source not in self.nodes:
                    raise ExpansionError(
                        f"{who}: its expansion links to {safe_text(link.source, 80)!r}, no known node",
                        kind="comfy_execution.graph.NodeNotFoundError",
                    )
        self.replaced += [self.nodes[child_id] for child_id in new if child_id in self.nodes]
        self.nodes.update(new)
        self._displays.update(displays)
        return list(new.values())

    def _child(self, child_id: str, child: ExpandedNode, parent: GraphNode, who: str) -> GraphNode:
        try:
            parse_node_id(child_id)
        except NameInvalidError as error:
            raise ExpansionError(f"{who}: its expansion holds a bad node id: {error}") from None
        node_type = self._types.get(child.class_type)
        if node_type is None:
            name = safe_text(child.class_type, 80)
            raise ExpansionError(
                f"{who}: its expansion needs the node class '{name}', which no extension provides",
                hint="add the extension that does",
                kind="KeyError",
            )
        links, constants, raw_links = _sorted_inputs(child.inputs, node_type)
        display = parent.display
        override = child.override_display_id
        if override is not None:
            shown = self.nodes.get(override)
            display = override if shown is None else shown.display
        return GraphNode(
            child_id,
            node_type,
            node_type.description.class_type,
            constants,
            links,
            raw_links,
            {**links, **raw_links},
            f"{self._prefix}{parent.node_id}/{child_id}",
            parent.node_id,
            display,
            parent.real,
            depth=parent.depth + 1,
        )

    def snapshot(self) -> JSON:
        """The graph as DynamicPrompt shows it to nodes; values that are not plain JSON read as None."""
        nodes: dict[str, JSON] = {}
        for node_id, node in self.nodes.items():
            inputs: dict[str, JSON] = {
                name: (None if value.objects or value.handles else value.tree)
                if isinstance(value, Value)
                else value
                for name, value in node.constants.items()
            }
            inputs.update({name: [link.source, link.slot] for name, link in node.links.items()})
            nodes[node_id] = {"class_type": node.class_type, "inputs": inputs}
        parents = {node_id: node.parent for node_id, node in self.nodes.items() if node.parent is not None}
        return {
            "nodes": nodes,
            "parents": parents,
            "displays": dict(self._displays),
            "original": list(self.original),
        }


def _sorted_inputs(
    inputs: Mapping[str, JSON | Value], node_type: NodeType
) -> tuple[dict[str, Link], dict[str, JSON | Value], dict[str, Link]]:
    links: dict[str, Link] = {}
    constants: dict[str, JSON | Value] = {}
    raw_links: dict[str, Link] = {}
    raw = node_type.description.raw_link
    for name, value in inputs.items():
        tree = value.tree if isinstance(value, Value) else value
        link = as_link(tree) if isinstance(tree, list) else None
        if link is not None and name not in raw:
            links[name] = link
            continue
        constants[name] = value
        if link is not None:
            raw_links[name] = link
    return links, constants, raw_links
