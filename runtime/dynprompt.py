"""The graph of a running prompt as a pack sees it: the submitted nodes and what expansions added.

A snapshot that came with the call: the engine's graph may have grown since, and what a pack changes here stays here.
"""

from __future__ import annotations

from typing import Any


class NodeNotFoundError(Exception):
    """No node of that id in the prompt or its expansions."""


class DynamicPrompt:
    """What a node receives for the hidden input ``DYNPROMPT``; ``comfy_execution.graph`` re-exports it."""

    def __init__(self, original_prompt: dict[str, Any]) -> None:
        self.original_prompt = original_prompt
        self.ephemeral_prompt: dict[str, Any] = {}
        self.ephemeral_parents: dict[str, str] = {}
        self.ephemeral_display: dict[str, str] = {}

    @classmethod
    def from_wire(cls, snapshot: dict[str, Any]) -> DynamicPrompt:
        """Build it from the ``dynprompt`` object of the call params (docs/protocol.md)."""
        nodes: dict[str, Any] = snapshot.get("nodes") or {}
        parents: dict[str, str] = snapshot.get("parents") or {}
        original = snapshot.get("original")
        if original is None:
            original = [node_id for node_id in nodes if node_id not in parents]
        prompt = cls({node_id: nodes[node_id] for node_id in original if node_id in nodes})
        prompt.ephemeral_prompt = {
            node_id: node for node_id, node in nodes.items() if node_id not in prompt.original_prompt
        }
        prompt.ephemeral_parents = dict(parents)
        prompt.ephemeral_display = dict(snapshot.get("displays") or {})
        return prompt

    def get_node(self, node_id: str) -> dict[str, Any]:
        """Return the live dict of a node.

        Raises:
            NodeNotFoundError: there is none of that id.
        """
        for nodes in (self.ephemeral_prompt, self.original_prompt):
            if node_id in nodes:
                node: dict[str, Any] = nodes[node_id]
                return node
        raise NodeNotFoundError(f"node {node_id!r} is not in this prompt")

    def has_node(self, node_id: str) -> bool:
        return node_id in self.original_prompt or node_id in self.ephemeral_prompt

    def add_ephemeral_node(
        self, node_id: str, node_info: dict[str, Any], parent_id: str, display_id: str
    ) -> None:
        self.ephemeral_prompt[node_id] = node_info
        self.ephemeral_parents[node_id] = parent_id
        self.ephemeral_display[node_id] = display_id

    def get_real_node_id(self, node_id: str) -> str:
        """The submitted node that ``node_id`` descends from (itself, if it was submitted)."""
        return self._climb(node_id, self.ephemeral_parents)

    def get_parent_node_id(self, node_id: str) -> str | None:
        return self.ephemeral_parents.get(node_id)

    def get_display_node_id(self, node_id: str) -> str:
        """The node that shows the progress and pictures of ``node_id``."""
        return self._climb(node_id, self.ephemeral_display)

    def all_node_ids(self) -> set[str]:
        return set(self.original_prompt) | set(self.ephemeral_prompt)

    def get_original_prompt(self) -> dict[str, Any]:
        return self.original_prompt

    @staticmethod
    def _climb(node_id: str, upward: dict[str, str]) -> str:
        seen: set[str] = set()
        while node_id in upward and node_id not in seen:
            seen.add(node_id)
            node_id = upward[node_id]
        return node_id
