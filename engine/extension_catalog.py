"""Which extension offers which node class, for one tenant; pure.

The core nodes keep their names whatever a pack calls its own: a pack must not take over LoadImage. Among packs the one
that was added last wins, as the last one loaded does in ComfyUI; what lost is said, not hidden.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from engine.registry import NodeType
from policies import ExtensionName, safe_text
from sandbox.calls import NodeDescription, NodeReplacement


@dataclass(frozen=True, slots=True)
class Offer:
    """What one ready extension offers."""

    extension: ExtensionName
    nodes: Mapping[str, NodeDescription]
    sequence: int
    core: bool = False
    group: str | None = None
    private_areas: frozenset[str] = frozenset()
    version: str = ""
    replacements: tuple[NodeReplacement, ...] = ()


@dataclass(frozen=True, slots=True)
class Catalog:
    """The outcome: node types by class, and per extension the classes of it that another one provides."""

    types: Mapping[str, NodeType] = field(default_factory=dict)
    hidden: Mapping[ExtensionName, Mapping[str, ExtensionName]] = field(default_factory=dict)

    def notes(self, extension: ExtensionName) -> tuple[str, ...]:
        """What the operator should know of this extension's lost names."""
        lost = self.hidden.get(extension, {})
        return tuple(
            f"node '{safe_text(class_type, 120)}' of this extension is not used: extension '{winner}' provides it "
            + ("(core nodes keep their names)" if winner == "core" else "(it was added later)")
            for class_type, winner in sorted(lost.items())
        )


def make_catalog(offers: Iterable[Offer]) -> Catalog:
    """Decide for every class who provides it."""
    types: dict[str, NodeType] = {}
    hidden: dict[ExtensionName, dict[str, ExtensionName]] = {}
    replaces: dict[str, dict[str, NodeReplacement]] = {}
    for offer in sorted(offers, key=lambda offer: (not offer.core, -offer.sequence)):
        for class_type, description in offer.nodes.items():
            if class_type in types:
                hidden.setdefault(offer.extension, {})[class_type] = types[class_type].extension
            else:
                types[class_type] = NodeType(
                    description,
                    offer.extension,
                    offer.core,
                    offer.group,
                    version=offer.version,
                    private_areas=offer.private_areas,
                )
        for item in offer.replacements:
            replaces.setdefault(item.new_node_id, {}).setdefault(item.old_node_id, item)
    for new, by_old in replaces.items():
        if new in types:
            types[new] = replace(types[new], replaces=tuple(by_old.values()))
    return Catalog(types, hidden)
